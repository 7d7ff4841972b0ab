"""When a federation ends, as users decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from metisfl_async.core.checks import integer, number, one_of, positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.spelling import spelled

__all__ = ["CENTRAL", "TerminationSignals", "TerminationSingals"]

CENTRAL = "central/"  #: before the name of a metric that the session's `evaluate` measures


@spelled
@dataclass(frozen=True, kw_only=True, slots=True)
class TerminationSignals:
    """When a federation ends: at the first of these. At least one must be given."""

    federation_rounds: int | None = None  #: for schedulers with rounds
    global_updates: int | None = None  #: for Asynchronous: how many global models are made
    execution_cutoff_time_mins: float | None = None  #: minutes since training started
    evaluation_metric: str | None = None  #: the weighted mean of this metric over the learners' evaluations ...
    evaluation_metric_cutoff_score: float | None = None  #: ... ends it once it reaches this; 0.0 is a score
    patience_rounds: int | None = None  #: ends it once the metric has not got better for so many rounds, or models
    min_delta: float = 0.0  #: how much better it must be to count as better
    mode: Literal["max", "min"] = "max"  #: whether reaching is from below ("max", accuracy) or from above ("min", loss)

    def __post_init__(self) -> None:
        for name in ("federation_rounds", "global_updates"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1)
        if self.execution_cutoff_time_mins is not None:
            positive("execution_cutoff_time_mins", self.execution_cutoff_time_mins)
        one_of("mode", self.mode, ("max", "min"))
        if self.patience_rounds is not None:
            integer("patience_rounds", self.patience_rounds, 1)
        number("min_delta", self.min_delta, least=0.0)
        goals = {
            name: getattr(self, name)
            for name in ("evaluation_metric_cutoff_score", "patience_rounds")
            if getattr(self, name) is not None
        }
        if self.evaluation_metric is not None and not goals:
            together = "evaluation_metric and evaluation_metric_cutoff_score together"
            allowed = f"{together}, or evaluation_metric and patience_rounds"
            raise ConfigError("evaluation_metric_cutoff_score", None, allowed)
        if self.evaluation_metric is None and goals:
            raise ConfigError("evaluation_metric", None, f"evaluation_metric and {' and '.join(goals)} together")
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
                "evaluation_metric with evaluation_metric_cutoff_score or patience_rounds",
            )

    def check(self, *, in_rounds: bool, evaluate_every: int, evaluates: bool) -> None:
        """Refuse the signal that is never reached: by the scheduler, or without evaluations."""
        if in_rounds and self.global_updates is not None:
            raise ConfigError("global_updates", self.global_updates, "None with rounds: federation_rounds counts them")
        if not in_rounds and self.federation_rounds is not None:
            allowed = "None with Asynchronous, which has no rounds: global_updates counts its models"
            raise ConfigError("federation_rounds", self.federation_rounds, allowed)
        if evaluates and not in_rounds:
            allowed = "None with Asynchronous, which has no rounds that could wait for it"
            raise ConfigError("evaluate", "a function", allowed)
        if self.evaluation_metric is not None and self.evaluation_metric.startswith(CENTRAL):
            if not evaluates:
                allowed = f"a metric of the learners; a session measures {CENTRAL}... if it is given `evaluate`"
                raise ConfigError("evaluation_metric", self.evaluation_metric, allowed)
        elif not evaluate_every and self.evaluation_metric is not None:
            allowed = "None with evaluate_every=0: nothing is evaluated, so that the score is never reached"
            raise ConfigError("evaluation_metric", self.evaluation_metric, allowed)


TerminationSingals = TerminationSignals  #: as MetisFL spells it
