"""What takes bytes from the network: each target reads them, and may raise the errors that are documented for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgpack
import numpy as np

from metisfl_async.codec.chunk import MAX_FRAMES, split
from metisfl_async.codec.coded import Layout
from metisfl_async.codec.coding import Bf16, Int8, TopK
from metisfl_async.codec.frame import Assembly, Header, decode, encode, frames_of
from metisfl_async.codec.manifest import manifest_from_wire, packed_manifest
from metisfl_async.core.errors import CodecError, WrongProtocol
from metisfl_async.core.federation.events import LearnerJoined, RoundFinished, event_to_dict
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.model import Manifest, Model, allocate
from metisfl_async.transport import convert, convert_driver
from metisfl_async.transport._proto import metisfl_pb2 as pb

__all__ = ["TARGETS", "Target"]

MODEL = Model.from_arrays([np.arange(20, dtype=np.float32), np.arange(5), np.array(3.14)], ["w", "b", "c"])
HEADER = Header(
    "update", MODEL.manifest, 3, "1" * 32, {"loss": 0.5}, {"site": "a", "sizes": [1, 2.5, None]}, "3" * 32, bytes(16)
)
FRAMES = list(frames_of(HEADER, MODEL))
ZEROS = Model.filled(MODEL.manifest, [np.zeros_like(array) for array in MODEL.arrays()])
LAYOUTS = [Layout.of(coding, MODEL.manifest) for coding in (Bf16(), Int8(), TopK(0.2))]
MOST_BYTES = 2**20  #: of a model that is put together


@dataclass(frozen=True)
class Target:
    """Reads bytes that were spoiled; anything but `allowed` is a bug."""

    read: Callable[[bytes], object]
    seeds: Sequence[bytes]
    allowed: tuple[type[Exception], ...] = (CodecError,)


def chunk(data: bytes) -> None:
    frames = split(data)
    assert 1 <= len(frames) <= MAX_FRAMES
    assert pb.Chunk.FromString(data).frames == frames  # protobuf reads the same


def frame(data: bytes) -> None:
    read = decode(memoryview(data))
    if isinstance(read, Header):
        again = decode(split(encode(read))[0])
        assert msgpack.packb([again.metrics, again.metadata]) == msgpack.packb([read.metrics, read.metadata])  # type: ignore[union-attr]


def manifest(data: bytes) -> None:
    if not data:
        return  # a value has a byte
    read: list[Manifest] = []

    def steps() -> Generator[None, None, None]:
        read.append((yield from manifest_from_wire(memoryview(data))))

    for _ in steps():
        pass
    assert msgpack.unpackb(packed_manifest(read[0]), strict_map_key=False) is not None


def stream(data: bytes) -> None:
    """Put a model together, of chunks behind each other."""
    header, *rest = map(decode, split(data))
    if not isinstance(header, Header) or header.manifest.size_bytes > MOST_BYTES:
        return
    assembly = Assembly(header, allocate(header.manifest.size_bytes))
    for each in rest:
        assembly.add(each)


def coded(data: bytes) -> None:
    """Make updates whole of which the parts are these bytes."""
    for layout in LAYOUTS:
        buffer = allocate(layout.coded.size_bytes)
        buffer[:] = np.frombuffer(data[: len(buffer)].ljust(len(buffer), b"\0"), np.uint8)
        with suppress(CodecError):
            assert layout.decoded(Model(layout.coded, buffer), MODEL).manifest is MODEL.manifest


def of(message: object) -> list[bytes]:
    """Give a message as bytes, and none."""
    return [message.SerializeToString(), b""]  # type: ignore[attr-defined]


SIGNALS = pb.TerminationSignals(federation_rounds=3, evaluation_metric="loss", evaluation_metric_cutoff_score=0.5)
ANSWER = pb.Answer(question_id="1", answer_json='{"mean": [0.5]}')
CONTRIBUTOR = pb.Contributor(metrics={"loss": 0.5}, weight=40.0, num_learners=3)
LEARNER = [
    pb.LearnerMessage(hello=pb.Hello(token="t", held=[pb.HeldTask(task_id="1", kind="train", model_version=2)])),
    pb.LearnerMessage(accept=pb.Accept(task_id="1")),
    pb.LearnerMessage(heartbeat=pb.Heartbeat()),
    pb.LearnerMessage(evaluated=pb.Evaluated(task_id="1", metrics={"loss": 0.5, "accuracy": 1.0})),
    pb.LearnerMessage(evaluated=pb.Evaluated(task_id="1", contributors={"a": CONTRIBUTOR, "b/c": pb.Contributor()})),
    pb.LearnerMessage(failed=pb.Failed(task_id="1", error_type="ValueError", message="no data")),
    pb.LearnerMessage(answer=ANSWER),
]
OFFER = pb.TaskOffer(task_id="1", kind="train", round_number=1, config_json='{"epochs": [1, {"x": null}]}')
CONTROLLER = [
    pb.ControllerMessage(counted=["1", "2"], task=OFFER),
    pb.ControllerMessage(welcome=pb.Welcome(verdicts=[pb.TaskVerdict(task_id="1", verdict="upload", reason="late")])),
    pb.ControllerMessage(settled=pb.Settled(task_id="1")),
    pb.ControllerMessage(question=pb.Question(question_id="1", method="describe", params_json='{"bins": [3]}')),
    pb.ControllerMessage(withdrawn=pb.Withdrawn(task_id="1", reason="late")),
    pb.ControllerMessage(farewell=pb.Farewell(reason="over", model_version=3, then="stay")),
]
PEM = b"-----BEGIN CERTIFICATE-----"
START = pb.StartRequest(
    signals=SIGNALS,
    num_learners=2,
    federation_id="f",
    protocol=3,
    learners=[pb.NamedLearner(hostname="site-1", port=1, root_certificate=0)],
    root_certificates=[PEM],
)
EVENTS = [json.dumps(event_to_dict(event)) for event in (LearnerJoined("a", 1), RoundFinished(RoundRecord(1, 0)))]

#: By the name of what is read; a protobuf message has its own.
TARGETS: dict[str, Target] = {
    "chunk": Target(chunk, [encode(*FRAMES), encode(FRAMES[0]), b"\x0a\x01a\x12\x01b\x18\x01"]),
    "frame": Target(frame, [bytes(split(encode(each))[0]) for each in FRAMES]),
    "manifest": Target(manifest, [packed_manifest(MODEL.manifest)]),
    "stream": Target(stream, [encode(*FRAMES)]),
    "coded": Target(coded, [layout.encoded(MODEL, ZEROS).buffer.tobytes() for layout in LAYOUTS]),
    "JoinRequest": Target(
        convert.from_join_request,
        of(pb.JoinRequest(learner_id="a", token="t", protocol=3, address="h:1", secret="s")),
        (CodecError, WrongProtocol),
    ),
    "JoinReply": Target(
        convert.from_join_reply,
        of(pb.JoinReply(learner_id="a", token="t", heartbeat_secs=1, lease_secs=2, protocol=3)),
        (CodecError, WrongProtocol),
    ),
    "LeaveRequest": Target(convert.from_leave, of(pb.LeaveRequest(token="t"))),
    "LearnerMessage": Target(convert.from_learner_message, [each.SerializeToString() for each in LEARNER]),
    "ControllerMessage": Target(convert.from_controller_message, [each.SerializeToString() for each in CONTROLLER]),
    "ReportRequest": Target(convert.from_report, of(pb.ReportRequest(token="t", message=LEARNER[3]))),
    "ConfirmRequest": Target(convert.from_confirm_join, of(pb.ConfirmRequest(secret="s"))),
    "Delivery": Target(convert.from_delivery, of(pb.Delivery(token="t", number=1, message=CONTROLLER[0]))),
    "GetModelRequest": Target(convert.from_get_model, of(pb.GetModelRequest(token="t"))),
    "FetchModelRequest": Target(
        convert.from_fetch_model, of(pb.FetchModelRequest(token="t", federation_id="f", model_version=3))
    ),
    "UpdateReply": Target(convert.from_update_reply, of(pb.UpdateReply(state="folded", reason="it is"))),
    "StartRequest": Target(convert_driver.from_start_request, of(START), (CodecError, WrongProtocol)),
    "AskRequest": Target(
        convert_driver.from_ask,
        of(pb.AskRequest(method="describe", params_json='{"bins": [3]}', timeout_secs=1, num_learners=2)),
    ),
    "AskReply": Target(convert_driver.from_answer, of(pb.AskReply(learner_id="a", answer=ANSWER))),
    "Status": Target(
        convert_driver.from_status,
        of(
            pb.Status(
                federation_id="f",
                is_finished=True,
                protocol=3,
                signals=SIGNALS,
                best=pb.BestModel(metric="accuracy", score=0.5, model_version=2, round_number=2),
            )
        ),
        (CodecError, WrongProtocol),
    ),
    "FederationRequest": Target(convert_driver.from_federation, of(pb.FederationRequest(federation_id="f"))),
    "WatchRequest": Target(convert_driver.from_watch, of(pb.WatchRequest(federation_id="f", seen=3, run="r"))),
    "EvaluationReport": Target(
        convert_driver.from_evaluation,
        of(pb.EvaluationReport(federation_id="f", model_version=3, is_done=True, metrics={"loss": 0.5}, message="x")),
    ),
    "StopRequest": Target(convert_driver.from_stop, of(pb.StopRequest(federation_id="f", reason="enough"))),
    "ShutDownRequest": Target(
        convert_driver.from_shut_down, of(pb.ShutDownRequest(federation_id="f", keep_running=True))
    ),
    "Json": Target(convert_driver.from_events, of(pb.Json(json=EVENTS))),
    "Json of a record": Target(convert_driver.from_record, of(pb.Json(json=[json.dumps(RoundRecord(1, 0).to_dict())]))),
}
