"""Questions to learners, and their answers, as parts of protobuf messages, and back."""

from __future__ import annotations

import json

from metisfl_async.core import messages as m
from metisfl_async.core.metrics import Json, checked_json
from metisfl_async.transport._proto import metisfl_pb2 as pb

__all__ = ["answer_in", "json_object", "packed_answer", "packed_question", "question_in"]


def packed_question(question: m.Question) -> pb.Question:
    return pb.Question(
        question_id=question.id,
        method=question.method,
        params_json=json.dumps(question.params),
        timeout_secs=question.timeout_secs,
    )


def question_in(p: pb.Question) -> m.Question:
    return m.Question(p.question_id, p.method, json_object(p.params_json, "params_json"), p.timeout_secs)


def packed_answer(answer: m.Answer) -> pb.Answer:
    return pb.Answer(
        question_id=answer.question_id,
        answer_json=answer.json,
        error_type=answer.error_type,
        message=answer.message,
        learner=answer.learner,
    )


def answer_in(p: pb.Answer) -> m.Answer:
    return m.Answer(p.question_id, p.answer_json, p.error_type, p.message, p.learner)


def json_object(text: str, field: str) -> dict[str, Json]:
    """Read a JSON object; no text is an empty one."""
    value = checked_json(json.loads(text or "{}"), field.removesuffix("_json"))
    if not isinstance(value, dict):
        raise ValueError(f"{field} is not a JSON object")
    return value
