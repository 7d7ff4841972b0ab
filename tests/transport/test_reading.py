from __future__ import annotations

import asyncio
import time
from collections.abc import Generator

import numpy as np
import pytest
from federations import PATIENCE_S, until
from puppet import FEDERATION, begun, puppet, weights

from metisfl_async import Controller, ServerParams
from metisfl_async.codec.frame import Data, End, Header, encode, frames_of
from metisfl_async.codec.manifest import STEP
from metisfl_async.core.errors import Damaged
from metisfl_async.core.model import Manifest, Model
from metisfl_async.transport.grpc_link import GrpcLink
from metisfl_async.transport.reading import REST, OneAtATime, frames_in

MODEL = Model.from_arrays([np.arange(5)])
FRAMES = list(frames_of(Header("update", MODEL.manifest, 3), MODEL))


async def test_all_frames_of_a_chunk_are_read() -> None:
    assert await frames_in(encode(*FRAMES)) == FRAMES


@pytest.mark.parametrize("frame", [FRAMES[0], Data(40, memoryview(b"a")), End(bytes(16))])
async def test_a_frame_behind_the_end_frame_is_damage(frame: Header | Data | End) -> None:
    with pytest.raises(Damaged, match="after the end frame"):
        await frames_in(encode(*FRAMES, frame))


async def test_others_get_their_turn_while_many_tensors_are_read() -> None:
    manifest = Manifest.lay_out([(str(index), "int8", ()) for index in range(4 * STEP)])
    chunk, turns = encode(Header("update", manifest, 3)), 0
    del manifest  # what is known is not read again
    reading = asyncio.ensure_future(frames_in(chunk))
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 4


def work(name: str, done: list[str], count: int = 3) -> Generator[None, None, str]:
    """Take one step before it is known that there are more, and then so many."""
    yield
    for number in range(count):
        done.append(f"{name}{number}")
        yield
    return name


async def test_long_work_is_done_one_at_a_time_and_each_party_has_its_turn() -> None:
    one_at_a_time, done = OneAtATime(), list[str]()
    parties = {"a": "attacker", "b": "attacker", "c": "attacker", "d": "honest"}
    async with asyncio.timeout(PATIENCE_S):
        doing = (one_at_a_time.do(work(name, done), party) for name, party in parties.items())
        assert await asyncio.gather(*doing) == list(parties)
    assert done == [f"{name}{number}" for name in "adbc" for number in range(3)]


async def test_work_of_one_step_does_not_wait_and_what_fails_lets_the_next_one_on() -> None:
    def fails() -> Generator[None, None, str]:
        yield
        raise Damaged("header", "wrong")

    def is_short() -> Generator[None, None, str]:
        return "short"
        yield

    one_at_a_time, done = OneAtATime(), list[str]()
    async with asyncio.timeout(PATIENCE_S):
        long = asyncio.ensure_future(one_at_a_time.do(work("a", done, 1000), "party"))
        await asyncio.sleep(0)
        assert await one_at_a_time.do(is_short(), "party") == "short"
        assert not long.done()
        assert await long == "a"
        with pytest.raises(Damaged):
            await one_at_a_time.do(fails(), "party")
        assert await one_at_a_time.do(work("b", done), "party") == "b"


async def test_after_each_step_the_others_have_the_loop_for_some_times_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    rests, used = list[float](), iter([10.0, 10.5, 20.0, 21.0, 30.0, 30.25, 40.0, 40.0])

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    one_at_a_time = OneAtATime()
    monkeypatch.setattr(time, "thread_time", lambda: next(used))
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    await one_at_a_time.do(work("a", [], 2), "party")
    assert rests == [-100.0, REST * 0.5, REST * 1.0]
    await one_at_a_time.do(work("b", [], 0), "another")
    assert rests[3:] == [REST * 0.25]  # before the next work, not after the last


async def test_who_is_gone_after_a_step_spares_nobody_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time, done = OneAtATime(), list[str]()
    monkeypatch.setattr("metisfl_async.transport.reading.REST", 1e9)
    async with asyncio.timeout(PATIENCE_S):
        first = asyncio.ensure_future(one_at_a_time.do(work("a", done), "a"))
        await until(lambda: bool(done))
        first.cancel()
        second = asyncio.ensure_future(one_at_a_time.do(work("b", done), "b"))
        await asyncio.wait([first])
        for _ in range(5):
            await asyncio.sleep(0)
        assert done == ["a0"]
        second.cancel()


async def test_a_controller_reads_headers_of_updates_and_of_first_weights_so(monkeypatch: pytest.MonkeyPatch) -> None:
    parties = list[object]()
    do = OneAtATime.do

    async def noted(self: OneAtATime, steps: Generator[None, None, object], party: object) -> object:
        parties.append(party)
        return await do(self, steps, party)

    monkeypatch.setattr(OneAtATime, "do", noted)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        driver = GrpcLink(controller.client_params)
        await driver.set_initial_model(FEDERATION, MODEL)
        of_driver = set(parties)
        assert len(of_driver) == 1
        await begun(driver, Model.from_arrays(weights(0)))
        async with puppet(controller, "a") as learner:
            offer = await learner.task()
            assert (await learner.push(learner.frames(offer, weights(1)))).is_taken
        await driver.close()
    assert len(set(parties) - of_driver) == 1  # nobody is known by name: it is who connects
