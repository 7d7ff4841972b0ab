"""What an environment says of each learner, and of the session."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from metisfl_async.core.checks import positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import checked_json
from metisfl_async.environment.endpoint import Endpoint
from metisfl_async.learner.stopping import STOP_TIMEOUT_S

InProcess: TypeAlias = Literal["thread", "process"]

__all__ = ["InProcess", "LearnerEntry", "SessionOptions"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerEntry:
    """One learner of an environment. With an endpoint it listens there, and the controller dials it for each task."""

    learner_id: str = ""  #: its name; "" = its address if it listens, else any, and the controller gives a number
    args: dict[str, Any] = field(default_factory=dict)  #: for whoever makes the learner, such as where its data is
    endpoint: Endpoint | None = None  #: where it listens; None = it dials the controller

    def __post_init__(self) -> None:
        if not isinstance(self.learner_id, str):
            raise ConfigError("learner_id", self.learner_id, "a string")
        args = checked_json(self.args, "args")
        if not isinstance(args, dict):
            raise ConfigError("args", args, "keys with values")
        if self.endpoint is not None and not self.learner_id:
            object.__setattr__(self, "learner_id", self.endpoint.address)
        if args and not self.learner_id:
            raise ConfigError("learner_id", self.learner_id, "a name, since args belong to one learner")
        object.__setattr__(self, "args", args)


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionOptions:
    """What else `DriverSession` and `run_learner` take."""

    seed: int = 1990  #: draws who gives the first weights, and each round's cohort
    join_timeout_secs: float | None = None  #: how long the driver waits for the controller and the learners
    worker: InProcess = "thread"  #: where learners train
    stop_timeout_secs: float | None = STOP_TIMEOUT_S  #: for a learner's method that is to end; None = for ever

    def __post_init__(self) -> None:
        if type(self.seed) is not int:
            raise ConfigError("seed", self.seed, "an integer")
        secs = self.join_timeout_secs
        if secs is not None and (isinstance(secs, bool) or not isinstance(secs, int | float) or not secs > 0):
            raise ConfigError("join_timeout_secs", secs, "a number > 0")
        if self.worker not in get_args(InProcess):
            raise ConfigError("worker", self.worker, ", ".join(get_args(InProcess)))
        if self.stop_timeout_secs is not None:
            positive("stop_timeout_secs", self.stop_timeout_secs)
