"""Messages of drivers to protobuf bytes and back. A message that is not understood raises `Damaged`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from google.protobuf.message import Message

from metisfl_async.core import messages as m
from metisfl_async.core.config import ClientParams, TerminationSignals, named_learners
from metisfl_async.core.errors import WrongProtocol
from metisfl_async.core.federation.events import Told, event_from_dict
from metisfl_async.core.federation.inputs import CentralEvaluation
from metisfl_async.core.federation.records import BestScore, RoundRecord
from metisfl_async.core.ids import FederationId, LearnerId
from metisfl_async.transport._proto import metisfl_pb2 as pb
from metisfl_async.transport.convert import MAX_MESSAGE_BYTES, MAX_REQUEST_BYTES, reader
from metisfl_async.transport.convert_question import answer_in, json_object, packed_answer

__all__ = [
    "MAX_CERTIFICATE_BYTES",
    "MAX_NAMED",
    "MAX_START_BYTES",
    "answer",
    "ask",
    "evaluation",
    "events",
    "federation",
    "from_answer",
    "from_ask",
    "from_evaluation",
    "from_events",
    "from_federation",
    "from_get_model",
    "from_record",
    "from_shut_down",
    "from_start_request",
    "from_status",
    "from_stop",
    "from_watch",
    "get_model",
    "record",
    "shut_down",
    "start_request",
    "status",
    "stop",
    "watch",
]

MAX_START_BYTES = 2**20  #: of a request to start, with learners that listen and their certificates
MAX_NAMED = 4096  #: such learners
MAX_CERTIFICATE_BYTES = 16 * 1024  #: of each root certificate
NEWS_BYTES = 2**20  #: of events that a driver is told together


def _packed_learners(learners: Sequence[ClientParams]) -> tuple[list[pb.NamedLearner], list[bytes]]:
    """Pack the learners that listen, and each of their root certificates once."""
    certificates = [learner.root_certificate_bytes for learner in learners]
    places = {pem: place for place, pem in enumerate(dict.fromkeys(pem for pem in certificates if pem is not None))}
    named = [
        pb.NamedLearner(
            hostname=learner.hostname, port=learner.port, root_certificate=places[pem] if pem is not None else None
        )
        for learner, pem in zip(learners, certificates, strict=True)
    ]
    return named, list(places)


def start_request(request: m.StartRequest) -> bytes:
    named, certificates = _packed_learners(request.learners)
    return pb.StartRequest(
        signals=_packed_signals(request.signals),
        num_learners=request.num_learners,
        seed=request.seed,
        join_timeout_secs=request.join_timeout_secs,
        federation_id=request.federation_id,
        learners=named,
        root_certificates=certificates,
        has_model=request.has_model,
        evaluates=request.evaluates,
        protocol=request.protocol,
    ).SerializeToString()


def _packed_signals(signals: TerminationSignals) -> pb.TerminationSignals:
    return pb.TerminationSignals(
        federation_rounds=signals.federation_rounds,
        global_updates=signals.global_updates,
        execution_cutoff_time_mins=signals.execution_cutoff_time_mins,
        evaluation_metric=signals.evaluation_metric,
        evaluation_metric_cutoff_score=signals.evaluation_metric_cutoff_score,
        mode=signals.mode,
        patience_rounds=signals.patience_rounds,
        min_delta=signals.min_delta,
    )


def _given(message: Message) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields()}


def _start_request(p: pb.StartRequest) -> m.StartRequest:
    if p.protocol != m.PROTOCOL:
        raise WrongProtocol("the driver", p.protocol, m.PROTOCOL)
    return m.StartRequest(
        TerminationSignals(**_given(p.signals)),
        p.num_learners,
        p.seed,
        _timeout(p),
        FederationId(p.federation_id),
        _learners(p),
        p.has_model,
        p.evaluates,
        p.protocol,
    )


def _timeout(p: pb.StartRequest | pb.AskRequest) -> float | None:
    timeout = _given(p).get("join_timeout_secs")
    if timeout is not None and not 0 < timeout < math.inf:
        raise ValueError(f"join_timeout_secs is {timeout}; allowed: a finite number > 0")
    return timeout


def _learners(p: pb.StartRequest | pb.AskRequest) -> tuple[ClientParams, ...]:
    """Read the learners that listen."""
    if len(p.learners) > MAX_NAMED:
        raise ValueError(f"{len(p.learners)} learners; at most {MAX_NAMED}")
    certificates = list(p.root_certificates)  # once: each look at one there is a copy
    if any(len(pem) > MAX_CERTIFICATE_BYTES for pem in certificates):
        raise ValueError(f"a root certificate of more than {MAX_CERTIFICATE_BYTES} bytes")
    return named_learners("learners", [_named_learner(learner, certificates) for learner in p.learners])


def _named_learner(p: pb.NamedLearner, certificates: Sequence[bytes]) -> ClientParams:
    return ClientParams(
        p.hostname, p.port, certificates[p.root_certificate] if p.HasField("root_certificate") else None
    )


from_start_request = reader(pb.StartRequest, _start_request, MAX_START_BYTES)


def ask(request: m.AskRequest) -> bytes:
    named, certificates = _packed_learners(request.learners)
    return pb.AskRequest(
        method=request.method,
        params_json=json.dumps(request.params),
        timeout_secs=request.timeout_secs,
        num_learners=request.num_learners,
        join_timeout_secs=request.join_timeout_secs,
        learners=named,
        root_certificates=certificates,
    ).SerializeToString()


def _ask(p: pb.AskRequest) -> m.AskRequest:
    if not 0 < p.timeout_secs < math.inf:
        raise ValueError(f"timeout_secs is {p.timeout_secs}; allowed: a finite number > 0")
    for name, text in (("method", p.method), ("params_json", p.params_json)):
        if len(text) > m.MAX_QUESTION_BYTES:
            raise ValueError(f"{name} has {len(text)} characters; at most {m.MAX_QUESTION_BYTES}")
    params = json_object(p.params_json, "params_json")
    return m.AskRequest(p.method, params, p.timeout_secs, p.num_learners, _timeout(p), _learners(p))


from_ask = reader(pb.AskRequest, _ask, MAX_START_BYTES)


def answer(of: tuple[LearnerId, m.Answer]) -> bytes:
    return pb.AskReply(learner_id=of[0], answer=packed_answer(of[1])).SerializeToString()


from_answer = reader(pb.AskReply, lambda p: (LearnerId(p.learner_id), answer_in(p.answer)))


def status(of_controller: m.Status) -> bytes:
    return pb.Status(
        federation_id=of_controller.federation_id,
        is_finished=of_controller.is_finished,
        protocol=of_controller.protocol,
        signals=None if of_controller.signals is None else _packed_signals(of_controller.signals),
        evaluates=of_controller.evaluates,
        best=None if of_controller.best is None else pb.BestModel(**asdict(of_controller.best)),
    ).SerializeToString()


def _status(p: pb.Status) -> m.Status:
    if p.protocol != m.PROTOCOL:
        raise WrongProtocol("the controller", p.protocol, m.PROTOCOL)
    signals = TerminationSignals(**_given(p.signals)) if p.HasField("signals") else None
    best = None
    if p.HasField("best"):
        best = BestScore(p.best.metric, p.best.score, p.best.model_version, p.best.round_number)
    return m.Status(FederationId(p.federation_id), p.is_finished, signals, p.evaluates, best)


from_status = reader(pb.Status, _status)


def federation(federation_id: FederationId) -> bytes:
    return pb.FederationRequest(federation_id=federation_id).SerializeToString()


from_federation = reader(pb.FederationRequest, lambda p: FederationId(p.federation_id), MAX_REQUEST_BYTES)


def get_model(asked: tuple[FederationId, bool]) -> bytes:
    return pb.FederationRequest(federation_id=asked[0], best=asked[1]).SerializeToString()


from_get_model = reader(
    pb.FederationRequest, lambda p: (FederationId(p.federation_id), bool(p.best)), MAX_REQUEST_BYTES
)


def watch(asked: tuple[FederationId, int, str]) -> bytes:
    return pb.WatchRequest(federation_id=asked[0], seen=asked[1], run=asked[2]).SerializeToString()


from_watch = reader(
    pb.WatchRequest, lambda p: (FederationId(p.federation_id), int(p.seen), str(p.run)), MAX_REQUEST_BYTES
)


def evaluation(said: tuple[FederationId, CentralEvaluation]) -> bytes:
    report = said[1]
    return pb.EvaluationReport(
        federation_id=said[0],
        model_version=report.model_version,
        is_done=report.metrics is not None or bool(report.error_type),
        metrics=report.metrics,
        error_type=report.error_type,
        message=report.message,
    ).SerializeToString()


def _evaluation(p: pb.EvaluationReport) -> tuple[FederationId, CentralEvaluation]:
    is_measured = p.is_done and not p.error_type
    metrics = dict(sorted(p.metrics.items())) if is_measured else None  # maps have no order
    return FederationId(p.federation_id), CentralEvaluation(p.model_version, metrics, p.error_type, p.message)


from_evaluation = reader(pb.EvaluationReport, _evaluation, MAX_MESSAGE_BYTES)


def stop(asked: tuple[FederationId, str]) -> bytes:
    return pb.StopRequest(federation_id=asked[0], reason=asked[1]).SerializeToString()


from_stop = reader(pb.StopRequest, lambda p: (FederationId(p.federation_id), str(p.reason)), MAX_REQUEST_BYTES)


def shut_down(asked: tuple[FederationId, bool]) -> bytes:
    return pb.ShutDownRequest(federation_id=asked[0], keep_running=asked[1]).SerializeToString()


from_shut_down = reader(
    pb.ShutDownRequest, lambda p: (FederationId(p.federation_id), bool(p.keep_running)), MAX_REQUEST_BYTES
)


def events(happened: Sequence[Told]) -> Iterator[bytes]:
    """Put events into messages of at most `NEWS_BYTES`, or of one event: a round's record may be as large."""
    texts: list[str] = []
    size = 0
    for told in happened:
        text = told.text
        if texts and size + len(text) > NEWS_BYTES:
            yield pb.Json(json=texts).SerializeToString()
            texts, size = [], 0
        texts.append(text)
        size += len(text)
    if texts:
        yield pb.Json(json=texts).SerializeToString()


from_events = reader(pb.Json, lambda p: [event_from_dict(json.loads(text)) for text in p.json])


def record(of_round: RoundRecord) -> bytes:
    return pb.Json(json=[json.dumps(of_round.to_dict())]).SerializeToString()


def _record(p: pb.Json) -> RoundRecord:
    (text,) = p.json
    return RoundRecord.from_dict(json.loads(text))


from_record = reader(pb.Json, _record)
