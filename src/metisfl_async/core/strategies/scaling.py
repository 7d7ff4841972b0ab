"""Scaling factors: how much an update weighs in the mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json

__all__ = ["MAX_WEIGHT", "MIN_WEIGHT", "SCALING_FACTORS", "ScalingFactor", "name_of", "weight_of"]

Number = int | float | np.integer | np.floating  #: what a scaling factor may give
MAX_WEIGHT = 2.0**53  #: `max_weight` is at most that: it keeps a lying learner from drowning the others' digits
MIN_WEIGHT = 2.0**-53  #: with much smaller ones, products with it vanish, and the mean is 0

ScalingFactor: TypeAlias = Callable[[LearnerId, Mapping[str, Json], Mapping[str, float]], float]
"""Gives the weight ``s_k`` of an update in ``sum(s_k * w_k) / sum(s_k)``.

It is called with the learner's id and the metadata and metrics that `Learner.train` returned, and gives a number in
[2**-53, max_weight]; a count, not normalised. When it raises, or gives something else, the update is refused.
"""


def num_training_examples(learner: LearnerId, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
    place = ", or Learner(num_training_examples=...)"
    return _reported("num_training_examples", "NumTrainingExamples", metadata, metrics, place)


def num_completed_batches(learner: LearnerId, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
    return _reported("num_completed_batches", "NumCompletedBatches", metadata, metrics)


def num_participants(learner: LearnerId, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
    return 1.0


SCALING_FACTORS: Mapping[str, ScalingFactor] = {
    "NumTrainingExamples": num_training_examples,
    "NumCompletedBatches": num_completed_batches,
    "NumParticipants": num_participants,
}


#: What each of them reads, for the errors.
_FIELDS = {
    "NumTrainingExamples": "num_training_examples",
    "NumCompletedBatches": "num_completed_batches",
    "NumParticipants": "weight",
}


def weight_of(
    factor: str | ScalingFactor,
    learner: LearnerId,
    metadata: Mapping[str, Json],
    metrics: Mapping[str, float],
    max_weight: float = MAX_WEIGHT,
) -> float:
    """Ask a scaling factor, given by name or as the user's own.

    One that is too large is refused, and not made smaller: a learner that has so many examples hears of the limit
    instead of counting for less than it thinks.

    Raises
    ------
    ConfigError
        If it gives no number in [2**-53, max_weight], or raises.
    """
    function = SCALING_FACTORS[factor] if isinstance(factor, str) else factor
    name = name_of(factor)
    try:
        weight = function(learner, metadata, metrics)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError("scaling_factor", name, f"one that does not raise {type(error).__name__}: {error}") from error
    if isinstance(factor, str):
        return _checked(_FIELDS[factor], weight, f"which scaling_factor {name!r} needs", max_weight)
    return _checked("weight", weight, f"what scaling_factor {name!r} must give", max_weight)


def name_of(factor: str | ScalingFactor) -> str:
    """Say what a scaling factor is called."""
    return factor if isinstance(factor, str) else str(getattr(factor, "__name__", type(factor).__name__))


def _reported(
    key: str, name: str, metadata: Mapping[str, Json], metrics: Mapping[str, float], place: str = ""
) -> float:
    """Find a number that the learner reports; its metadata is asked first."""
    value = metadata.get(key, metrics.get(key))
    if value is None:
        places = f"the metadata or the metrics that train() returns, as {key!r}{place}"
        raise ConfigError(key, None, f"a number, which scaling_factor {name!r} needs; say it in {places}")
    return cast("float", value)  # it is looked at by `weight_of`


def _checked(field: str, value: object, why: str, max_weight: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Number) or not MIN_WEIGHT <= value <= max_weight:
        raise ConfigError(field, value, f"a number >= 2**-53 and <= max_weight={max_weight:.16g}, {why}")
    return float(value)
