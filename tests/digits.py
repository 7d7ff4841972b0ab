"""Real data for tests of adapters: scikit-learn's handwritten digits, in one part for each of three learners."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from metisfl_async import DriverSession, FederationResult, Learner
from metisfl_async.core.model import Array
from metisfl_async.data import iid_partition

Part = tuple[Array, Array]
NUM_PARTS = 3


@cache
def digits() -> tuple[Part, Part]:
    """Give training and test data: pixels from 0 to 1, and classes."""
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype(np.float32), y.astype(np.int64)
    order = np.random.default_rng(1990).permutation(len(x))
    train, test = order[:1437], order[1437:]
    return (x[train], y[train]), (x[test], y[test])


def parts() -> list[tuple[Part, Part]]:
    """Give each learner its training and its test data."""
    train, test = (zip(*iid_partition(*data, num_partitions=NUM_PARTS), strict=True) for data in digits())
    return list(zip(train, test, strict=True))


def check_metadata(metadata: dict[str, Any], *, examples: int, batches: int, batches_per_epoch: int) -> None:
    assert metadata["num_training_examples"] == examples
    assert metadata["num_completed_batches"] == batches
    assert metadata["processing_ms_per_batch"] > 0
    assert metadata["processing_ms_per_epoch"] == metadata["processing_ms_per_batch"] * batches_per_epoch


async def accuracy_of(session: DriverSession) -> tuple[float, FederationResult]:
    result = await session.run()
    for record in result.rounds:
        assert not [failure for part in record.learners.values() for failure in part.failures]
        assert len(record.participants) == len(result.rounds[0].participants)
    return result.rounds[-1].evaluation_metrics["accuracy"], result


def weights_differ(learner: Learner, weights: list[Array]) -> bool:
    own: Any = learner.get_weights()
    return any((a != b).any() for a, b in zip(own, weights, strict=True))
