"""FedAvg: the weighted mean of one round's updates.

McMahan, Moore, Ramage, Hampson, Aguera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized
Data", arXiv:1602.05629.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.model import DTYPES, Array, Manifest, Model, Run, allocate

__all__ = ["FedAvg", "unfit"]

BLOCK = 64 * 1024  #: elements worked on at a time, so that the float64 scratch stays in the cache
LARGEST = 1e288  #: times a weight of 2**53, times ten thousand learners, is still a float64


def unfit(update: Model) -> str | None:
    """Say which tensor of an update is not finite; None when all are.

    Float64 values beyond `LARGEST` count as not finite: their weighted sum would overflow.
    """
    for run in update.manifest.runs:
        if DTYPES[run.dtype].kind in "iub" or _is_finite(run.of(update.buffer)):
            continue
        for spec, values in zip(update.manifest.tensors, update.arrays(), strict=True):
            if spec.dtype == run.dtype and not _is_finite(values.reshape(-1)):
                return f"tensor {spec.name!r} holds a value that is not finite (NaN, infinite, or beyond {LARGEST})"
    return None


class FedAvg:
    """Folds each update into a sum and forgets it: the memory is one float64 accumulator, however many learners.

    The sum is float64 for every dtype, so the mean of float32 weights does not depend on the order of arrival beyond
    the last bit of the largest of them. Integer tensors get the mean rounded to the nearest (ties to even), exact up
    to 2**53; boolean ones a majority, True when the halves are equal.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.total_weight = 0.0
        self._sums: list[tuple[Run, NDArray[np.float64]]] = []

    def fold(self, update: Model, weight: float) -> None:
        """Add one checked update: ``sums += weight * update``.

        Parameters
        ----------
        update : Model
            With the manifest of this rule; `unfit` found nothing.
        weight : float
            The scaling factor ``s_k``, > 0.
        """
        if not self._sums:
            self._sums = [(run, np.zeros(_count(run), np.float64)) for run in self.manifest.runs]
        scratch = np.empty(BLOCK, np.float64)
        for run, sums in self._sums:
            values = run.of(update.buffer)
            for start in range(0, len(values), BLOCK):
                block = values[start : start + BLOCK]
                product = scratch[: len(block)]
                np.multiply(block, weight, out=product, dtype=np.float64)
                sums[start : start + BLOCK] += product
        self.total_weight += weight

    def aggregate(self, version: int) -> Model:
        """Make the mean, ``sums / total_weight``, as a model of the given version, and forget the updates.

        There must be at least one.
        """
        model = Model(self.manifest, allocate(self.manifest.size_bytes), version)
        for run, sums in self._sums:
            out = run.of(model.buffer)
            for start in range(0, len(sums), BLOCK):
                _round_into(out[start : start + BLOCK], sums[start : start + BLOCK] / self.total_weight)
        model.buffer[self.manifest.padding] = 0
        self.discard()
        return model

    def discard(self) -> None:
        """Forget the updates."""
        self.total_weight = 0.0
        self._sums = []


def _count(run: Run) -> int:
    return (run.stop - run.start) // DTYPES[run.dtype].itemsize


def _round_into(out: Array, mean: NDArray[np.float64]) -> None:
    """Write the mean in the model's own dtype."""
    if out.dtype.kind == "b":
        np.greater_equal(mean, 0.5, out=out)
    elif out.dtype.kind in "iu":
        limits = np.iinfo(out.dtype)
        # float64 cannot hold the largest 64-bit integers; the next smaller number it can hold is taken.
        highest = np.nextafter(float(limits.max), 0) if limits.bits == 64 else float(limits.max)
        out[...] = np.clip(np.rint(mean), float(limits.min), highest)
    else:
        out[...] = mean


def _is_finite(values: Array) -> bool:
    """Whether all are finite and, in float64, at most `LARGEST`; values of shape (n,)."""
    for start in range(0, len(values), BLOCK):
        block = values[start : start + BLOCK]
        if block.dtype == np.float64:
            if not (np.abs(block) <= LARGEST).all():
                return False
        elif not np.isfinite(block).all():
            return False
    return True
