"""What the learners of a model measured, and the mean of it: those below a relay count one by one."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import ConfigError, UnexpectedMessage
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics, weighted_means
from metisfl_async.core.strategies.aggregation.contributors import Contributor, check_evaluators, entries_of
from metisfl_async.core.strategies.scaling import name_of
from metisfl_async.core.texts import plain_names

__all__ = ["Evaluation", "Report", "mean_of", "measured", "summed_up"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the learners of a model measured, on average."""

    metrics: Metrics
    weighted_by: str = ""  #: see `RoundRecord`


def mean_of(evaluators: Collection[Contributor]) -> Evaluation:
    """Average what each one measured, by how many examples if all of them say so.

    Else those without any known scaling factor count only when nobody has one; then all learners count alike.
    """
    counts = [each.metrics.get(NUM_EXAMPLES) for each in evaluators]
    weights, weighted_by = [each.weight for each in evaluators], "scaling_factor"
    if None not in counts and any(counts):
        weights, weighted_by = [count or 0.0 for count in counts], NUM_EXAMPLES
    elif not any(weights):
        weights, weighted_by = [float(each.num_learners) for each in evaluators], "nothing"
    pairs = zip(weights, evaluators, strict=True)
    means = weighted_means((weight, each.metrics) for weight, each in pairs if weight)
    means.pop(NUM_EXAMPLES, None)
    return Evaluation(means, weighted_by if means else "")


def summed_up(evaluators: Collection[Contributor]) -> Contributor:
    """Say of several at once what they measured, on how many examples if all of them say so."""
    means, metrics = mean_of(evaluators).metrics, [each.metrics for each in evaluators]
    if metrics and all(NUM_EXAMPLES in each for each in metrics):  # first: of too many metrics, the last are left out
        means = {NUM_EXAMPLES: math.fsum(each[NUM_EXAMPLES] for each in metrics)} | means
    weight = math.fsum(each.weight for each in evaluators)
    return Contributor(weight, sum(each.num_learners for each in evaluators), means)


@dataclass(frozen=True, slots=True)
class Report:
    """What one evaluation comes to, as it is recorded."""

    metrics: Metrics
    metadata: dict[str, Json] = field(default_factory=dict)
    num_learners: int = 1  #: that it is of


def measured(metrics: Metrics, contributors: Mapping[str, Contributor], config: ControllerConfig) -> Report:
    """Look at an evaluation that came; of a relay's, the means are made here.

    Raises
    ------
    MetisError
        If it cannot be.
    """
    most = config.max_weight
    if not contributors:
        if not 0 <= (count := metrics.get(NUM_EXAMPLES, 0.0)) <= most:
            raise ConfigError(NUM_EXAMPLES, count, f"a number >= 0 and <= max_weight={most:.16g}")
        return Report(plain_names(metrics))
    if metrics:
        raise UnexpectedMessage("an evaluation came with metrics and with contributors; allowed: one of them")
    check_evaluators(contributors, name_of(config.scaling_factor), most, config.max_relayed_learners)
    plainly = {name: replace(each, metrics=plain_names(each.metrics)) for name, each in contributors.items()}
    whole = summed_up(plainly.values())
    return Report(whole.metrics, entries_of(plainly), whole.num_learners)
