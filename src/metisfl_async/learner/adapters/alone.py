"""One model is used by one learner at a time: where two train it at once, frameworks crash or compute nonsense."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from metisfl_async.core.errors import ConfigError

__all__ = ["alone_with"]

_TURN = threading.Lock()
_users: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # of each model that is being used: by which learner


@contextmanager
def alone_with(model: Any, learner: object) -> Iterator[None]:
    """Use a model, unless another learner does at this moment.

    A session sees beforehand when two of its learners have one model; this is for learners of other sessions in the
    process, and for functions that give the same model each time.

    Raises
    ------
    ConfigError
        If another learner uses it.
    """
    with _TURN:
        is_inner = model in _users
        if _users.setdefault(model, id(learner)) != id(learner):
            allowed = "a model for each learner; another one is using this one now"
            raise ConfigError("model", type(model).__name__, allowed)
    try:
        yield
    finally:
        if not is_inner:
            with _TURN:
                del _users[model]
