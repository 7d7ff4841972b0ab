"""What one peer does holds up nobody else: uploads, first weights and downloads have bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc.aio
import numpy as np
import pytest
from puppet import FEDERATION, Puppet, begun, puppet, weights

from metisfl_async import Controller, ControllerConfig, ServerParams
from metisfl_async.codec.frame import Data, Header, encode
from metisfl_async.controller import staging
from metisfl_async.core.errors import ConnectionLost, Superseded, UnexpectedMessage
from metisfl_async.core.ids import FederationId, ModelRef
from metisfl_async.core.messages import Outcome
from metisfl_async.core.model import Model
from metisfl_async.transport import convert
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


async def test_the_same_first_weights_on_a_newer_call_end_the_older(
    controller: Controller, links: list[GrpcLink]
) -> None:
    older = driver_upload(links[0])
    await older.write(encode(Header("global", SMALL.manifest, 0, federation_id=FEDERATION)))
    await asyncio.sleep(0.1)
    await links[1].set_initial_model(FEDERATION, SMALL)
    with pytest.raises(UnexpectedMessage, match="newer call"), ours(""):
        await older


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
