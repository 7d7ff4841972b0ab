"""What docs/wire.md says is answered to a mistake, as any gRPC library sees it: status codes and their text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc.aio
import msgpack
import pytest

from metisfl_async import Controller, ServerParams
from metisfl_async.core.messages import PROTOCOL
from metisfl_async.transport._proto import metisfl_pb2 as pb

HEADER = {"kind": "update", "codec": "raw", "model_version": 0, "size_bytes": 0, "manifest": []}
TENSOR = ["w", "float32", [2], 0]


class Stranger:
    """Calls methods with bytes of its own making."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.token = ""

    async def call(self, method: str, *requests: bytes) -> list[bytes]:
        """Send all requests, close that half, and read to the end; what is raised has the status."""
        call = self._channel.stream_stream(f"/metisfl_async.v1.Controller/{method}")(
            iter(requests), metadata=[("metisfl-token", self.token)]
        )
        return [reply async for reply in call]

    async def join(self, learner_id: str, token: str = "") -> pb.JoinReply:
        (reply,) = await self.call("JoinFederation", _join(learner_id, token))
        return pb.JoinReply.FromString(reply)

    async def refusal(self, method: str, *requests: bytes) -> tuple[grpc.StatusCode, Any]:
        """The status of a call that must fail, and the JSON in its text."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, *requests)
        return caught.value.code(), json.loads(caught.value.details() or "")


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    async with (
        Controller(ServerParams()) as controller,
        grpc.aio.insecure_channel(controller.address) as channel,
    ):
        yield Stranger(channel)


def _join(learner_id: str, token: str = "", protocol: int = PROTOCOL) -> bytes:
    return pb.JoinRequest(learner_id=learner_id, token=token, protocol=protocol).SerializeToString()


def _start(**fields: Any) -> bytes:
    signals = pb.TerminationSignals(federation_rounds=1, mode="max")
    facts: dict[str, Any] = {"signals": signals, "federation_id": "f", "protocol": PROTOCOL} | fields
    return pb.StartRequest(**facts).SerializeToString()


def _said(**message: Any) -> bytes:
    return pb.LearnerMessage(**message).SerializeToString()


def _chunk(value: object) -> bytes:
    return pb.Chunk(frames=[msgpack.packb(value)]).SerializeToString()


def _header(**fields: object) -> bytes:
    return _chunk(HEADER | fields)


INVALID, NOT_NOW = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
HELLO = _said(hello=pb.Hello(token="unknown"))


@pytest.mark.parametrize(
    ("method", "requests", "code", "error"),
    [
        ("JoinFederation", [_join("x" * 129)], INVALID, "ConfigError"),
        ("JoinFederation", [_join("two\nlines")], INVALID, "ConfigError"),
        ("JoinFederation", [b"\xff"], INVALID, "Damaged"),
        ("Tasks", [HELLO], NOT_NOW, "UnknownLearner"),
        ("Tasks", [_said(heartbeat=pb.Heartbeat())], NOT_NOW, "UnexpectedMessage"),
        ("Tasks", [_said()], INVALID, "Damaged"),
        ("Tasks", [b"\xff"], INVALID, "Damaged"),
        ("Tasks", [_said(hello=pb.Hello(token="x" * 2**17))], INVALID, "TooLarge"),
        ("Tasks", [_said(hello=pb.Hello(held=[pb.HeldTask()] * 1025))], INVALID, "Damaged"),
        ("FetchModel", [pb.FetchModelRequest(token="unknown").SerializeToString()], NOT_NOW, "UnknownLearner"),
        ("LeaveFederation", [pb.LeaveRequest(token="unknown").SerializeToString()], NOT_NOW, "UnknownLearner"),
        ("JoinFederation", [_join("a", protocol=0)], NOT_NOW, "WrongProtocol"),
        ("StartTraining", [_start(protocol=0)], NOT_NOW, "WrongProtocol"),
        ("StartTraining", [_start(has_model=True)], NOT_NOW, "UnexpectedMessage"),
        ("GetModel", [b""], NOT_NOW, "UnknownFederation"),
        ("GetLogs", [b""], NOT_NOW, "UnknownFederation"),
        ("WatchEvents", [b""], NOT_NOW, "UnknownFederation"),
        ("StopTraining", [b""], NOT_NOW, "UnknownFederation"),
        ("JoinFederation", [], INVALID, "Truncated"),
        ("FetchModel", [], INVALID, "Truncated"),
        ("TrainDone", [], INVALID, "Truncated"),
        ("TrainDone", [b""], INVALID, "Damaged"),
        ("TrainDone", [_chunk([0, b"payload first"])], INVALID, "Damaged"),
        ("TrainDone", [_header(kind="global")], INVALID, "Damaged"),
        ("TrainDone", [_header(codec="zip")], INVALID, "Damaged"),
        ("TrainDone", [_header(size_bytes=1)], INVALID, "Damaged"),
        ("TrainDone", [_header(manifest=[TENSOR], size_bytes=8, metadata={"raw": b"binary"})], INVALID, "Damaged"),
        ("TrainDone", [_header(metadata={"text": "x" * 2**16})], INVALID, "TooLarge"),
        ("TrainDone", [_header(manifest=[["w", "float128", [2], 0]])], INVALID, "UnknownDtype"),
        ("TrainDone", [_header(manifest=[TENSOR, ["b", "float32", [], 8]], size_bytes=12)], INVALID, "Damaged"),
        ("TrainDone", [_header(content=b"short")], INVALID, "Damaged"),
        ("TrainDone", [_header(a_key_of_tomorrow=1)], NOT_NOW, "UnknownFederation"),
    ],
)
async def test_a_mistake_is_answered_with_a_code_and_a_name(
    stranger: Stranger, method: str, requests: Sequence[bytes], code: grpc.StatusCode, error: str
) -> None:
    stranger.token = (await stranger.join("known")).token
    status, told = await stranger.refusal(method, *requests)
    assert (status, told["error"]) == (code, error), told
    assert set(told) == {"error", "facts"}
    assert all(isinstance(fact, str | int) for fact in told["facts"])


async def test_a_learner_is_known_by_its_latest_token_alone(stranger: Stranger) -> None:
    first = await stranger.join("a")
    again = await stranger.join("a")
    assert (first.incarnation, again.incarnation) == (1, 2)
    leave = pb.LeaveRequest(token=first.token).SerializeToString()
    assert await stranger.refusal("LeaveFederation", leave) == (
        NOT_NOW,
        {"error": "UnknownLearner", "facts": [first.token[:6] + "..."]},
    )
    assert await stranger.call("LeaveFederation", pb.LeaveRequest(token=again.token).SerializeToString()) == [b""]


async def test_who_is_connected_is_joined_again_only_with_its_token(stranger: Stranger) -> None:
    joined = await stranger.join("a")
    tasks = stranger._channel.stream_stream("/metisfl_async.v1.Controller/Tasks")()
    await tasks.write(_said(hello=pb.Hello(token=joined.token)))
    assert pb.ControllerMessage.FromString(await tasks.read()).WhichOneof("message") == "welcome"
    superseded = (NOT_NOW, {"error": "Superseded", "facts": ["a"]})
    assert await stranger.refusal("JoinFederation", _join("a", "guessed")) == superseded
    assert await stranger.refusal("Tasks", _said(hello=pb.Hello(token=joined.token))) == superseded
    assert (await stranger.join("a", joined.token)).incarnation == 2
    assert await tasks.read() is grpc.aio.EOF  # the older connection ends, without an error
    assert await tasks.code() is grpc.StatusCode.OK


async def test_an_update_is_not_looked_at_without_a_token_that_is_known(stranger: Stranger) -> None:
    for token, shown in (("", "..."), ("unknown", "unknow...")):
        stranger.token = token
        for chunk in (_header(), b"\xff", _chunk({"kind": "x" * 2**20})):
            refused = (NOT_NOW, {"error": "UnknownLearner", "facts": [shown]})
            assert await stranger.refusal("TrainDone", chunk) == refused


@pytest.mark.parametrize("say", ["evaluated", "failed"])
async def test_outcomes_of_unknown_tasks_are_settled(stranger: Stranger, say: str) -> None:
    joined = await stranger.join("a")
    outcome = {"evaluated": pb.Evaluated(task_id="x"), "failed": pb.Failed(task_id="x")}[say]
    unknown = pb.Accept(task_id="x")
    said = [_said(hello=pb.Hello(token=joined.token)), _said(accept=unknown), _said(**{say: outcome})]
    tasks = stranger._channel.stream_stream("/metisfl_async.v1.Controller/Tasks")()
    for message in said:
        await tasks.write(message)
    heard = [pb.ControllerMessage.FromString(await tasks.read()) for _ in range(2)]
    tasks.cancel()
    assert [message.WhichOneof("message") for message in heard] == ["welcome", "settled"]
    assert heard[1].settled.task_id == "x"


async def test_an_update_for_an_unknown_task_is_refused_in_place_of_send(stranger: Stranger) -> None:
    stranger.token = (await stranger.join("a")).token
    header = {"task_id": "0" * 32}
    for federation_id in ("", "f"):
        status, told = await stranger.refusal("TrainDone", _header(**header, federation_id=federation_id))
        assert (status, told) == (NOT_NOW, {"error": "UnknownFederation", "facts": [federation_id, ""]})
    await stranger.call("StartTraining", _start())
    joined = await stranger.join("a")
    assert joined.federation_id == "f"
    stranger.token = joined.token
    replies = await stranger.call("TrainDone", _header(**header, federation_id="f"))
    (reply,) = (pb.UpdateReply.FromString(data) for data in replies)
    assert (reply.state, reply.reason) == ("refused", "no such task; its round is over")
