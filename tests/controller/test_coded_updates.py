"""Updates in fewer bytes, as a stranger may send them: what is wrong with one is said, and the round goes on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from federations import PATIENCE_S
from puppet import Puppet, puppet, weights

from metisfl_async import Controller, ControllerConfig, DriverSession, ServerParams, TerminationSignals
from metisfl_async.codec.coded import Layout
from metisfl_async.codec.coding import coding_of
from metisfl_async.codec.frame import Frame, Header, frames_of
from metisfl_async.core.messages import Farewell, Outcome, TaskOffer, UpdateReply
from metisfl_async.core.model import Model, allocate

SIZE = 2**18
BASE = Model.from_arrays(weights(0, SIZE))
TOP_K = "topk:0.001"


def layout(codec: str) -> Layout:
    coding = coding_of(codec)
    assert coding is not None
    return Layout.of(coding, BASE.manifest)


def coded(codec: str, value: float) -> Model:
    return layout(codec).encoded(Model.from_arrays(weights(value, SIZE)), BASE)


def frames(learner: Puppet, offer: TaskOffer, codec: str, model: Model) -> list[Frame]:
    header = learner.frames(offer, weights(0, SIZE))[0]
    assert isinstance(header, Header)
    return list(frames_of(replace(header, codec=codec, content=b""), model))


async def leave(*learners: Puppet) -> None:
    """Follow the federation to its end, and go."""
    for learner in learners:
        while not isinstance(await learner.next(), Farewell):
            pass
        await learner.link.leave(learner.token)


def _wrong(how: str) -> tuple[str, Model]:
    """Make an update of which one thing is wrong."""
    update = coded(TOP_K, 1.0)
    places, values, _ = update.arrays()
    match how:
        case "another codec":
            return "int8", coded("int8", 1.0)
        case "another share":
            return "topk:0.01", coded("topk:0.01", 1.0)
        case "a place twice":
            places[1] = places[0]
        case "a place too far":
            places[-1] = SIZE
        case "not a number":
            values[3] = np.nan
        case "more":
            longer = allocate(len(update.buffer) + 4)
            longer[...] = 1
            longer[:-4] = update.buffer
            return TOP_K, Model(update.manifest, longer)
        case "as it is":
            return TOP_K, Model.from_arrays(weights(1.0, SIZE))
    return TOP_K, update


@pytest.mark.parametrize(
    ("how", "outcome", "message"),
    [
        ("another codec", Outcome.REFUSED, "the update has codec 'int8'; allowed: 'raw' or 'topk:0.001'"),
        ("another share", Outcome.REFUSED, "the update has codec 'topk:0.01'; allowed: 'raw' or 'topk:0.001'"),
        ("a place twice", Outcome.REFUSED, "its places do not grow, or are beyond its 262144 values"),
        ("a place too far", Outcome.REFUSED, "its places do not grow, or are beyond its 262144 values"),
        ("not a number", Outcome.REFUSED, "tensor '0' holds a value that is not finite"),
        ("more", Outcome.DAMAGED, "bytes 0 to 2188 of a model of 2184"),
        ("as it is", Outcome.DAMAGED, "of a model of 2184"),
    ],
)
async def test_a_bad_update_is_refused_and_the_round_goes_on(how: str, outcome: Outcome, message: str) -> None:
    config = ControllerConfig(update_codec=TOP_K, evaluate_every=0)
    async with Controller(ServerParams(), config) as controller:
        session = DriverSession(controller, 2, TerminationSignals(federation_rounds=1), initial_weights=BASE.arrays())
        running = asyncio.create_task(session.run())
        async with puppet(controller, "bad") as bad, puppet(controller, "good") as good:
            offer, of_good = await bad.task(), await good.task()
            reply = await bad.push(frames(bad, offer, *_wrong(how)))
            assert reply.outcome is outcome
            assert message in reply.reason
            staging = controller._open.job.staging
            assert staging.used_bytes == 0
            assert sum(map(len, staging._free)) <= layout(TOP_K).coded.size_bytes
            if outcome is Outcome.DAMAGED:
                assert (await bad.push(frames(bad, offer, TOP_K, coded(TOP_K, 3.0)))).is_taken
            assert await good.push(good.frames(of_good, weights(1, SIZE))) == UpdateReply(Outcome.FOLDED)
            await leave(bad, good)
        async with asyncio.timeout(PATIENCE_S):
            result = await running
    assert result.final_model is not None
    assert result.final_model[0][0] == (2.0 if outcome is Outcome.DAMAGED else 1.0)
    assert result.final_model[0][-1] == (0.5 if outcome is Outcome.DAMAGED else 1.0)


async def test_where_updates_travel_raw_no_other_codec_is_taken() -> None:
    async with Controller(ServerParams(), ControllerConfig(evaluate_every=0)) as controller:
        session = DriverSession(controller, 2, TerminationSignals(federation_rounds=1), initial_weights=BASE.arrays())
        running = asyncio.create_task(session.run())
        async with puppet(controller, "bad") as bad, puppet(controller, "good") as good:
            reply = await bad.push(frames(bad, await bad.task(), "int8", coded("int8", 1.0)))
            assert reply == UpdateReply(Outcome.REFUSED, "the update has codec 'int8'; allowed: 'raw'")
            await good.push(good.frames(await good.task(), weights(1, SIZE)))
            await leave(bad, good)
        await asyncio.wait([running])


async def test_first_weights_travel_raw() -> None:
    config = ControllerConfig(update_codec="int8", evaluate_every=0)
    async with Controller(ServerParams(), config) as controller:
        session = DriverSession(controller, 1, TerminationSignals(federation_rounds=1))
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as learner:
            offer = await learner.task()
            reply = await learner.push(frames(learner, offer, "int8", coded("int8", 1.0)))
            assert reply == UpdateReply(Outcome.REFUSED, "first weights have codec 'int8'; allowed: 'raw'")
            running.cancel()
            await leave(learner)
        await asyncio.wait([running])


async def test_another_codec_is_another_update() -> None:
    config = ControllerConfig(update_codec="int8", evaluate_every=0)
    async with Controller(ServerParams(), config) as controller:
        session = DriverSession(controller, 2, TerminationSignals(federation_rounds=1), initial_weights=BASE.arrays())
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as a, puppet(controller, "b") as b:
            offer, of_b = await a.task(), await b.task()
            assert (await a.push(frames(a, offer, "int8", coded("int8", 1.0)))).is_taken
            again = await a.push(a.frames(offer, weights(1, SIZE)))
            assert "another update of the same task was taken in before" in again.reason
            assert (await a.push(frames(a, offer, "int8", coded("int8", 1.0)))).is_taken
            assert (await b.push(b.frames(of_b, weights(1, SIZE)))).is_taken
            await leave(a, b)
        await asyncio.wait([running])
