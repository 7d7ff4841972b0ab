"""A federation on a disk of which any operation fails once: it stands still, goes on, and nothing else changes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from failing import Failing
from testing.recorded import Trains

from metisfl_async import ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.events import StoreRecovered, StoreStalled, UpdateCounted
from metisfl_async.testing import Federation, run

pytestmark = pytest.mark.slow

CONFIG = ControllerConfig(evaluate_every=0)

#: For each: how it is configured, when it ends, how many learners there are, and whether statements fail late.
MODES: dict[str, tuple[ControllerConfig, TerminationSignals, int, bool]] = {
    "FedAdam": (replace(CONFIG, aggregation_rule="FedAdam"), TerminationSignals(federation_rounds=2), 2, False),
    "FedRec, late": (
        replace(CONFIG, aggregation_rule="FedRec", scheduler="Asynchronous"),
        TerminationSignals(global_updates=2),
        1,
        True,
    ),
}


@dataclass(frozen=True)
class Course:
    """What came of a federation."""

    model: Sequence[bytes]
    counted: Counter[tuple[int, str]]
    records: Sequence[tuple[int, bool, list[str]]]
    stalled: int
    recovered: int


async def course(mode: str, directory: Path, failing: Failing, number: int) -> Course:
    """Run one in which the n-th operation of the disk fails, from its start until its driver has the result."""
    config, signals, count, failing.is_late = MODES[mode]
    store = ModelStoreConfig(model_store="Disk", directory=directory)
    learners = [Trains(2**index, takes=1.0) for index in range(count)]
    async with Federation(learners, signals, controller_config=config, model_store_config=store) as fed:
        failing.arm(number)
        try:
            result = await fed.result()
        finally:
            failing.disarm()
    events = fed.events
    assert result.final_model is not None
    return Course(
        [array.tobytes() for array in result.final_model],
        Counter((event.number, event.learner) for event in events if isinstance(event, UpdateCounted)),
        [(record.number, record.is_published, record.participants) for record in result.rounds],
        sum(isinstance(event, StoreStalled) for event in events),
        sum(isinstance(event, StoreRecovered) for event in events),
    )


@pytest.mark.parametrize("mode", MODES)
def test_whichever_operation_fails_once_the_federation_goes_on_as_if_it_had_not(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # it may fail, but need not take its time
    failing = Failing(monkeypatch)
    undisturbed = run(course(mode, tmp_path / "0", failing, 1_000_000))
    assert undisturbed.stalled == undisturbed.recovered == 0
    wrong, stalled, number = dict[int, str](), 0, 1
    while True:
        try:
            found = run(course(mode, tmp_path / f"{number}", failing, number))
        except Exception as error:  # noqa: BLE001 - all that go wrong are named
            wrong[number] = repr(error)
        else:
            if not failing.has_happened:
                break
            stalled += found.stalled
            if replace(found, stalled=0, recovered=0) != undisturbed or found.stalled != found.recovered:
                wrong[number] = repr(found)
        number += 1
    assert not wrong, "\n".join(f"{number}: {text}" for number, text in wrong.items())
    assert stalled > 0
