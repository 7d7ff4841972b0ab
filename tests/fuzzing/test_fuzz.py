"""A short run with fixed seeds of what `make fuzz` does for hours."""

from __future__ import annotations

from random import Random

import pytest
from fuzz import inputs, try_one
from mutations import MOST_BYTES, spoiled
from targets import TARGETS

from metisfl_async.transport._proto import metisfl_pb2 as pb

pytestmark = pytest.mark.slow

COUNT = 10_000  #: inputs of each target: some seconds in all
#: What stands inside other messages, or is read elsewhere: Chunk has targets of its own, Empty says nothing.
INSIDE = {
    *(
        "Accept",
        "Answer",
        "BestModel",
        "Chunk",
        "Empty",
        "Contributor",
        "Evaluated",
        "Failed",
        "Farewell",
        "Heartbeat",
        "HeldTask",
        "Hello",
        "NamedLearner",
    ),
    *("Question", "Settled", "TaskOffer", "TaskVerdict", "TerminationSignals", "Welcome", "Withdrawn"),
}


def test_every_message_has_a_target() -> None:
    assert set(pb.DESCRIPTOR.message_types_by_name) - INSIDE <= set(TARGETS)
    assert not INSIDE & set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_not_spoiled_is_read(name: str) -> None:
    TARGETS[name].read(TARGETS[name].seeds[0])


@pytest.mark.parametrize("seed", [1990, 2026])
@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_bytes_are_read_or_refused_by_a_documented_error(name: str, seed: int) -> None:
    for data in inputs(name, seed, COUNT):
        try_one(TARGETS[name], data)


def test_the_same_seed_spoils_the_same_way() -> None:
    seeds = [b"abc" * 10_000]
    assert [spoiled(seeds, Random(1)) for _ in range(3)] == [spoiled(seeds, Random(1)) for _ in range(3)]
    assert all(len(spoiled(seeds, Random(number))) <= MOST_BYTES for number in range(200))
