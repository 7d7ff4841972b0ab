"""Evaluations behind relays: each hospital's is at the top, and the means are those of the hospitals by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from federations import Adds, nothing_left_behind
from relay.regions import region, top

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    RoundRecord,
    TerminationSignals,
)
from metisfl_async.core.federation.events import LearnerEvaluated
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult

SIGNALS = TerminationSignals(federation_rounds=2)
REGIONS = {"north": range(3), "south": range(3, 6)}


class Measures(Adds):
    """Measures something of its own; one more metric if its number is odd, and if it counts, on how many examples."""

    def __init__(self, number: int, *, counts: bool) -> None:
        super().__init__(number)
        self.counts = counts

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        score = float(parameters[0][0]) / self.number
        measured = {"score": score, **({"odd": score**2} if self.number % 2 else {})}
        return measured | ({"num_examples": 10.0 * self.number} if self.counts else {})


class Blind(Adds):
    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        raise RuntimeError("no data to look at")


def sites(numbers: Iterable[int], counting: Iterable[int]) -> dict[str, Measures]:
    return {f"site-{number}": Measures(1 + number, counts=number in counting) for number in numbers}


async def flat(learners: Iterable[Adds]) -> FederationResult:
    those = list(learners)
    return await DriverSession(Controller(None, ControllerConfig(min_learners=len(those))), those, SIGNALS).run()


async def evaluated(session: DriverSession) -> list[LearnerEvaluated]:
    return [event async for event in session.events() if isinstance(event, LearnerEvaluated)]


def assert_same(record: RoundRecord, other: RoundRecord, regions: Mapping[str, str]) -> None:
    """Hold a tree to what the same learners measured by themselves, to float precision."""
    assert record.evaluation_metrics == pytest.approx(other.evaluation_metrics, rel=1e-12)
    assert record.evaluation_weighted_by == other.evaluation_weighted_by
    assert record.evaluations == {regions[name]: measured for name, measured in other.evaluations.items()}


@pytest.mark.parametrize(
    ("counting", "weighted_by"),
    [(range(6), "num_examples"), ((), "scaling_factor"), (range(3), "scaling_factor"), (range(5), "scaling_factor")],
    ids=["all say how many", "none", "one region", "all but one"],
)
async def test_the_means_over_two_regions_are_those_of_the_six_by_themselves(
    counting: Iterable[int], weighted_by: str
) -> None:
    expected = await flat(sites(range(6), counting).values())
    async with nothing_left_behind(), top(2) as controller:
        north, south = (
            region(controller.client_params, name, sites(numbers, counting)) for name, numbers in REGIONS.items()
        )
        async with north, south:
            session = DriverSession(controller, 2, SIGNALS)
            watching = asyncio.create_task(evaluated(session))
            result = await session.run()
            events = await watching
    names = [f"learner-{number}" for number in range(6)]
    regions = {name: f"{'north' if number < 3 else 'south'}/site-{number}" for number, name in enumerate(names)}
    for record, other in zip(result.rounds, expected.rounds, strict=True):
        assert record.evaluation_weighted_by == weighted_by
        assert_same(record, other, regions)
    assert sorted((event.number, event.learner, event.num_learners) for event in events) == [
        *((number, name, 3) for number in (1, 2) for name in REGIONS),
    ]
    said: Any = result.rounds[0].learners["north"].evaluation_metadata["contributors"]
    assert {name: each["weight"] for name, each in said.items()} == {"site-0": 1.0, "site-1": 2.0, "site-2": 3.0}


@pytest.mark.parametrize("counting", [range(4), range(1)], ids=["all say how many", "one"])
async def test_through_relays_of_relays_too(counting: Iterable[int]) -> None:
    expected = await flat(sites(range(4), counting).values())
    own = ControllerConfig(min_learners=2, max_relayed_learners=3)
    async with (
        nothing_left_behind(),
        top(1) as controller,
        region(controller.client_params, "middle", sites([3], counting), own) as middle,
        region(middle.client_params, "inner", sites(range(3), counting)),
    ):
        result = await DriverSession(controller, 1, SIGNALS).run()
    inner = {f"learner-{number}": f"middle/inner/site-{number}" for number in range(3)}
    for record, other in zip(result.rounds, expected.rounds, strict=True):
        assert_same(record, other, inner | {"learner-3": "middle/site-3"})


async def test_of_more_than_one_message_names_the_relays_below_speak_for_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("metisfl_async.relay.relay.MOST_CONTRIBUTORS", 3)
    expected = await flat(sites(range(4), range(4)).values())
    own = ControllerConfig(min_learners=2, max_relayed_learners=3)
    async with (
        nothing_left_behind(),
        top(1) as controller,
        region(controller.client_params, "middle", sites([3], range(4)), own) as middle,
        region(middle.client_params, "inner", sites(range(3), range(4))),
    ):
        result = await DriverSession(controller, 1, SIGNALS).run()
    for record, other in zip(result.rounds, expected.rounds, strict=True):
        assert record.evaluations.keys() == {"middle/inner", "middle/site-3"}
        said: Any = record.learners["middle"].evaluation_metadata["contributors"]
        assert (said["inner"]["num_learners"], said["inner"]["weight"]) == (3, 1.0 + 2.0 + 3.0)
        assert said["inner"]["metrics"]["num_examples"] == 10.0 + 20.0 + 30.0
        assert record.evaluation_metrics["score"] == pytest.approx(other.evaluation_metrics["score"], rel=1e-12)


async def test_of_more_metrics_than_a_message_holds_the_means_go_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("metisfl_async.relay.relay.MAX_MESSAGE_BYTES", 100)
    expected = await flat(sites(range(6), range(6)).values())
    with caplog.at_level("WARNING", "metisfl_async.relay"):
        async with top(2) as controller:
            north, south = (
                region(controller.client_params, name, sites(numbers, range(6))) for name, numbers in REGIONS.items()
            )
            async with north, south:
                result = await DriverSession(controller, 2, SIGNALS).run()
    assert "what 3 learners measured does not fit into one message: the means alone go up" in caplog.text
    for record, other in zip(result.rounds, expected.rounds, strict=True):
        assert record.evaluations.keys() == {"north", "south"}
        assert record.learners["south"].evaluation_metrics["num_examples"] == 40.0 + 50.0 + 60.0
        assert record.evaluation_metrics["score"] == pytest.approx(other.evaluation_metrics["score"], rel=1e-12)


# --- hospitals that cannot evaluate --------------------------------------------------------------------------------


async def test_a_hospital_that_cannot_evaluate_is_missed_in_its_region_alone() -> None:
    expected = await flat([Measures(1, counts=True), Blind(2), *sites(range(3, 6), range(6)).values()])
    north = {"site-0": Measures(1, counts=True), "blind": Blind(2)}
    async with (
        top(2) as controller,
        region(controller.client_params, "north", north),
        region(controller.client_params, "south", sites(range(3, 6), range(6))),
    ):
        result = await DriverSession(controller, 2, SIGNALS).run()
    names = {"learner-0": "north/site-0"} | {f"learner-{number - 1}": f"south/site-{number}" for number in range(3, 6)}
    for record, other in zip(result.rounds, expected.rounds, strict=True):
        assert_same(record, other, names)
        assert len(record.contributors) == 5


async def test_a_region_in_which_nobody_can_evaluate_says_why() -> None:
    async with top(1) as controller, region(controller.client_params, "north", {"site-0": Blind(1)}):
        result = await DriverSession(controller, 1, TerminationSignals(federation_rounds=1)).run()
    (failure,) = result.rounds[0].learners["north"].failures
    expected = "nobody below evaluated it; one of them: RuntimeError: no data to look at"
    assert (failure.task, failure.message) == ("evaluate", expected)


class Chatty(Adds):
    """Measures more than one message has room for, under names that grow when they are escaped."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        arrays, *_ = super().train(parameters, config)
        return arrays, {f"{number:030}": 1.0 for number in range(1_000)}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"num_examples": 5.0} | {"\x01" * 20 + f"{number:04}": 2.0 for number in range(2_500)}


async def test_what_does_not_fit_goes_up_as_means_as_far_as_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        nothing_left_behind(),
        top(1) as controller,
        region(controller.client_params, "north", {"site-1": Chatty(1), "site-2": Chatty(2)}),
    ):
        result = await DriverSession(controller, 1, TerminationSignals(federation_rounds=1)).run()
    (record,) = result.rounds
    assert record.contributors == {"north/site-1": 1, "north/site-2": 1}
    assert set(record.train_metrics.values()) == {1.0}
    assert set(record.evaluation_metrics.values()) == {2.0}
    assert record.evaluation_weighted_by == "num_examples"
    assert 500 < len(record.train_metrics) < len(record.evaluation_metrics) < 2_500
    for what in ("measured in training does not fit into one header", "measured does not fit into one message"):
        assert what in caplog.text
