"""What one peer does holds up nobody else: uploads, first weights and downloads have bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc.aio
import numpy as np
import pytest
from federations import Adds, session_of, until
from puppet import FEDERATION, Puppet, begun, puppet, weights

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    ModelStoreConfig,
    QuorumLost,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.codec.frame import Data, Frame, Header, encode
from metisfl_async.controller import staging
from metisfl_async.controller.first_weights import FirstWeights
from metisfl_async.core.access import LOCAL
from metisfl_async.core.errors import ConnectionLost, Superseded, UnexpectedMessage
from metisfl_async.core.federation.events import LearnerJoined
from metisfl_async.core.ids import FederationId, ModelRef
from metisfl_async.core.messages import Outcome
from metisfl_async.core.model import Model, allocate
from metisfl_async.errors import NoModel, StoreError
from metisfl_async.store.event_log import MOST
from metisfl_async.store.memory import InMemoryStore
from metisfl_async.strategies import FedAvg, Update
from metisfl_async.transport import convert, convert_driver
from metisfl_async.transport.grpc_errors import ours
from metisfl_async.transport.grpc_link import GrpcLink

SMALL = Model.from_arrays(weights(0, 1000))
LARGE = Model.from_arrays([np.zeros(2**23, np.uint8)])  # more than gRPC takes in of what nobody reads


@pytest.fixture
async def controller() -> AsyncIterator[Controller]:
    config = ControllerConfig(evaluate_every=0, upload_idle_secs=0.3, min_upload_bytes_per_sec=1e6)
    async with Controller(ServerParams(), config) as opened:
        yield opened


async def trickle(call: grpc.aio.StreamStreamCall, buffer: memoryview) -> None:
    """Send a byte at a time."""
    with suppress(asyncio.InvalidStateError, grpc.aio.BaseError):
        for offset in range(len(buffer)):
            await call.write(encode(Data(offset, buffer[offset : offset + 1])))
            await asyncio.sleep(0.02)


async def test_an_update_that_trickles_loses_its_place_and_may_come_again(controller: Controller) -> None:
    link = controller.connect()
    await begun(link, SMALL)
    async with puppet(controller, "a") as learner:
        header, *rest = learner.frames(await learner.task(), weights(3, 1000))
        call = learner.upload()
        await call.write(encode(header))
        assert await call.read() == convert.GO_AHEAD
        trickling = asyncio.create_task(trickle(call, SMALL.buffer.data))
        with pytest.raises(ConnectionLost, match=r"min_upload_bytes_per_sec=1e\+06"), ours(""):
            await call.read()
        await trickling
        assert (await learner.push([header, *rest])).outcome is Outcome.FOLDED


def driver_upload(link: GrpcLink) -> grpc.aio.StreamUnaryCall:
    return link._caller.channel.stream_unary("/metisfl_async.v1.Controller/SetInitialModel")()


@pytest.fixture
async def links(controller: Controller) -> AsyncIterator[list[GrpcLink]]:
    opened = [GrpcLink(controller.client_params) for _ in range(3)]
    yield opened
    for link in opened:
        await link.close()


class Allocations:
    """Counts the buffers that staging makes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, size_bytes: int) -> object:
        self.sizes.append(size_bytes)
        return np.empty(size_bytes, np.uint8)


@pytest.fixture
def allocations(monkeypatch: pytest.MonkeyPatch) -> Allocations:
    counted = Allocations()
    monkeypatch.setattr(staging, "allocate", counted)
    return counted


async def test_first_weights_are_read_one_model_at_a_time(
    controller: Controller, links: list[GrpcLink], allocations: Allocations
) -> None:
    calls = [driver_upload(link) for link in links]
    for number, call in enumerate(calls):
        await call.write(encode(Header("global", SMALL.manifest, 0, federation_id=f"federation {number}")))
    for call in calls:
        with pytest.raises(ConnectionLost, match="upload_idle_secs"), ours(""):
            await call
    await links[2].set_initial_model(FEDERATION, SMALL)  # the next one finds its turn
    assert allocations.sizes == [SMALL.manifest.size_bytes]  # one after another had the same buffer


async def test_the_same_first_weights_on_a_newer_call_end_the_older(allocations: Allocations) -> None:
    async with Controller(ServerParams()) as controller:  # a patient one
        link, newer = GrpcLink(controller.client_params), GrpcLink(controller.client_params)
        older = driver_upload(link)
        await older.write(encode(Header("global", SMALL.manifest, 0, federation_id=FEDERATION)))
        await until(lambda: bool(allocations.sizes))
        await newer.set_initial_model(FEDERATION, SMALL)
        with pytest.raises(UnexpectedMessage, match="newer call"), ours(""):
            await older
        await link.close()
        await newer.close()


async def test_first_weights_are_refused_on_their_header_while_a_federation_runs(
    controller: Controller, links: list[GrpcLink], allocations: Allocations
) -> None:
    await begun(links[0], SMALL)
    before = list(allocations.sizes)
    for federation_id in (FEDERATION, FederationId("another")):
        with pytest.raises(UnexpectedMessage, match=r"runs here|was started before"):
            await links[1].set_initial_model(federation_id, SMALL)
    assert allocations.sizes == before


def fetch(learner: Puppet) -> grpc.aio.UnaryStreamCall:
    request = convert.fetch_model((learner.token, ModelRef(FEDERATION, 0)))
    return learner.link._caller.channel.unary_stream("/metisfl_async.v1.Controller/FetchModel")(request)


async def read_all(call: grpc.aio.UnaryStreamCall) -> int:
    """Read a download to its end; so many bytes."""
    num_bytes = 0
    while (chunk := await call.read()) is not grpc.aio.EOF:
        num_bytes += len(chunk)
    return num_bytes


async def test_a_newer_download_of_a_learner_ends_its_older_one(controller: Controller) -> None:
    await begun(controller.connect(), LARGE)
    async with puppet(controller, "a") as a, puppet(controller, "b") as b:
        older = fetch(a)
        await older.read()
        for _ in range(5):
            newer = fetch(a)
            await newer.read()
            with pytest.raises(Superseded), ours(""):
                await read_all(older)
            older = newer
        for call in (older, fetch(b)):
            assert await read_all(call) > 2**22


async def test_a_newer_download_of_a_driver_ends_its_older_one(controller: Controller, links: list[GrpcLink]) -> None:
    await begun(controller.connect(), LARGE)
    request = convert_driver.federation(FEDERATION)
    a, b = (link._caller.channel.unary_stream("/metisfl_async.v1.Controller/GetModel") for link in links[:2])
    older, other = a(request), b(request)
    for call in (older, other):
        await call.read()
    assert (await links[0].get_model(FEDERATION)).manifest == LARGE.manifest
    with pytest.raises(Superseded), ours(""):
        await read_all(older)
    assert await read_all(other) > 2**22


class Scarce(FedAvg):
    """FedAvg that has no memory, so many times."""

    def __init__(self, *, folds: int = 0, aggregations: int = 0) -> None:
        self.folds, self.aggregations = folds, aggregations

    def fold(self, update: Update) -> None:
        self.folds -= 1
        if self.folds >= 0:
            raise MemoryError
        super().fold(update)

    def aggregate(self, version: int) -> Model:
        self.aggregations -= 1
        if self.aggregations >= 0:
            raise MemoryError
        return super().aggregate(version)


def session(rule: FedAvg, learners: int = 2, **options: object) -> DriverSession:
    config = ControllerConfig(aggregation_rule=rule, evaluate_every=0, **options)  # type: ignore[arg-type]
    return session_of([Adds(number + 1) for number in range(learners)], 2, config=config)


async def test_an_update_that_there_is_no_memory_to_fold_is_refused_and_the_round_goes_on() -> None:
    result = await session(Scarce(folds=1)).run()
    first, second = result.rounds
    (failure,) = [failure for part in first.learners.values() for failure in part.failures]
    assert failure.type == "MemoryError"
    assert (len(first.participants), len(second.participants)) == (1, 2)


async def test_a_round_that_there_is_no_memory_to_aggregate_fails_and_the_next_has_its_updates() -> None:
    result = await session(Scarce(aggregations=2)).run()
    assert [record.is_published for record in result.rounds] == [False, False, True, True]
    assert result.final_model is not None
    plain = await session(FedAvg()).run()
    assert plain.final_model is not None
    assert [array.tolist() for array in result.final_model] == [array.tolist() for array in plain.final_model]


async def test_without_memory_for_any_model_the_federation_ends_and_says_why() -> None:
    with pytest.raises(NoModel, match="no memory for a model"):
        await session(Scarce(aggregations=99)).run()


async def test_a_rule_that_cannot_try_again_ends_the_federation_and_not_the_controller() -> None:
    class Once(Scarce):
        aggregates_again = False

    with pytest.raises(QuorumLost, match="no memory for it: aggregate failed"):
        await session(Once(aggregations=1)).run()


async def test_an_update_that_there_is_no_memory_to_keep_ends_the_federation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(InMemoryStore, "insert", no_memory)
    store = ModelStoreConfig(keep_local_models=True)
    controller = Controller(model_store_config=store)
    with pytest.raises(StoreError, match="no memory to keep the update of"):
        await DriverSession(controller, [Adds(1)], TerminationSignals(federation_rounds=1)).run()


async def test_an_update_that_there_is_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1]

    def scarce(size_bytes: int) -> object:
        if left[0]:
            left[0] -= 1
            raise MemoryError
        return allocate(size_bytes)

    running = DriverSession(
        Controller(controller_config=ControllerConfig(evaluate_every=0)),
        [Adds(1), Adds(2)],
        TerminationSignals(federation_rounds=1),
        initial_weights=Adds(1).get_weights(),
    )
    given = FirstWeights.receive

    async def then_scarce(self: FirstWeights, frames: AsyncIterator[Frame]) -> None:
        await given(self, frames)
        monkeypatch.setattr(staging, "allocate", scarce)

    monkeypatch.setattr(FirstWeights, "receive", then_scarce)
    result = await running.run()
    (record,) = result.rounds
    (failure,) = [failure for part in record.learners.values() for failure in part.failures]
    assert failure.type == "MemoryError"
    assert len(record.participants) == 1


async def test_first_weights_that_there_is_no_memory_for_are_refused(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(size_bytes: int) -> object:
        raise MemoryError

    link = controller.connect()
    with monkeypatch.context() as scarce:
        scarce.setattr(staging, "allocate", none)
        with pytest.raises(UnexpectedMessage, match="no memory for a model"):
            await link.set_initial_model(FEDERATION, SMALL)
    await link.set_initial_model(FEDERATION, SMALL)


async def test_watchers_that_catch_up_take_turns_and_those_who_do_not_read_hold_up_nobody(
    controller: Controller,
) -> None:
    link = controller.connect()
    await begun(link, SMALL, num_learners=9)
    job, service = controller._open.job, controller._open.service
    for number in range(4 * MOST):
        job.events.append(LearnerJoined(str(number), number))
    unread = [service.watch_events(LOCAL, FEDERATION, 0, "") for _ in range(20)]
    began = [asyncio.ensure_future(anext(watching)) for watching in unread]
    done, _ = await asyncio.wait(began, timeout=0.02)
    assert len(done) == 2
    async with asyncio.timeout(30):
        await asyncio.gather(*began)  # who reads nothing gives up its turn
    reading = link.watch_events(FEDERATION)
    seen = [await anext(reading) for _ in range(4 * MOST)]
    assert len(seen) == 4 * MOST
    for watching in unread:
        await watching.aclose()
    await reading.aclose()
