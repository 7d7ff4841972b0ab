"""What whoever can reach the port may try, without a credential or with one of another role."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable

import grpc
import grpc.aio
import numpy as np
from attackers.ground import Outside, tally
from attackers.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RESET,
    SETTINGS,
    frame,
    http2,
    request,
)

from metisfl_async import ClientParams
from metisfl_async.codec.frame import Header, encode, frames_of
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import PROTOCOL
from metisfl_async.core.model import Model
from metisfl_async.transport._proto import metisfl_pb2 as pb


def start(**fields: object) -> bytes:
    signals = pb.TerminationSignals(federation_rounds=1, mode="max")
    facts = {"signals": signals, "federation_id": "f", "protocol": PROTOCOL} | fields
    return pb.StartRequest(**facts).SerializeToString()  # type: ignore[arg-type]


def join(learner_id: str, token: str = "") -> bytes:
    return pb.JoinRequest(learner_id=learner_id, token=token, protocol=PROTOCOL).SerializeToString()


# --- bytes on the port -----------------------------------------------------------------------------------------------


async def said_to(params: ClientParams, *pieces: bytes) -> str:
    """Send bytes on a connection of its own; whether it is closed then."""
    reader, writer = await asyncio.open_connection(params.hostname, params.port)
    try:
        for piece in pieces:
            writer.write(piece)
        while await reader.read(2**16):
            pass
    except ConnectionError:
        pass
    finally:
        writer.close()
    return "closed"


async def http_1(outside: Outside) -> str:
    return await said_to(
        outside.params, b"GET /metisfl_async.v1.Controller/GetStatus HTTP/1.1\r\nHost: x\r\n\r\n" * 100
    )


async def tls_hello(outside: Outside) -> str:
    return await said_to(outside.params, bytes.fromhex("16030100c8010000c40303") + bytes(189))


async def garbage_after_the_preface(outside: Outside) -> str:
    garbage = np.random.default_rng(1).bytes(2**20)
    return await said_to(outside.params, PREFACE, frame(SETTINGS), garbage)


async def open_connections(outside: Outside) -> str:
    """Hold connections, with and without HTTP/2 in them, and say nothing until the federation is over."""
    for number in range(200):
        _, writer = await asyncio.open_connection(outside.params.hostname, outside.params.port)
        outside.left_open.callback(writer.close)
        if number % 2:
            writer.write(PREFACE + frame(SETTINGS))
    return "nothing"


async def requests_without_an_end(outside: Outside) -> str:
    """Begin calls whose one request is announced with 4 MiB, and is never whole."""
    beginning = bytes([0]) + (4 * 2**20).to_bytes(4, "big") + bytes(100)
    streams = set(range(1, 400, 2))
    async with http2(outside.params) as connection:
        for stream in streams:
            method = "JoinFederation" if stream % 4 == 1 else "FetchModel"
            connection.writer.write(frame(HEADERS, END_HEADERS, stream, request(method)))
            connection.writer.write(frame(DATA, 0, stream, beginning))
        return await connection.until_ended(streams)


async def headers_without_an_end(outside: Outside) -> str:
    """Send header blocks that go on and on, before and after the settings are acknowledged."""
    field = bytes([0, 4]) + b"more" + bytes([120]) + b"x" * 120
    more = frame(CONTINUATION, 0, 1, field * 100)
    _, writer = await asyncio.open_connection(outside.params.hostname, outside.params.port)
    outside.left_open.callback(writer.close)
    writer.write(PREFACE + frame(SETTINGS) + frame(HEADERS, 0, 1, request("GetStatus")) + more * 100)
    async with http2(outside.params) as connection:
        await connection.is_ready.wait()
        connection.writer.write(frame(HEADERS, 0, 1, request("GetStatus")) + more * 100)
        return await connection.until_ended({1})


async def resets_and_pings(outside: Outside) -> str:
    """Begin calls and reset them at once, with pings and settings between them."""
    async with http2(outside.params) as connection:
        for stream in range(1, 2000, 2):
            connection.writer.write(frame(HEADERS, END_HEADERS, stream, request("JoinFederation")))
            connection.writer.write(frame(RESET, 0, stream, bytes(4)) + frame(PING, 0, 0, bytes(8)) + frame(SETTINGS))
            await connection.writer.drain()
        connection.writer.write(frame(HEADERS, END_HEADERS, 2001, request("GetStatus")))
        return await connection.until_ended({2001})


# --- calls -----------------------------------------------------------------------------------------------------------


async def large_start(outside: Outside) -> str:
    request = start(root_certificates=[bytes(2**14)] * 192)
    callers = [await outside.caller(), await outside.caller("insider"), await outside.caller("rival")]
    return tally([await caller.told("StartTraining", request) for caller in callers])


async def first_weights_while_it_runs(outside: Outside) -> str:
    model = Model.from_arrays([np.zeros(2**20, np.float32)])
    frames = list(frames_of(Header("global", model.manifest, 0, federation_id=FederationId("another")), model))
    callers = [await outside.caller(who) for who in ("", "insider", "rival")]
    answers = [await caller.told("SetInitialModel", *map(encode, frames)) for caller in callers]
    ten = [callers[-1].told("SetInitialModel", *map(encode, frames)) for _ in range(10)]
    return tally([*answers, *await asyncio.gather(*ten)])


async def unread_events(outside: Outside) -> str:
    caller = await outside.caller("observer")
    status = pb.Status.FromString(await caller.answer("GetStatus", b""))
    request = pb.WatchRequest(federation_id=status.federation_id).SerializeToString()
    for _ in range(100):
        outside.left_open.callback(caller.begin("WatchEvents", request).cancel)
    return "nothing"


def refused(answers: Iterable[str]) -> str:
    """Say how many calls were refused: by us, or by gRPC where they are more than a connection may have at a time."""
    counted = Counter(answers)
    number = counted.pop("UNAUTHENTICATED AccessDenied", 0) + counted.pop("UNAVAILABLE ConnectionLost", 0)
    return ", ".join([f"{number} refused", *counted])


async def gzip_bombs(outside: Outside) -> str:
    """Send what is small on the wire and large when it is unpacked."""
    answers = []
    for who in ("", "insider"):
        caller = await outside.caller(who, options=[("grpc.max_send_message_length", -1)])
        for method, size in (("JoinFederation", 2**25), ("TrainDone", 4 * 2**20)):
            answers.append(await caller.told(method, bytes(size), compression=grpc.Compression.Gzip))
    return tally(answers)


async def calls_that_are_given_up(outside: Outside) -> str:
    """Begin calls and cancel them at once."""
    caller = await outside.caller()
    for _ in range(10):
        calls = [caller.begin("FetchModel", b"") for _ in range(100)]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()
    return refused([await caller.told("GetStatus", b"")])


async def wrong_tokens(outside: Outside) -> str:
    """Try tokens, and one that is far too long."""
    caller = await outside.caller()
    tries = [
        caller.told("GetStatus", b"", metadata=(("authorization", f"Bearer {number:032x}"),)) for number in range(200)
    ]
    long = caller.told("GetStatus", b"", metadata=(("authorization", "Bearer " + "x" * 2**17),))
    return tally([refused(await asyncio.gather(*tries)), await long])


async def floods_of_joins(outside: Outside) -> str:
    """Join as nobody, and as somebody else, hundreds of times at once."""
    nobody, somebody = await outside.caller(), await outside.caller("insider")
    answers = [caller.told("JoinFederation", join("honest-1")) for caller in [nobody, somebody] * 250]
    return refused(await asyncio.gather(*answers))


async def joins_as_another(outside: Outside) -> str:
    """Join as somebody else again and again, and never more at once than one party may."""
    somebody, answers = await outside.caller("insider"), list[str]()
    for _ in range(10):
        answers += await asyncio.gather(*(somebody.told("JoinFederation", join("honest-1")) for _ in range(20)))
    return refused(answers)


async def wild_ids(outside: Outside) -> str:
    somebody = await outside.caller("insider")
    ids = ("x" * 2**20, "x" * 129, "\x1b[2J\r\n\u202e", "")
    return tally([await somebody.told("JoinFederation", join(learner_id)) for learner_id in ids])
