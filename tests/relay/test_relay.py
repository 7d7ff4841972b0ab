"""Relays: a tree of them is the federation that its learners would be by themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, until
from puppet import weights
from relay.regions import contributors, offer, region, top

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    Learner,
    ModelStoreConfig,
    QuorumLost,
    Relay,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.federation.events import UpdateCounted
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array, Model
from metisfl_async.errors import UnexpectedMessage
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.strategies import Selector, Synchronous

REGIONS = {"north": range(3), "south": range(3, 6)}


class Drifts(Learner):
    """Changes all weights a little, as the same numbers always would."""

    def __init__(self, number: int, size: int = 5_000) -> None:
        super().__init__(num_training_examples=100 + 37 * number)
        self.number, self.size = number, size
        self.final: list[Array] = []
        self.configs: list[Config] = []

    def get_weights(self) -> list[Array]:
        random = np.random.default_rng(self.size)
        return [random.standard_normal(self.size).astype(np.float32), np.zeros((3, 3), np.float32)]

    def set_weights(self, parameters: list[Array]) -> None:
        self.final = parameters

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        self.configs.append(config)
        random = np.random.default_rng([self.number, int(str(config["round_number"]))])
        return [each + 0.01 * random.standard_normal(each.shape).astype(np.float32) for each in parameters], {
            "loss": float(self.number)
        }

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"mean": float(parameters[0].mean()) + self.number, "num_examples": 10.0 + self.number}


class Masked(Adds):
    """Adds its number to a weight beside which there is a mask."""

    def get_weights(self) -> list[Array]:
        return [np.zeros(1, np.float32), np.array([0.0, -np.inf], np.float32)]

    def untrained_names(self) -> list[str]:
        return ["1"]


def named(learners: Mapping[int, Learner], numbers: Iterable[int]) -> dict[str, Learner]:
    return {f"site-{number}": learners[number] for number in numbers}


async def flat(learners: Mapping[int, Learner], rounds: int, config: ControllerConfig) -> FederationResult:
    signals = TerminationSignals(federation_rounds=rounds)
    return await DriverSession(Controller(None, config), list(learners.values()), signals).run()


async def counted_of(session: DriverSession) -> list[tuple[int, int]]:
    """Follow a session: in which rounds updates counted, and of how many learners each was."""
    return [(event.number, event.num_learners) async for event in session.events() if isinstance(event, UpdateCounted)]


async def test_two_regions_of_three_are_the_flat_federation_bit_for_bit() -> None:
    flatly = {number: Drifts(number) for number in range(6)}
    expected = await flat(flatly, 3, ControllerConfig(min_learners=6))
    learners = {number: Drifts(number) for number in range(6)}
    async with nothing_left_behind(), top(2) as controller:
        north, south = (
            region(controller.client_params, name, named(learners, numbers)) for name, numbers in REGIONS.items()
        )
        async with north, south:
            session = DriverSession(controller, 2, TerminationSignals(federation_rounds=3))
            watching = asyncio.create_task(counted_of(session))
            result = await session.run()
            counted = await watching
    assert expected.final_model is not None
    assert result.final_model is not None
    for mine, theirs in zip(result.final_model, expected.final_model, strict=True):
        assert mine.dtype == np.float32
        assert mine.tobytes() == theirs.tobytes()
    for record, other in zip(result.rounds, expected.rounds, strict=True):
        assert record.participants == ["north", "south"]
        assert record.contributors == {f"{name}/site-{n}": 1 for name, numbers in REGIONS.items() for n in numbers}
        assert record.summary().startswith("2 of 2 updates of 6 learners in ")
        assert record.train_metrics == pytest.approx(other.train_metrics)
        assert sorted(
            weight for part in record.learners.values() for weight in contributors(part.train_metadata).values()
        ) == sorted(part.weight or 0.0 for part in other.learners.values())
    assert counted == [(1, 3), (1, 3), (2, 3), (2, 3), (3, 3), (3, 3)]
    assert result.to_dict()["participation"]["north/site-0"] == {"asked": 3, "counted": 3}
    assert "<td>2 of 2, of 6 learners</td>" in result._repr_html_()
    for learner in learners.values():
        assert learner.final[0].tobytes() == result.final_model[0].tobytes()


async def test_a_relay_may_have_relays_below_it() -> None:
    expected = await flat({number: Drifts(number) for number in range(4)}, 2, ControllerConfig(min_learners=4))
    learners = {number: Drifts(number) for number in range(4)}
    own = ControllerConfig(min_learners=2, max_relayed_learners=3, train_params={"epochs": 1, "batch_size": 8})
    async with (
        nothing_left_behind(),
        top(1, train_params={"epochs": 5}) as controller,
        region(controller.client_params, "middle", named(learners, range(2, 3)), own) as middle,
        region(middle.client_params, "inner", named(learners, range(2)) | named(learners, range(3, 4))),
    ):
        result = await DriverSession(controller, 1, TerminationSignals(federation_rounds=2)).run()
    assert expected.final_model is not None
    assert result.final_model is not None
    assert [each.tobytes() for each in result.final_model] == [each.tobytes() for each in expected.final_model]
    part = result.rounds[1].learners["middle"]
    said: Any = part.train_metadata["contributors"]
    assert {name: each["num_learners"] for name, each in said.items()} == {"inner": 3, "site-2": 1}
    assert result.rounds[1].contributors == {"middle/inner": 3, "middle/site-2": 1}
    assert contributors(part.train_metadata)["inner"] == 100.0 + 137.0 + 211.0
    config = learners[0].configs[-1]
    assert config == {"round_number": 2, "epochs": 5, "batch_size": 8}  # the parents' go before one's own


class Fails(Adds):
    """Fails in the first round."""

    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        if config["round_number"] == 1:
            raise RuntimeError("the disk is full")
        return super().train(parameters, config)


async def test_a_round_below_that_comes_to_nothing_is_a_failure_above_and_the_next_one_is_another() -> None:
    north = {"site-0": Fails(1), "site-1": Fails(2)}
    async with (
        top(1) as controller,
        region(controller.client_params, "north", north, ControllerConfig(max_failed_rounds=1)),
        region(controller.client_params, "south", {"site-2": Adds(3)}),
    ):
        result = await DriverSession(controller, 2, TerminationSignals(federation_rounds=2)).run()
    first, second = result.rounds
    trained, evaluated = first.learners["north"].failures
    assert (first.participants, trained.type) == (["south"], "QuorumLost")
    assert "below: round 1 has 0 of min_learners=1 updates, 1 time in a row" in trained.message
    assert "the disk is full" in trained.message
    assert evaluated.message == "no round here has come to a model; only who trained for one can evaluate it"
    assert second.participants == ["north", "south"]
    assert result.final_model is not None
    assert result.final_model[0][0] == np.float32(3 + (1 * 1 + 2 * 2 + 3 * 3) / 6)


async def test_a_learner_below_that_fails_is_missed_in_its_region_alone() -> None:
    north = {"site-0": Fails(1), "site-1": Adds(2)}  # whose traceback pytest keeps, and with it a connection
    async with (
        top(2) as controller,
        region(controller.client_params, "north", north, ControllerConfig()),
        region(controller.client_params, "south", {"site-2": Adds(3)}),
    ):
        result = await DriverSession(controller, 2, TerminationSignals(federation_rounds=1)).run()
    assert contributors(result.rounds[0].learners["north"].train_metadata) == {"site-1": 2.0}
    assert result.final_model is not None
    assert result.final_model[0][0] == np.float32((2 * 2 + 3 * 3) / 5)


class Hangs(AddsOnLoop):
    """Trains until it is told to stop."""

    was_cancelled = False

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        try:
            await asyncio.Event().wait()
        finally:
            self.was_cancelled = True
        raise AssertionError


class FirstWins(Synchronous):
    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        return bool(reported)


async def test_what_the_parent_does_not_wait_for_is_not_trained_on_below() -> None:
    hangs = Hangs(1)
    async with (
        nothing_left_behind(),
        top(1, scheduler=FirstWins()) as controller,
        region(controller.client_params, "north", {"site-0": hangs}),
        region(controller.client_params, "south", {"site-1": Adds(3)}),
    ):
        result = await DriverSession(controller, 2, TerminationSignals(federation_rounds=1)).run()
    assert result.rounds[0].participants == ["south"]
    assert hangs.was_cancelled


class Chooses(Selector):
    """Leaves one relay out in the second round."""

    def __init__(self) -> None:
        self.rounds = 0

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        self.rounds += 1
        return candidates[1:] if self.rounds == 2 else candidates


async def test_a_relay_that_was_left_out_goes_on_from_the_model_of_now() -> None:
    north, south = Adds(1), Adds(2)
    async with (
        nothing_left_behind(),
        top(1, selector=Chooses()) as controller,
        region(controller.client_params, "north", {"site-0": north}),
        region(controller.client_params, "south", {"site-1": south}),
    ):
        result = await DriverSession(controller, 2, TerminationSignals(federation_rounds=3)).run()
    assert [record.participants for record in result.rounds] == [["north", "south"], ["south"], ["north", "south"]]
    mean = (1 * 1 + 2 * 2) / 3
    assert result.final_model is not None
    assert result.final_model[0][0] == pytest.approx(mean + 2 + mean)
    assert north.taken_over[-1][0][0] == south.taken_over[-1][0][0] == result.final_model[0][0]


async def test_what_goes_on_below_can_be_followed() -> None:
    site = AddsOnLoop(2)
    site.may_train.clear()
    async with top(1) as controller, region(controller.client_params, "north", {"site-0": site}) as relay:
        running = asyncio.create_task(DriverSession(controller, 1, TerminationSignals(federation_rounds=2)).run())
        await site.is_training.wait()
        attached = asyncio.create_task(DriverSession.attach(relay.client_params).run())
        await until(lambda: relay._region.below._open.service._drivers == 1)
        site.may_train.set()
        await running
        below = await attached
    assert [record.participants for record in below.rounds] == [["site-0"], ["site-0"]]


async def test_without_evaluations_the_final_model_comes_down_all_the_same() -> None:
    site = AddsOnLoop(2)
    options: dict[str, Any] = {"evaluate_every": 0, "aggregation_rule": "FedAvgM"}
    async with (
        nothing_left_behind(),
        top(1, **options) as controller,
        region(controller.client_params, "north", {"site-0": site}),
    ):
        result = await DriverSession(controller, 1, TerminationSignals(federation_rounds=2)).run()
    assert result.final_model is not None
    assert site.taken_over[-1][0][0] == result.final_model[0][0]
    assert result.rounds[-1].evaluation_metrics == {}


async def test_the_learners_stay_for_the_next_federation_as_their_relay_does() -> None:
    site, signals = Adds(2), TerminationSignals(federation_rounds=1)
    async with (
        nothing_left_behind(),
        top(1) as controller,
        region(controller.client_params, "north", {"site-0": site}),
    ):
        first = await DriverSession(controller, 1, signals, keep_running=True).run()
        await until(lambda: len(site.taken_over) == 2)  # the first weights, and the final ones
        second = await DriverSession(controller, 1, signals, initial_weights=weights(10)).run()
    assert first.final_model is not None
    assert second.final_model is not None
    finals = [first.final_model[0][0], second.final_model[0][0]]
    assert finals == [2.0, 12.0]
    assert [taken[0][0] for taken in site.taken_over[1::2]] == finals


async def test_a_relay_that_died_comes_back_as_a_learner_does() -> None:
    site = AddsOnLoop(2)
    site.may_train.clear()
    async with top(1) as controller:
        running = asyncio.create_task(DriverSession(controller, 1, TerminationSignals(federation_rounds=1)).run())
        relay = Relay(None, ServerParams(), parent=controller.client_params, relay_id="north")
        async with asyncio.TaskGroup() as group:
            async with relay:
                of_relay = group.create_task(relay.run())
                port = relay.client_params.port
                group.create_task(run_learner(site, relay.client_params, learner_id="site-0"))
                await site.is_training.wait()
                of_relay.cancel()
                await asyncio.wait([of_relay])
                await relay._region.below.abort()
            site.may_train.set()
            again = Relay(None, ServerParams(port=port), parent=controller.client_params, relay_id="north")
            async with again:
                await again.run()
        result = await running
    assert result.final_model is not None
    assert result.final_model[0][0] == 2.0
    assert result.rounds[-1].participants == ["north"]


async def test_a_sum_outlives_the_controller_above(tmp_path: Path) -> None:
    slow, site, config = AddsOnLoop(1), Adds(2), ControllerConfig(min_learners=2, max_relayed_learners=1)
    slow.may_train.clear()
    store = ModelStoreConfig(model_store="Disk", directory=tmp_path)
    controller = Controller(ServerParams(), config, store)
    async with asyncio.timeout(PATIENCE_S), controller, region(controller.client_params, "north", {"site-0": site}):
        params = controller.client_params
        running = asyncio.create_task(DriverSession(params, 2, TerminationSignals(federation_rounds=1)).run())
        learning = asyncio.create_task(run_learner(slow, params, learner_id="slow"))
        await until(lambda: controller.snapshot().folded == ("north",))
        await controller.abort()
        async with Controller(ServerParams(port=params.port), config, store, resume=True) as again:
            await until(lambda: again.snapshot().folded == ("north",))
            slow.may_train.set()
            await again.serve()
        await learning
        result = await running
    assert result.final_model is not None
    assert result.final_model[0][0] == np.float32((1 + 4) / 3)
    assert len(site.configs) == 1  # nothing was trained again


async def test_learners_wait_for_a_relay_that_was_stopped() -> None:
    site = Adds(2)
    async with asyncio.timeout(PATIENCE_S):
        async with Relay(None, ServerParams(), parent=ClientParams("localhost", 1), relay_id="north") as relay:
            params = relay.client_params
            below = relay._region.below
            learning = asyncio.create_task(run_learner(site, params, learner_id="site-0"))
            await until(lambda: below.snapshot().connected == ("site-0",))
            await below.train(Model.from_arrays(weights(0)), offer("1"))  # as the parent has it done
        again = Relay(None, ServerParams(port=params.port), parent=ClientParams("localhost", 1))
        async with again:
            await until(lambda: len(again._region.below.snapshot().connected) == 1)
            summed = await again._region.below.train(Model.from_arrays(weights(5)), offer("2"))
            assert summed.sum.arrays()[0][0] == 14.0
            await again._region.below.end(None, keep_running=False)
            await learning


async def test_a_mask_is_nobodys_to_train() -> None:
    async with (
        nothing_left_behind(),
        top(1) as controller,
        region(controller.client_params, "north", {"site-0": Masked(1), "site-1": Masked(3)}),
    ):
        result = await DriverSession(controller, 1, TerminationSignals(federation_rounds=2)).run()
    assert result.final_model is not None
    assert result.final_model[0][0] == 5.0
    assert result.final_model[1].tolist() == [0.0, -np.inf]


# --- what is refused -----------------------------------------------------------------------------------------------


async def test_a_parent_that_takes_no_relays_says_so() -> None:
    async with (
        nothing_left_behind(),
        top(1, max_relayed_learners=0, max_failed_rounds=1) as controller,
        region(controller.client_params, "north", {"site-0": Adds(1)}),
    ):
        with pytest.raises(QuorumLost, match="a sum of updates came; allowed only from relays"):
            await DriverSession(controller, 1, TerminationSignals(federation_rounds=1)).run()


async def test_more_learners_than_a_header_names_need_another_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metisfl_async.relay.relay.MOST_CONTRIBUTORS", 1)
    async with (
        nothing_left_behind(),
        top(1, max_failed_rounds=1) as controller,
        region(controller.client_params, "north", {"site-0": Adds(1), "site-1": Adds(2)}),
    ):
        with pytest.raises(QuorumLost, match="2 learners reported below; allowed: at most 1 in one sum"):
            await DriverSession(controller, 1, TerminationSignals(federation_rounds=1)).run()


async def test_a_relay_that_dials_itself_or_one_below_it_is_refused(free_port: int) -> None:
    params = ServerParams(port=free_port)
    async with asyncio.timeout(PATIENCE_S):
        async with Relay(None, params, parent=params.client_params(params.port), relay_id="loop") as relay:
            with pytest.raises(ConfigError, match="parent is 'loop'; allowed: a controller that is not this relay's"):
                await relay.run()
        async with (
            Relay(None, params, parent=params.client_params(params.port), relay_id="upper") as upper,
            Relay(None, ServerParams(), parent=upper.client_params, relay_id="lower") as lower,
        ):
            running = asyncio.create_task(lower.run())
            await until(lambda: len(lower._region.below._open.service.conversations.relays) == 2)
            upper._parent = lower.client_params
            with pytest.raises(ConfigError, match="parent is 'upper'"):
                await upper.run()
            running.cancel()
            await asyncio.wait([running])


async def test_nobody_else_leads_the_learners_of_a_relay() -> None:
    async with (
        nothing_left_behind(),
        top(1) as controller,
        Relay(None, ServerParams(), parent=controller.client_params) as relay,
    ):
        session = DriverSession(relay.client_params, 1, TerminationSignals(federation_rounds=1))
        with pytest.raises(UnexpectedMessage, match="this is a relay: its federations begin and end with its par"):
            await session.run()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parent": "headquarters"}, "parent is 'headquarters'; allowed: the ClientParams of the controller above"),
        ({"server_params": None}, "server_params is None; allowed: the ServerParams where its learners find it"),
        ({"controller_config": ControllerConfig(aggregation_rule="FedRec")}, "aggregation_rule is 'FedRec'; allowed:"),
        ({"controller_config": ControllerConfig(scheduler="Asynchronous")}, "scheduler is 'Asynchronous'; allowed:"),
    ],
)
def test_what_cannot_be_a_relay_is_named(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"server_params": ServerParams(), "parent": ClientParams("localhost", 1)}
    with pytest.raises(ConfigError, match=message):
        Relay(**(given | options))
