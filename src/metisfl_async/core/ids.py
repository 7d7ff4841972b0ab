"""Names of federations, models, learners and tasks."""

from __future__ import annotations

import secrets
from string import hexdigits
from typing import NamedTuple, NewType

__all__ = [
    "NO_FEDERATION",
    "FederationId",
    "LearnerId",
    "ModelRef",
    "StreamId",
    "TaskId",
    "Token",
    "new_federation_id",
    "new_task_id",
    "new_token",
    "span_id_of",
    "traceparent_of",
]

FederationId = NewType("FederationId", str)
LearnerId = NewType("LearnerId", str)
NO_FEDERATION = FederationId("")
StreamId = NewType("StreamId", int)  #: of an update on its way; the controller counts them
TaskId = NewType("TaskId", str)
Token = NewType("Token", str)


class ModelRef(NamedTuple):
    """Which global model: versions begin anew with each federation, so a version alone says nothing."""

    federation_id: FederationId
    version: int


def new_task_id() -> TaskId:
    """Make a task id: 128 random bits, as 32 hexadecimal digits. It is the idempotency key of the task's outcome."""
    return TaskId(secrets.token_hex(16))


def new_token() -> Token:
    """Make the secret by which a learner shows that it is the one that joined: 128 random bits."""
    return Token(secrets.token_hex(16))


def new_federation_id() -> FederationId:
    """Make the name by which a driver knows its federation again: 128 random bits."""
    return FederationId(secrets.token_hex(16))


def span_id_of(task_id: TaskId) -> str:
    """Give the id of a task's span in a trace: 16 hexadecimal digits, of its own 32."""
    return task_id[:16]


def traceparent_of(federation_id: FederationId, task_id: TaskId) -> str:
    """Give the W3C Trace Context of a task, whose trace is its federation's; "" if others made their ids otherwise."""
    if not (len(federation_id) == len(task_id) == 32 and set(federation_id + task_id) <= set(hexdigits.lower())):
        return ""
    return f"00-{federation_id}-{span_id_of(task_id)}-01"
