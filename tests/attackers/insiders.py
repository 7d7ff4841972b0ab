"""What a learner with a credential and a task may send: headers, frames, weights, claims, and messages on Tasks."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from itertools import cycle, product

import grpc.aio
import msgpack
import numpy as np
from attackers.ground import Outside, tally, told, unspoilt
from attackers.strangers import join
from puppet import weights

from metisfl_async.codec.chunk import frame_head, split
from metisfl_async.codec.frame import Data, End, encode
from metisfl_async.core.errors import MetisError
from metisfl_async.core.ids import FederationId, ModelRef, Token
from metisfl_async.core.messages import Accept, Counted, Evaluated, Failed, Heartbeat, Hello, Settled
from metisfl_async.core.model import Array
from metisfl_async.transport import convert
from metisfl_async.transport._proto import metisfl_pb2 as pb

# --- headers ---------------------------------------------------------------------------------------------------------

_two_bytes = cycle(bytes(pair) for pair in product(b"0123456789abcdefghijklmnopqrstuvwxyz", repeat=2))
LARGE = 4 * 2**20 - 1024  #: bytes of a header, less than a frame may have


def header(outside: Outside, **fields: object) -> bytes:
    """Make a chunk of the header of a good update, but for some fields; bytes are packed already."""
    (frame,) = split(encode(outside.insider.update(1.0, outside.size)[0]))
    packed = {key: msgpack.packb(value) for key, value in msgpack.unpackb(frame).items()}
    for key, value in fields.items():
        packed[key] = value if isinstance(value, bytes) else msgpack.packb(value)
    made = msgpack.Packer().pack_map_header(len(packed)) + b"".join(
        msgpack.packb(key) + value for key, value in packed.items()
    )
    return bytes(frame_head(len(made)) + made)


async def sent(outside: Outside, *headers: bytes) -> str:
    caller = await outside.caller("insider")
    caller.metadata += (("metisfl-token", outside.insider.token),)
    return tally([await caller.told("TrainDone", each) for each in headers])


async def millions_of_numbers(outside: Outside) -> str:
    numbers = msgpack.Packer().pack_array_header(LARGE) + bytes(LARGE)
    return await sent(outside, header(outside, metadata=b"\x81\xa1x" + numbers), header(outside, metrics=numbers))


async def lists_of_100_000_numbers(outside: Outside) -> str:
    numbers = list(range(100_000))
    of_bytes = msgpack.packb({"x": [0] * 60_000})  # within 64 KiB
    return await sent(outside, header(outside, metadata={"x": numbers}), header(outside, metadata=of_bytes))


async def nested_lists(outside: Outside) -> str:
    deep = b"\x81\xa1x" + b"\x91" * LARGE + b"\xc0"
    shallow = b"\x81\xa1x" + b"\x91" * 60_000 + b"\xc0"
    claims = b"\x81\xa1x" + b"\xdd\x00\x00\x3f\xff" * 4000
    return await sent(outside, *(header(outside, metadata=each) for each in (deep, shallow, claims)))


async def many_facts(outside: Outside) -> str:
    """Send headers with as many metrics as may be in one, all at once."""
    made = header(outside, metrics={f"{number:04}": 1.0 for number in range(4000)}, size_bytes=1)
    caller = await outside.caller("insider")
    caller.metadata += (("metisfl-token", outside.insider.token),)
    return tally(await asyncio.gather(*(caller.told("TrainDone", made) for _ in range(25))))


async def many_dimensions(outside: Outside) -> str:
    tensors = [[str(number), "float32", [1] * 32, 64 * number] for number in range(16_384)]
    return await sent(outside, header(outside, manifest=tensors, size_bytes=64 * 16_383 + 4))


async def many_headers(outside: Outside) -> str:
    """Send headers of 16,384 tensors, all at once; each has names of its own, so that none is known already."""
    tensors = [[f"{number}-<>", "float32", [1] * 4, 64 * number] for number in range(16_384)]
    made = header(outside, manifest=tensors, size_bytes=1)
    caller = await outside.caller("insider")
    caller.metadata += (("metisfl-token", outside.insider.token),)
    names = (next(_two_bytes) for _ in range(10))
    return tally(await asyncio.gather(*(caller.told("TrainDone", made.replace(b"<>", name)) for name in names)))


async def a_terabyte(outside: Outside) -> str:
    tensors = [["0", "float32", [2**38], 0]]
    wrong = header(outside, manifest=tensors, size_bytes=2**40), header(outside, size_bytes=2**40)
    return tally([await sent(outside, wrong[1]), await outside.insider.pushed(wrong[0])])


async def overlapping_tensors(outside: Outside) -> str:
    tensors = [["0", "float32", [100], 0], ["1", "int64", [], 64]]
    return await sent(outside, header(outside, manifest=tensors, size_bytes=400))


async def another_dtype(outside: Outside) -> str:
    tensors = [["0", "object", [outside.size], 0], ["1", "int64", [], 4096]]
    arrays: list[Array] = [np.zeros(outside.size, np.float64), np.array(1, np.int64)]
    refused = await outside.insider.pushed(*outside.insider.frames(outside.insider.offer, arrays))
    return tally([await sent(outside, header(outside, manifest=tensors, size_bytes=4104)), refused])


# --- frames ----------------------------------------------------------------------------------------------------------


async def wrong_digest(outside: Outside) -> str:
    *frames, _ = outside.insider.update(1.0, outside.size)
    return tally([await outside.insider.pushed(*frames, End(bytes(16))) for _ in range(4)])


async def out_of_order(outside: Outside) -> str:
    insider, payload = outside.insider, memoryview(bytes(8))
    first, data, end = insider.update(1.0, outside.size)
    orders = [(first, Data(8, payload), end), (first, data, data, end), (first, first), (first, Data(0, payload[:0]))]
    return tally([await insider.pushed(*order) for order in orders])


async def no_end(outside: Outside) -> str:
    *frames, _ = outside.insider.update(1.0, outside.size)
    return await outside.insider.pushed(*frames)


async def tiny_frames(outside: Outside) -> str:
    """Send a good update a byte a frame."""
    first, *rest = outside.insider.update(1.0, outside.size)
    bytes_ = b"".join(bytes(frame.payload) for frame in rest if isinstance(frame, Data))
    view = memoryview(bytes_)
    frames = [Data(offset, view[offset : offset + 1]) for offset in range(len(view))]
    chunks = [encode(*frames[at : at + 16]) for at in range(0, len(frames), 16)]
    return await outside.insider.pushed(first, *chunks, rest[-1])


async def honest(outside: Outside) -> str:
    """Send a good update; what others are compared with that count."""
    return await outside.insider.pushed(*outside.insider.update(1.0, outside.size))


async def trickle(outside: Outside) -> str:
    """Send a byte, and another, until the controller loses its patience."""
    insider = outside.insider
    first, data, _ = insider.update(1.0, outside.size)

    async def once() -> str:
        call = insider.upload()
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):  # it is over; how, is read below
            await call.write(encode(first))
            await call.read()
            for offset in range(outside.size):
                await call.write(encode(Data(offset, data.payload[offset : offset + 1])))
                await asyncio.sleep(0.01)
        return await told(call)

    return await unspoilt(once)


async def a_replayed_update(outside: Outside) -> str:
    """Send an update again once it counted, other weights in its place, and other claims."""
    insider = outside.insider
    good, other = (insider.update(value, outside.size) for value in (1.0, 2.0))
    answers = [await insider.pushed(*good)]
    await insider.until(Counted)
    answers += [await insider.pushed(*frames) for frames in [good] * 5 + [other]]
    answers.append(await insider.pushed(*insider.update(1.0, outside.size, num_training_examples=2.0)))
    return tally(answers)


async def the_task_of_another(outside: Outside) -> str:
    """Send an update, a failure and an evaluation for a task that somebody else has."""
    accomplice = outside.insiders[1]
    accomplice.offer, own = outside.insider.offer, accomplice.offer
    answers = [await accomplice.pushed(*accomplice.update(9.0, outside.size))]
    for said in (Accept(accomplice.offer.task_id), Failed(accomplice.offer.task_id, "E", "")):
        await accomplice.stream.send(said)
    answers.append(type(await accomplice.until(Settled)).__name__)
    accomplice.offer = own
    return tally([*answers, await outside.insider.pushed(*outside.insider.update(1.0, outside.size))])


# --- weights and claims ----------------------------------------------------------------------------------------------


async def not_finite(outside: Outside) -> str:
    arrays = weights(math.nan, outside.size)
    return await outside.insider.pushed(*outside.insider.frames(outside.insider.offer, arrays))


async def infinite(outside: Outside) -> str:
    arrays = weights(1.0, outside.size)
    arrays[0][-1] = -math.inf
    return await outside.insider.pushed(*outside.insider.frames(outside.insider.offer, arrays))


async def claims(number: float, outside: Outside) -> str:
    return await outside.insider.pushed(*outside.insider.update(1.0, outside.size, num_training_examples=number))


async def wild_metrics(outside: Outside) -> str:
    """Report what no loss is, and then score what no accuracy is."""
    insider = outside.insider
    wild = {"loss": 1e300, "nan": math.nan, "x" * 1000: math.inf}
    answer = await insider.pushed(*insider.frames(insider.offer, weights(1.0, outside.size), metrics=wild))
    task = await insider.task()
    await insider.stream.send(Evaluated(task.task_id, {"accuracy": 1e300, "other": -1.7e308}))
    await insider.until(Settled)
    return answer


async def slow_claims(outside: Outside) -> str:
    slow = {"processing_ms_per_batch": 1e30, "processing_ms_per_epoch": 1e30}
    return await outside.insider.pushed(*outside.insider.update(1.0, outside.size, **slow))


# --- Tasks, and downloads --------------------------------------------------------------------------------------------


async def a_long_failure(outside: Outside) -> str:
    insider = outside.insider
    text = "\x1b[2J\r\n\u202e\x00" * 9_000
    await insider.stream.send(Failed(insider.offer.task_id, "E\n" * 1000, text))
    return type(await insider.until(Settled)).__name__


async def two_streams(outside: Outside) -> str:
    caller = await outside.caller("insider")
    hello = convert.learner_message(Hello(outside.insider.token, []))
    return tally([await caller.told("Tasks", hello) for _ in range(20)])


async def joins_again(outside: Outside) -> str:
    """Join again and again: each time, what came before is worth nothing."""
    caller, insider = await outside.caller("insider"), outside.insider
    joined = [await caller.answer("JoinFederation", join("insider")) for _ in range(200)]
    stale = await caller.told("FetchModel", convert.fetch_model((insider.token, ModelRef(FederationId(""), 0))))
    insider.token = Token(pb.JoinReply.FromString(joined[-1]).token)
    return stale


async def heartbeats(outside: Outside) -> str:
    """Send heartbeats as fast as they go, and read no answer."""
    with suppress(MetisError):
        for _ in range(3_000):
            await outside.insider.stream.send(Heartbeat())
    return "nothing"


async def unread_downloads(outside: Outside) -> str:
    """Fetch the model many times, and read the beginning only; most stays open until the federation is over."""
    caller, insider = await outside.caller("insider"), outside.insider
    request = convert.fetch_model((insider.token, ModelRef(insider.offer.model.federation_id, 0)))
    calls: list[grpc.aio.StreamStreamCall] = []

    async def one_more() -> str:
        """Begin another; once it is refused, how."""
        call = caller.begin("FetchModel", request)
        outside.left_open.callback(call.cancel)
        try:
            await call.read()
        except grpc.aio.AioRpcError:
            return await told(call)
        calls.append(call)
        return ""

    while not (refusal := await unspoilt(one_more)) and len(calls) < 1000:
        pass
    answer = f"{len(calls) // 10 * 10} are open, then {refusal}"
    for call in calls[:5]:
        call.cancel()
    while (await caller.told("LeaveFederation", convert.leave(insider.token))).startswith("UNAVAILABLE"):
        pass  # it could not even do that
    return answer
