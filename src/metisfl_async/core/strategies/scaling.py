"""Scaling factors: how much an update weighs in the mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json

__all__ = ["MAX_WEIGHT", "SCALING_FACTORS", "ScalingFactor", "weight_of"]

Number = int | float | np.integer | np.floating  #: what a scaling factor may give
MAX_WEIGHT = 2.0**53  #: nobody has more examples; keeps a lying learner from drowning the others' digits

ScalingFactor: TypeAlias = Callable[[LearnerId, Mapping[str, Json], Mapping[str, float]], float]
"""Gives the weight ``s_k`` of an update in ``sum(s_k * w_k) / sum(s_k)``.

It is called with the learner's id and the metadata and metrics that `Learner.train` returned, and gives a number in
(0, 2**53]; a count, not normalised. When it raises, or gives something else, the update is refused.
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


def weight_of(
    factor: str | ScalingFactor, learner: LearnerId, metadata: Mapping[str, Json], metrics: Mapping[str, float]
) -> float:
    """Ask a scaling factor, given by name or as the user's own.

    Raises
    ------
    ConfigError
        If it gives no number in (0, 2**53], or raises.
    """
    function = SCALING_FACTORS[factor] if isinstance(factor, str) else factor
    name = factor if isinstance(factor, str) else getattr(factor, "__name__", type(factor).__name__)
    try:
        weight = function(learner, metadata, metrics)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError("scaling_factor", name, f"one that does not raise {type(error).__name__}: {error}") from error
    return _checked("weight", weight, f"what scaling_factor {name!r} must give")


def _reported(
    key: str, name: str, metadata: Mapping[str, Json], metrics: Mapping[str, float], place: str = ""
) -> float:
    """Find a number that the learner reports; its metadata is asked first."""
    value = metadata.get(key, metrics.get(key))
    if value is None:
        places = f"the metadata or the metrics that train() returns, as {key!r}{place}"
        raise ConfigError(key, None, f"a number, which scaling_factor {name!r} needs; say it in {places}")
    return _checked(key, value, f"which scaling_factor {name!r} needs")


def _checked(field: str, value: object, why: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Number) or not 0 < value <= MAX_WEIGHT:
        raise ConfigError(field, value, f"a number > 0 and <= 2**53, {why}")
    return float(value)
