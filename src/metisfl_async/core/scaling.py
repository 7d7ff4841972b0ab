"""Scaling factors: how much an update weighs in the mean."""

from __future__ import annotations

from collections.abc import Mapping

from metisfl_async.core.config import ScalingFactor
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json

__all__ = ["MAX_WEIGHT", "scaling_factor"]

MAX_WEIGHT = 2.0**53  #: nobody has more examples; keeps a lying learner from drowning the others' digits

_KEYS = {"NumTrainingExamples": "num_training_examples", "NumCompletedBatches": "num_completed_batches"}


def scaling_factor(name: ScalingFactor, metadata: Mapping[str, Json], metrics: Mapping[str, float]) -> float:
    """Find the weight ``s_k`` of an update in ``sum(s_k * w_k) / sum(s_k)``.

    Parameters
    ----------
    name : ScalingFactor
        "NumParticipants" weighs all alike; the others read ``num_training_examples`` or ``num_completed_batches``.
    metadata, metrics : mapping
        What `Learner.train` returned; metadata is asked first.

    Returns
    -------
    float
        In (0, 2**53]; a count, not normalised.

    Raises
    ------
    ConfigError
        If the number is not there, or no such number.
    """
    if name == "NumParticipants":
        return 1.0
    key = _KEYS[name]
    value = metadata.get(key, metrics.get(key))
    if value is None:
        places = f"the metadata or the metrics that train() returns, as {key!r}"
        if key == "num_training_examples":
            places += ", or Learner(num_training_examples=...)"
        raise ConfigError(key, None, f"a number, which scaling_factor {name!r} needs; say it in {places}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_WEIGHT:
        raise ConfigError(key, value, f"a number > 0 and <= 2**53, which scaling_factor {name!r} needs")
    return float(value)
