"""Sums that come as one learner's update, over real connections: they count as their contributors would, or not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from federations import PATIENCE_S, until
from puppet import FEDERATION, Puppet, begun, puppet, weights

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.codec.frame import Frame, Header, frames_of
from metisfl_async.core.ids import LearnerId, Token
from metisfl_async.core.messages import Farewell, Hello, JoinRequest, Outcome, TaskOffer, UpdateReply
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.contributors import Contributor, said_of
from metisfl_async.core.strategies.aggregation.reproducible_sum import ReproducibleSum
from metisfl_async.strategies import FedAvg

SIZE = 2**16
BASE = Model.from_arrays(weights(0, SIZE))
WIDE = Sum.packed_manifest(BASE.manifest)
SHARES = {"a": (1.0, 10.0), "b": (4.0, 20.0)}  # each one's value and weight
CONTRIBUTORS = {name: Contributor(weight, metrics={"loss": value}) for name, (value, weight) in SHARES.items()}
CONFIG = ControllerConfig(evaluate_every=0, max_relayed_learners=2)


def summed() -> Model:
    total = Sum(BASE.manifest)
    for value, weight in SHARES.values():
        total.add(Model.from_arrays(weights(value, SIZE)), weight)
    return total.packed(WIDE, 0)


def frames(learner: Puppet, offer: TaskOffer, model: Model, **changed: Any) -> list[Frame]:
    header = learner.frames(offer, weights(0, SIZE))[0]
    assert isinstance(header, Header)
    said = {"kind": "sum", "content": b"", "metadata": said_of(CONTRIBUTORS, "NumTrainingExamples")}
    return list(frames_of(replace(header, **(said | changed)), model))


async def leave(*learners: Puppet) -> None:
    for learner in learners:
        while not isinstance(await learner.next(), Farewell):
            pass
        await learner.link.leave(learner.token)


def session(controller: Controller, num_learners: int) -> DriverSession:
    signals = TerminationSignals(federation_rounds=1)
    return DriverSession(controller, num_learners, signals, initial_weights=BASE.arrays())


async def test_a_sum_counts_as_those_in_it_would_and_the_record_names_them() -> None:
    async with Controller(ServerParams(), CONFIG) as controller:
        running = asyncio.create_task(session(controller, 2).run())
        async with puppet(controller, "north") as north, puppet(controller, "c") as single:
            offer, of_single = await north.task(), await single.task()
            assert await north.push(frames(north, offer, summed())) == UpdateReply(Outcome.FOLDED)
            assert await north.push(frames(north, offer, summed())) == UpdateReply(Outcome.FOLDED)  # it was there
            another = await north.push(frames(north, offer, summed(), kind="update"))
            assert another.outcome is Outcome.REFUSED
            alone = single.frames(of_single, weights(8, SIZE), num_training_examples=10)
            assert (await single.push(alone)).is_taken
            await leave(north, single)
        async with asyncio.timeout(PATIENCE_S):
            result = await running
    assert result.final_model is not None
    values, counter = result.final_model
    assert values.dtype == np.float32
    assert set(values) == {(10.0 * 1.0 + 20.0 * 4.0 + 10.0 * 8.0) / 40.0}
    assert counter == 1
    part = result.rounds[0].learners["north"]
    assert (part.train_state, part.weight) == ("counted", 30.0)
    assert part.update_norm == pytest.approx(3.0 * SIZE**0.5)
    assert part.train_metadata["contributors"] == {
        "a": {"weight": 10.0, "num_learners": 1, "metrics": {"loss": 1.0}},
        "b": {"weight": 20.0, "num_learners": 1, "metrics": {"loss": 4.0}},
    }
    assert part.bytes_received == WIDE.size_bytes


async def test_a_sum_counts_in_memory_as_well() -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(None, CONFIG) as controller:
        link = controller.connect()
        reply = await link.join(JoinRequest(LearnerId("north"), Token("")))
        async with link.tasks() as stream:
            await stream.send(Hello(reply.token))
            await begun(link, BASE)
            offers: list[TaskOffer] = []
            while not offers:
                offers = [message for message in await stream.receive() or () if isinstance(message, TaskOffer)]
            (offer,) = offers
            header = Header(
                "sum",
                BASE.manifest,
                0,
                task_id=offer.task_id,
                metadata=said_of(CONTRIBUTORS, "NumTrainingExamples"),
                federation_id=offer.model.federation_id,
            )
            assert (await link.train_done(reply.token, header, summed())).is_taken
            await until(lambda: controller.snapshot().model_version == 1)
            assert set((await link.get_model(FEDERATION)).arrays()[0]) == {3.0}


def _wrong(how: str) -> tuple[Model, dict[str, Any]]:
    """Make a sum of which one thing is wrong."""
    model = summed()
    match how:
        case "another codec":
            return model, {"codec": "bf16"}
        case "another model":
            return model, {"manifest": Model.from_arrays(weights(0, SIZE + 1)).manifest}
        case "nobody":
            return model, {"metadata": said_of({}, "NumTrainingExamples")}
        case "another weight":
            return model, {"metadata": said_of(CONTRIBUTORS, "NumParticipants")}
        case "too many":
            return model, {"metadata": said_of({"a": Contributor(1.0, 3)}, "NumTrainingExamples")}
        case "too much":
            heavy = {"a": Contributor(2e9)}
            return model, {"metadata": said_of(heavy, "NumTrainingExamples")}
        case "not a number":
            model.arrays()[0][3] = np.nan
        case "too large a mean":
            model.arrays()[0][3] = 1e100
        case _:
            assert how == "more"
            return Model.from_arrays([np.zeros(SIZE + 8), np.zeros(())]), {}
    return model, {}


@pytest.mark.parametrize(
    ("how", "outcome", "message"),
    [
        (
            "another codec",
            Outcome.REFUSED,
            "the sum has codec 'bf16'; allowed: 'raw', of a relay whose rule",
        ),
        ("another model", Outcome.REFUSED, "the update does not fit the global model"),
        ("nobody", Outcome.REFUSED, "the contributors of the sum are 0 of them"),
        ("another weight", Outcome.REFUSED, "the sum is weighted by scaling_factor 'NumParticipants'; allowed:"),
        ("too many", Outcome.REFUSED, "the sum is of 3 learners; allowed: at most max_relayed_learners=2"),
        ("too much", Outcome.REFUSED, "contributors['a'].weight"),
        ("not a number", Outcome.REFUSED, "tensor '0' holds a value that is not finite"),
        ("too large a mean", Outcome.REFUSED, "the mean of the sum: tensor '0' holds a value that is not finite"),
        ("more", Outcome.DAMAGED, "bytes 0 to 524360 of a model of 524296"),
    ],
)
async def test_a_bad_sum_is_refused_and_the_round_goes_on(how: str, outcome: Outcome, message: str) -> None:
    async with Controller(ServerParams(), CONFIG) as controller:
        running = asyncio.create_task(session(controller, 2).run())
        async with puppet(controller, "bad") as bad, puppet(controller, "good") as good:
            model, changed = _wrong(how)
            reply = await bad.push(frames(bad, await bad.task(), model, **changed))
            assert (reply.outcome, message in reply.reason) == (outcome, True), reply.reason
            assert controller._open.job.staging.used_bytes == 0
            if outcome is Outcome.DAMAGED:
                await bad.link.leave(bad.token)
            assert (await good.push(good.frames(await good.task(), weights(1, SIZE)))).is_taken
            await leave(good) if outcome is Outcome.DAMAGED else await leave(bad, good)
        async with asyncio.timeout(PATIENCE_S):
            result = await running
    assert result.final_model is not None
    assert set(result.final_model[0]) == {1.0}


def _spoil_exact(how: str, total: ReproducibleSum) -> None:
    if how == "units":
        total.parts()[0][0] = 3.0
    elif how == "count":
        total.parts()[-1][-1] = 1e6
    elif how == "weight":
        total.parts()[-1][1] *= 1.5
    else:
        total.parts()[0][0] = np.nan


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("units", "the sum holds numbers that 2 updates cannot add up to"),
        ("count", "the sum is of 1e+06 updates; allowed: a whole number from 1 to 2"),
        ("weight", "the weight in a sum is 45.0; allowed: that of its contributors, 30"),
        ("not a number", "holds a value that is not finite"),
    ],
)
async def test_a_bad_reproducible_sum_is_refused_and_the_round_goes_on(how: str, message: str) -> None:
    config = replace(CONFIG, aggregation_rule=FedAvg(reproducible=True))
    manifest = ReproducibleSum.packed_manifest(BASE.manifest)
    async with Controller(ServerParams(), config) as controller:
        running = asyncio.create_task(session(controller, 3).run())
        async with puppet(controller, "bad") as bad, puppet(controller, "a") as one, puppet(controller, "b") as other:
            total = ReproducibleSum(BASE.manifest)
            for value, weight in SHARES.values():
                total.add(Model.from_arrays(weights(value, SIZE)), weight)
            right = total.packed(manifest, 0)
            _spoil_exact(how, total)
            reply = await bad.push(frames(bad, await bad.task(), total.packed(manifest, 0), codec="exact"))
            assert (reply.outcome, message in reply.reason) == (Outcome.REFUSED, True), reply.reason
            assert (await one.push(frames(one, await one.task(), right, codec="exact"))).is_taken
            assert (await other.push(other.frames(await other.task(), weights(1, SIZE)))).is_taken
            await leave(bad, one, other)
        async with asyncio.timeout(PATIENCE_S):
            result = await running
    assert result.final_model is not None
    assert set(result.final_model[0]) == {np.float32((1 * 10 + 4 * 20 + 1 * 1) / 31)}


@pytest.mark.parametrize(
    ("most", "keeps_updates", "message"),
    [
        (0, False, "a sum of updates came; allowed only from relays, with max_relayed_learners > 0"),
        (2, True, "a sum of updates came to rule FedAvg under scheduler Synchronous, where each update is needed"),
    ],
)
async def test_who_takes_no_sums_says_why(most: int, keeps_updates: bool, message: str) -> None:
    config, store = replace(CONFIG, max_relayed_learners=most), ModelStoreConfig(keep_local_models=keeps_updates)
    async with Controller(ServerParams(), config, store) as controller:
        running = asyncio.create_task(session(controller, 2).run())
        async with puppet(controller, "north") as north, puppet(controller, "good") as good:
            reply = await north.push(frames(north, await north.task(), summed()))
            assert reply.outcome is Outcome.REFUSED
            assert reply.reason.startswith(message)
            assert (await good.push(good.frames(await good.task(), weights(1, SIZE)))).is_taken
            await leave(north, good)
        async with asyncio.timeout(PATIENCE_S):
            await running


async def test_first_weights_are_no_sum() -> None:
    async with Controller(ServerParams(), CONFIG) as controller:
        signals = TerminationSignals(federation_rounds=1)
        running = asyncio.create_task(DriverSession(controller, 1, signals).run())
        async with puppet(controller, "north") as north:
            reply = await north.push(frames(north, await north.task(), summed()))
            assert reply == UpdateReply(Outcome.REFUSED, "first weights came as a sum; allowed: kind 'update'")
            first = await north.task()
            assert (await north.push(north.frames(first, weights(0, SIZE)))).is_taken
            assert (await north.push(frames(north, await north.task(), summed()))).is_taken
            await leave(north)
        async with asyncio.timeout(PATIENCE_S):
            result = await running
    assert result.final_model is not None
    assert set(result.final_model[0]) == {3.0}
