"""When a federation ends, as users decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metisfl_async.core.checks import integer, number, one_of, positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.spelling import spelled

__all__ = ["TerminationSignals", "TerminationSingals"]


@spelled
@dataclass(frozen=True, kw_only=True, slots=True)
class TerminationSignals:
    """When a federation ends: at the first of these. At least one must be given."""

    federation_rounds: int | None = None  #: for schedulers with rounds
    global_updates: int | None = None  #: for Asynchronous: how many global models are made
    execution_cutoff_time_mins: float | None = None  #: minutes since training started
    evaluation_metric: str | None = None  #: the weighted mean of this metric over the learners' evaluations ...
    evaluation_metric_cutoff_score: float | None = None  #: ... ends it once it reaches this; 0.0 is a score
    mode: Literal["max", "min"] = "max"  #: whether reaching is from below ("max", accuracy) or from above ("min", loss)

    def __post_init__(self) -> None:
        for name in ("federation_rounds", "global_updates"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1)
        if self.execution_cutoff_time_mins is not None:
            positive("execution_cutoff_time_mins", self.execution_cutoff_time_mins)
        one_of("mode", self.mode, ("max", "min"))
        if (self.evaluation_metric is None) != (self.evaluation_metric_cutoff_score is None):
            missing = "evaluation_metric" if self.evaluation_metric is None else "evaluation_metric_cutoff_score"
            raise ConfigError(missing, None, "evaluation_metric and evaluation_metric_cutoff_score together")
        if self.evaluation_metric is not None and not isinstance(self.evaluation_metric, str):
            raise ConfigError("evaluation_metric", self.evaluation_metric, "the name of a metric, such as 'accuracy'")
        if self.evaluation_metric_cutoff_score is not None:
            number("evaluation_metric_cutoff_score", self.evaluation_metric_cutoff_score)
        signals = (self.federation_rounds, self.global_updates, self.execution_cutoff_time_mins, self.evaluation_metric)
        if all(signal is None for signal in signals):
            raise ConfigError(
                "TerminationSignals",
                None,
                "at least one of federation_rounds, global_updates, execution_cutoff_time_mins, "
                "evaluation_metric with evaluation_metric_cutoff_score",
            )

    def check(self, *, in_rounds: bool, evaluate_every: int) -> None:
        """Refuse the signal that is never reached: by the scheduler, or without evaluations."""
        if in_rounds and self.global_updates is not None:
            raise ConfigError("global_updates", self.global_updates, "None with rounds: federation_rounds counts them")
        if not in_rounds and self.federation_rounds is not None:
            allowed = "None with Asynchronous, which has no rounds: global_updates counts its models"
            raise ConfigError("federation_rounds", self.federation_rounds, allowed)
        if not evaluate_every and self.evaluation_metric is not None:
            allowed = "None with evaluate_every=0: nothing is evaluated, so that the score is never reached"
            raise ConfigError("evaluation_metric", self.evaluation_metric, allowed)


TerminationSingals = TerminationSignals  #: as MetisFL spells it
