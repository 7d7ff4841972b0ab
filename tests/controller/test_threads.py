from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from metisfl_async.controller.threads import INLINE_BYTES, Threads
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, CompensatedSum, Sum
from metisfl_async.core.strategies.aggregation.spreading import spread, spreading


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
@pytest.mark.parametrize("count", [0, 1, BLOCK, 7 * BLOCK, 8 * BLOCK, 12 * BLOCK + 1, 33 * BLOCK - 1])
def test_every_element_is_worked_on_once(cores: int, count: int) -> None:
    threads = Threads(cores)
    touched = np.zeros(count, np.int64)

    def touch(part: slice) -> None:
        touched[part] += 1

    threads.spread(touch, count)
    threads.close()
    assert (touched == 1).all()


def test_long_work_is_done_in_as_many_threads_as_there_are_cores() -> None:
    threads, together = Threads(2), threading.Barrier(2, timeout=30)

    def meet(_: slice) -> None:
        together.wait()  # one alone would wait for ever

    threads.spread(meet, 8 * BLOCK)
    threads.close()


async def test_what_a_rule_spreads_is_done_in_those_threads() -> None:
    threads, together = Threads(2), threading.Barrier(2, timeout=30)
    await threads.work(INLINE_BYTES, spread, lambda _: together.wait(), 8 * BLOCK)
    threads.close()
    touched: list[slice] = []
    spread(touched.append, 8 * BLOCK)  # here, nobody has any
    assert touched == [slice(0, 8 * BLOCK)]


@pytest.mark.parametrize("failing", [0, 4 * BLOCK])
def test_what_goes_wrong_in_any_thread_is_raised_once_all_have_ended(failing: int) -> None:
    threads, ended = Threads(2), threading.Event()

    def work(part: slice) -> None:
        if part.start == failing:
            raise ValueError("no")
        ended.set()

    with pytest.raises(ValueError, match="no"):
        threads.spread(work, 8 * BLOCK)
    assert ended.is_set()
    threads.close()


def test_no_thread_stays() -> None:
    before = set(threading.enumerate())  # those of earlier tests may end meanwhile
    threads = Threads(4)
    threads.spread(lambda _: None, 100 * BLOCK)
    assert set(threading.enumerate()) - before
    threads.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("kind", [Sum, CompensatedSum])
def test_a_sum_is_the_same_bit_for_bit_in_any_number_of_threads(kind: type[Sum]) -> None:
    rng = np.random.default_rng(1)
    models = [Model.from_arrays([rng.standard_normal(20 * BLOCK + 3)]) for _ in range(3)]

    def total(threads: Threads) -> NDArray[np.float64]:
        made = kind(models[0].manifest)
        with spreading(threads.spread):
            for weight, model in enumerate(models, 1):
                made.add(model, weight)
            made.scale(0.5)
            mean = made.divided_by(3.0, 1).arrays()[0]
        threads.close()
        return mean

    np.testing.assert_array_equal(total(Threads(3)), total(Threads(1)))


@pytest.mark.parametrize("kind", [Sum, CompensatedSum])
def test_a_sum_that_was_cleared_is_zero_whatever_its_memory_holds(kind: type[Sum]) -> None:
    model = Model.from_arrays([np.full(3, 1e300)])
    made = kind(model.manifest)
    made.scale(2.0)
    made.add(model, 1.0)
    made.clear()
    made.scale(1e300)  # would overflow
    made.add(model, 2.0)
    np.testing.assert_array_equal(made.divided_by(2.0, 1).arrays()[0], model.arrays()[0])
