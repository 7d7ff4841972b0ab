"""What a learner is at, or how its task ended, as one character: rows of thousands of learners stay small."""

from __future__ import annotations

from metisfl_async.core.federation.tasks import TaskState

__all__ = ["COUNTED", "NOT_ASKED", "REPORTED", "WORDS", "code_of"]

NOT_ASKED, REPORTED, COUNTED = ".", "R", "C"

#: Of two, the later in the alphabet is worse. A digit: counted, after so many tenths of the round. What ends a task
#: begins with its sign.
WORDS = {
    NOT_ASKED: "not asked",
    **{str(tenths): f"counted after {10 * tenths} % of the round" for tenths in range(10)},
    COUNTED: "✓ counted",
    "D": "downloading",
    "E": "evaluating",
    REPORTED: "reported",
    "T": "training",
    "U": "uploading",
    "W": "waiting",
    "a": "in no model yet",
    "c": "! cancelled",
    "e": "! expired",
    "l": "! too late",
    "r": "✕ rejected",
    "v": "✕ lost",
    "x": "✕ failed",
}

_CODES = {
    "waiting": "W",
    "fetching": "D",
    "working": "T",
    TaskState.UPLOADING.value: "U",
    TaskState.COUNTED.value: COUNTED,
    TaskState.FOLDED.value: "a",
    TaskState.CANCELLED.value: "c",
    TaskState.EXPIRED.value: "e",
    TaskState.LATE.value: "l",
    TaskState.REJECTED.value: "r",
    TaskState.LOST.value: "v",
    TaskState.FAILED.value: "x",
}


def code_of(state: str) -> str:
    """Give the character of a state: of a task, or what `TaskMoved` says."""
    return _CODES.get(state, NOT_ASKED)
