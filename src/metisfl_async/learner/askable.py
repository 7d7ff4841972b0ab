"""What a learner may be asked, beside its tasks: methods of its class that say so, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.messages import MAX_ANSWER_BYTES
from metisfl_async.core.metrics import checked_json
from metisfl_async.learner.learner import Learner

__all__ = ["askable", "askable_names", "method_of", "packed_answer"]

MARK = "_metisfl_is_askable"

F = TypeVar("F", bound=Callable[..., Any])


def askable(method: F) -> F:
    """Let drivers call this method of a `Learner`, with `DriverSession.ask`; they can call no other.

    ::

        class Site(MyLearner):
            @askable
            def describe(self, params):
                return {"examples": len(self.x), "mean": self.x.mean(axis=0)}

    It is given the driver's parameters, a dict, and gives something JSON-like, in which arrays and tensors become
    lists. A ``def`` runs in the learner's worker, an ``async def`` on the event loop; like all its methods, it waits
    until the one before has ended. It may be called twice for one question, after a broken connection. When the
    question's time is over, it is told to end as training is: `is_cancelled` is set. Who overrides it marks it again.
    """
    setattr(method, MARK, True)
    return method


def askable_names(kind: type[Learner]) -> list[str]:
    """List the methods of a class that may be asked."""
    return [name for name in dir(kind) if getattr(getattr(kind, name, None), MARK, False) is True]


def method_of(learner: Learner, name: str) -> Callable[..., Any]:
    """Find the method that is asked for.

    Raises
    ------
    ConfigError
        If the class does not mark it.
    """
    names = askable_names(type(learner))
    if name not in names:
        allowed = f"methods that {type(learner).__name__} marks with @askable: {', '.join(names) or 'it marks none'}"
        raise ConfigError("method", name, allowed)
    method: Callable[..., Any] = getattr(learner, name)
    return method


def packed_answer(name: str, answer: object) -> str:
    """Write an answer down as JSON."""
    text = json.dumps(checked_json(answer, f"the answer of {name}()"))
    if len(text) > MAX_ANSWER_BYTES:
        raise ConfigError(f"the answer of {name}()", f"JSON of {len(text)} bytes", f"at most {MAX_ANSWER_BYTES} bytes")
    return text
