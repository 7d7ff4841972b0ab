"""Messages of learners to protobuf bytes and back. A message that is not understood raises `Damaged`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from metisfl_async.core import messages as m
from metisfl_async.core.checks import heartbeats
from metisfl_async.core.codecs import RAW
from metisfl_async.core.errors import Damaged, TooLarge, WrongProtocol, brief
from metisfl_async.core.federation.tasks import HeldTask, TaskKind, Verdict
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, TaskId, Token
from metisfl_async.core.params import Params
from metisfl_async.core.texts import plain
from metisfl_async.transport._proto import metisfl_pb2 as pb
from metisfl_async.transport.convert_evaluated import evaluated_in, packed_evaluated
from metisfl_async.transport.convert_question import (
    answer_in,
    json_object,
    packed_answer,
    packed_question,
    question_in,
)

__all__ = [
    "GO_AHEAD",
    "MAX_MESSAGE_BYTES",
    "MAX_REQUEST_BYTES",
    "confirm_join",
    "controller_message",
    "delivery",
    "delivery_method",
    "fetch_model",
    "from_confirm_join",
    "from_controller_message",
    "from_delivery",
    "from_fetch_model",
    "from_get_model",
    "from_join_reply",
    "from_join_request",
    "from_learner_message",
    "from_leave",
    "from_report",
    "from_update_reply",
    "get_model",
    "join_reply",
    "join_request",
    "learner_message",
    "leave",
    "reader",
    "report",
    "update_reply",
]

MAX_MESSAGE_BYTES = 128 * 1024  #: of a learner on its Tasks stream: an evaluation of some thousand metrics
MAX_REQUEST_BYTES = 64 * 1024  #: of any other request
MAX_TOKEN_CHARS = 1024  #: in the metadata of a call
MAX_HELD = 1024  #: tasks of one learner; an honest one holds a few

P = TypeVar("P", bound=Message)
R = TypeVar("R")


def reader(kind: type[P], read: Callable[[P], R], most_bytes: int | None = None) -> Callable[[bytes], R]:
    """Make a function that parses the bytes and reads the message; whatever is wrong becomes `Damaged`.

    A message of more than `most_bytes` is refused before it is parsed, which would keep the event loop.
    """
    name = kind.DESCRIPTOR.name

    def from_bytes(data: bytes) -> R:
        if most_bytes is not None and len(data) > most_bytes:
            raise TooLarge(name, f"{len(data)} bytes; at most {most_bytes}")
        try:
            return read(kind.FromString(data))
        except (DecodeError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Damaged(name, str(error) or type(error).__name__) from error

    return from_bytes


# --- joining and leaving ---------------------------------------------------------------------------------------------


def join_request(request: m.JoinRequest) -> bytes:
    return pb.JoinRequest(
        learner_id=request.learner_id,
        token=request.token,
        address=request.address,
        secret=request.secret,
        protocol=request.protocol,
    ).SerializeToString()


from_join_request = reader(
    pb.JoinRequest,
    lambda p: m.JoinRequest(LearnerId(p.learner_id), Token(p.token), p.address, p.secret, p.protocol),
    MAX_REQUEST_BYTES,
)


def join_reply(reply: m.JoinReply) -> bytes:
    return pb.JoinReply(
        learner_id=reply.learner_id,
        token=reply.token,
        incarnation=reply.incarnation,
        heartbeat_secs=reply.heartbeat_secs,
        lease_secs=reply.lease_secs,
        max_model_bytes=reply.max_model_bytes,
        federation_id=reply.federation_id,
        protocol=m.PROTOCOL,
        update_codec=reply.update_codec,
        download_codec=reply.download_codec,
        relays=reply.relays,
        own_connection_bytes=reply.own_connection_bytes,
    ).SerializeToString()


def _printable(token: str) -> Token:
    """Let a token pass that can stand in the metadata of a call."""
    if len(token) > MAX_TOKEN_CHARS or not (token.isascii() and token.isprintable()):
        allowed = f"at most {MAX_TOKEN_CHARS} printable ASCII characters"
        raise Damaged("JoinReply", f"token {brief(token)}; allowed: {allowed}")
    return Token(token)


def _join_reply(p: pb.JoinReply) -> m.JoinReply:
    if p.protocol != m.PROTOCOL:
        raise WrongProtocol("the controller", p.protocol, m.PROTOCOL)
    heartbeats(p.heartbeat_secs, p.lease_secs)
    return m.JoinReply(
        LearnerId(p.learner_id),
        _printable(p.token),
        p.incarnation,
        p.heartbeat_secs,
        p.lease_secs,
        p.max_model_bytes,
        FederationId(p.federation_id),
        p.update_codec or RAW,
        p.download_codec or RAW,
        tuple(p.relays),
        p.own_connection_bytes or m.OWN_CONNECTION_BYTES,
    )


from_join_reply = reader(pb.JoinReply, _join_reply)


def leave(token: Token) -> bytes:
    return pb.LeaveRequest(token=token).SerializeToString()


from_leave = reader(pb.LeaveRequest, lambda p: Token(p.token), MAX_REQUEST_BYTES)


# --- the Tasks stream ------------------------------------------------------------------------------------------------


def learner_message(message: m.LearnerMessage) -> bytes:
    return _packed_learner_message(message).SerializeToString()


def _packed_learner_message(message: m.LearnerMessage) -> pb.LearnerMessage:
    packed = pb.LearnerMessage()
    match message:
        case m.Hello(token, held):
            held_tasks = [
                pb.HeldTask(
                    task_id=task.task_id,
                    is_done=task.is_done,
                    kind=task.kind,
                    federation_id=task.model.federation_id,
                    model_version=task.model.version,
                )
                for task in held
            ]
            packed.hello.CopyFrom(pb.Hello(token=token, held=held_tasks))
        case m.Accept(task_id):
            packed.accept.task_id = task_id
        case m.Heartbeat():
            packed.heartbeat.SetInParent()
        case m.Evaluated():
            packed.evaluated.CopyFrom(packed_evaluated(message))
        case m.Failed(task_id, error_type, text):
            packed.failed.CopyFrom(pb.Failed(task_id=task_id, error_type=error_type, message=text))
        case m.Answer():
            packed.answer.CopyFrom(packed_answer(message))
    return packed


def _learner_message(p: pb.LearnerMessage) -> m.LearnerMessage:
    match p.WhichOneof("message"):
        case "hello":
            if len(p.hello.held) > MAX_HELD:
                raise ValueError(f"{len(p.hello.held)} held tasks; at most {MAX_HELD}")
            return m.Hello(Token(p.hello.token), [_held_task(task) for task in p.hello.held])
        case "accept":
            return m.Accept(TaskId(p.accept.task_id))
        case "heartbeat":
            return m.Heartbeat()
        case "evaluated":
            return evaluated_in(p.evaluated)
        case "failed":
            return m.Failed(TaskId(p.failed.task_id), p.failed.error_type, p.failed.message)
        case "answer":
            return answer_in(p.answer)
        case _:
            raise ValueError("no message that is known here")


def _held_task(p: pb.HeldTask) -> HeldTask:
    return HeldTask(TaskId(p.task_id), p.is_done, p.kind, ModelRef(FederationId(p.federation_id), p.model_version))


from_learner_message = reader(pb.LearnerMessage, _learner_message, MAX_MESSAGE_BYTES)


def controller_message(messages: Sequence[m.ControllerMessage]) -> bytes:
    """Pack messages that go together: one, before which a `Counted` may stand."""
    return _packed_controller_message(messages).SerializeToString()


def _packed_controller_message(messages: Sequence[m.ControllerMessage]) -> pb.ControllerMessage:
    packed = pb.ControllerMessage()
    for message in messages:
        _pack_controller_message(message, packed)
    return packed


def _pack_controller_message(message: m.ControllerMessage, packed: pb.ControllerMessage) -> None:
    match message:
        case m.Counted(task_ids):
            packed.counted.extend(task_ids)
        case m.Welcome(verdicts):
            packed.welcome.SetInParent()
            for task_id, (verdict, reason) in verdicts.items():
                packed.welcome.verdicts.add(task_id=task_id, verdict=verdict, reason=reason)
        case m.TaskOffer(task_id, kind, round_number, (federation_id, version), config, seed):
            packed.task.CopyFrom(
                pb.TaskOffer(
                    task_id=task_id,
                    kind=kind,
                    round_number=round_number,
                    model_version=version,
                    config_json=config.text if isinstance(config, Params) else json.dumps(config),
                    federation_id=federation_id,
                    seed=seed,
                )
            )
        case m.Settled(task_id):
            packed.settled.task_id = task_id
        case m.Withdrawn(task_id, reason):
            packed.withdrawn.CopyFrom(pb.Withdrawn(task_id=task_id, reason=reason))
        case m.Heartbeat():
            packed.heartbeat.SetInParent()
        case m.Question():
            packed.question.CopyFrom(packed_question(message))
        case m.Farewell(reason, model, then):
            packed.farewell.CopyFrom(
                pb.Farewell(
                    reason=reason,
                    model_version=None if model is None else model.version,
                    federation_id="" if model is None else model.federation_id,
                    then=then,
                )
            )


def _controller_message(p: pb.ControllerMessage) -> list[m.ControllerMessage]:
    """Read messages that go together; what a newer controller says and we do not know becomes `Unknown`."""
    messages: list[m.ControllerMessage] = []
    if p.counted:
        messages.append(m.Counted(tuple(TaskId(task_id) for task_id in p.counted)))
    kind = p.WhichOneof("message")
    if kind is not None or not p.counted:
        try:
            messages.append(_one_controller_message(kind, p))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            what = f"{kind or 'a message of no known kind'}: {brief(str(error))}"
            messages.append(m.Unknown(what, TaskId(p.task.task_id) if kind == "task" else None))
    return messages


def _one_controller_message(kind: str | None, p: pb.ControllerMessage) -> m.ControllerMessage:
    match kind:
        case "welcome":
            return m.Welcome({TaskId(v.task_id): (Verdict(v.verdict), plain(v.reason)) for v in p.welcome.verdicts})
        case "task":
            config = json_object(p.task.config_json, "config_json")
            model = ModelRef(FederationId(p.task.federation_id), p.task.model_version)
            task_id, kind, number, seed = TaskId(p.task.task_id), p.task.kind, p.task.round_number, int(p.task.seed)
            return m.TaskOffer(task_id, TaskKind(kind), number, model, config, seed)
        case "settled":
            return m.Settled(TaskId(p.settled.task_id))
        case "withdrawn":
            return m.Withdrawn(TaskId(p.withdrawn.task_id), plain(p.withdrawn.reason))
        case "heartbeat":
            return m.Heartbeat()
        case "question":
            return question_in(p.question)
        case "farewell":
            of_federation = FederationId(p.farewell.federation_id)
            has_model = p.farewell.HasField("model_version")
            final = ModelRef(of_federation, p.farewell.model_version) if has_model else None
            return m.Farewell(plain(p.farewell.reason), final, m.Afterwards(p.farewell.then or "leave"))
        case _:
            raise ValueError("a newer version may know it")


from_controller_message = reader(pb.ControllerMessage, _controller_message)


# --- learners that listen --------------------------------------------------------------------------------------------


def report(said: tuple[Token, m.LearnerMessage]) -> bytes:
    return pb.ReportRequest(token=said[0], message=_packed_learner_message(said[1])).SerializeToString()


from_report = reader(pb.ReportRequest, lambda p: (Token(p.token), _learner_message(p.message)), MAX_MESSAGE_BYTES)


def confirm_join(secret: str) -> bytes:
    return pb.ConfirmRequest(secret=secret).SerializeToString()


from_confirm_join = reader(pb.ConfirmRequest, lambda p: str(p.secret), MAX_REQUEST_BYTES)


def delivery(told: tuple[Token, int, Sequence[m.ControllerMessage]]) -> bytes:
    token, number, messages = told
    return pb.Delivery(token=token, number=number, message=_packed_controller_message(messages)).SerializeToString()


from_delivery = reader(pb.Delivery, lambda p: (Token(p.token), int(p.number), _controller_message(p.message)))


def delivery_method(messages: Sequence[m.ControllerMessage]) -> str:
    """Name the method of the service Learner that carries messages that go together."""
    match messages[-1]:
        case m.TaskOffer(kind=TaskKind.TRAIN):
            return "Train"
        case m.TaskOffer(kind=TaskKind.EVALUATE):
            return "Evaluate"
        case m.Farewell():
            return "ShutDown"
        case _:
            return "Tell"


def get_model(token: Token) -> bytes:
    return pb.GetModelRequest(token=token).SerializeToString()


from_get_model = reader(pb.GetModelRequest, lambda p: Token(p.token), MAX_REQUEST_BYTES)


# --- models ----------------------------------------------------------------------------------------------------------


def fetch_model(request: tuple[Token, ModelRef], codec: str = RAW) -> bytes:
    token, (federation_id, version) = request
    return pb.FetchModelRequest(
        token=token, model_version=version, federation_id=federation_id, codec=codec
    ).SerializeToString()


from_fetch_model = reader(
    pb.FetchModelRequest,
    lambda p: (Token(p.token), ModelRef(FederationId(p.federation_id), int(p.model_version)), p.codec or RAW),
    MAX_REQUEST_BYTES,
)


GO_AHEAD = pb.UpdateReply(state="send").SerializeToString()


def update_reply(reply: m.UpdateReply) -> bytes:
    return pb.UpdateReply(state=reply.outcome, reason=reply.reason).SerializeToString()


from_update_reply = reader(pb.UpdateReply, lambda p: m.UpdateReply(m.Outcome(p.state), plain(p.reason)))
