"""How the updates of one model resemble one another, and the model before: what gives free riders and twins away."""

from __future__ import annotations

import hashlib
import math
import statistics
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.model import DTYPES, Array, Model, Run
from metisfl_async.core.strategies.aggregation.arithmetic import BLOCK, blocks
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["SKETCH", "Gallery", "Portrait", "portrait"]

SKETCH = 2048  #: sums that stand for all elements; cosines are off by about 1 / sqrt(2048), 0.02
SAMPLED = 16  #: of so many elements of a large model, one is in the sums; all are in the norm
FAR = 1e3  #: times what the middle one changes: who changes more is named when no model comes of it
Floats = NDArray[np.float64]  #: shape (n,)


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """What is kept of an update, however large: up to 16 KiB."""

    norm: float  #: of what it changes, over the tensors of floats; infinite where its square is too large
    is_global: bool  #: whether it is the global model, as it was
    sketch: Floats  #: shape (n,), n <= SKETCH: products with those of others are about the products of the changes
    digest: bytes  #: the same for updates that are the same


def portrait(update: Model, base: Model) -> Portrait:
    """Look at an update once.

    References
    ----------
    Charikar, Chen, Farach-Colton, "Finding Frequent Items in Data Streams", ICALP 2002: each element is added to one of
    a few sums, with a sign. Up to `SKETCH` elements have a sum each, and products are exact. Of large models, one in
    `SAMPLED` is added: so an update is looked at in less time than it is folded in.
    """
    runs, square, start, crc = base.manifest.runs, 0.0, 0, 0
    num_floats = sum(run.count for run in runs if not _is_whole(run))
    sketch = np.zeros(max(min(num_floats, SKETCH), 1))
    for run in runs:
        values, before = run.of(update.buffer), run.of(base.buffer)
        if _is_whole(run):
            crc = zlib.crc32(values.view(np.uint8).data, crc)
            continue
        parts: dict[int, tuple[float, Floats]] = {}  # by where they begin: the sum must not depend on who is first
        spread(partial(_add, values, before, len(sketch), parts), len(values))
        for first in sorted(parts):
            square += parts[first][0]
            sketch += np.roll(parts[first][1], start) if start else parts[first][1]
        start += len(values)  # who shares a sum here does not share it there
    is_global = square == 0.0 and np.array_equal(update.buffer, base.buffer)
    facts = np.array([square, crc]).tobytes() + sketch.tobytes()
    return Portrait(math.sqrt(square), is_global, sketch, hashlib.blake2b(facts, digest_size=16).digest())


def _is_whole(run: Run) -> bool:
    """Whether it has integers, or truth values."""
    return DTYPES[run.dtype].kind in "iub"


def _add(values: Array, base: Array, width: int, parts: dict[int, tuple[float, Floats]], part: slice) -> None:
    square, sketch = 0.0, np.zeros(width)
    dtype: np.dtype[Any] = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
    step, longest = 1 if len(values) <= BLOCK else SAMPLED, min(BLOCK, part.stop - part.start)
    room: NDArray[Any] = np.empty(longest, dtype)
    signed: NDArray[Any] = np.zeros(-(-longest // step // width) * width, dtype)  # whole rows
    signs = _signs(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for block in blocks(part.stop, part.start):
            length = block.stop - block.start
            change = room[:length]
            np.subtract(values[block], base[block], out=change, dtype=dtype)
            added = float(np.einsum("i,i->", change, change))
            if not math.isfinite(added):
                wide = values[block].astype(np.float64) - base[block].astype(np.float64)
                added = float(np.einsum("i,i->", wide, wide))
            square += added
            number = block.start // BLOCK
            some = change[number % step :: step]
            np.multiply(some, signs[: len(some)], out=signed[: len(some)])
            signed[len(some) :] = 0
            sums = signed.reshape(-1, width).sum(axis=0)
            sketch += np.roll(sums, number) if number else sums  # one further with each block, likewise
    parts[part.start] = square, sketch


@cache
def _signs(dtype: np.dtype[Any]) -> NDArray[Any]:
    """Draw a sign for each element of a block, always the same."""
    signs = np.random.default_rng(0).integers(0, 2, BLOCK) * 2 - 1
    return signs.astype(dtype)


class Gallery:
    """The portraits of the updates of one model, until it is published."""

    def __init__(self) -> None:
        self._shown: dict[TaskId, tuple[LearnerId, float, Portrait]] = {}
        self._senders: dict[bytes, list[LearnerId]] = {}  # by digest: the first two, of whom one is another one

    @property
    def size_bytes(self) -> int:
        """How much there is to work on."""
        return sum(shown.sketch.nbytes for _, _, shown in self._shown.values())

    def add(self, task: TaskId, learner: LearnerId, weight: float, shown: Portrait) -> LearnerId | None:
        """Take in one more; the learner whose update is the same, if there is another one, and it changes something."""
        self._shown[task] = learner, weight, shown
        if shown.is_global:
            return None
        senders = self._senders.setdefault(shown.digest, [])
        twin = next((other for other in senders if other != learner), None)
        if learner not in senders and len(senders) < 2:
            senders.append(learner)
        return twin

    def cosines(self) -> Mapping[TaskId, float]:
        """Give the cosine of what each update changes to their mean, weighted by the scaling factors, as FedAvg's is.

        Those that change nothing, or infinitely much, have none.
        """
        tasks = list(self._shown)
        if not tasks:
            return {}
        sketches = np.array([shown.sketch for _, _, shown in self._shown.values()])
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", sketches, sketches))
        known = np.flatnonzero((lengths > 0.0) & (lengths < math.inf))
        if not len(known):
            return {}
        ways = sketches[known] / lengths[known, None]
        shares = lengths[known] * np.array([weight for _, weight, _ in self._shown.values()])[known]
        mean = (shares / shares.max()) @ ways
        if (length := float(np.linalg.norm(mean))) == 0.0:
            return {}
        cosines = np.clip(ways @ (mean / length), -1.0, 1.0)
        return {tasks[index]: float(cosine) for index, cosine in zip(known, cosines, strict=True)}

    def suspects(self) -> str:
        """Say whose update may be why no model came of them; nothing if none stands out."""
        norms = {learner: shown.norm for learner, _, shown in self._shown.values()}
        if len(norms) == 1:
            return f"; the only update is of {next(iter(norms))}"
        middle = statistics.median_low(norms.values()) if norms else 0.0
        far = [f"{learner} ({norm:.3g})" for learner, norm in norms.items() if norm > FAR * middle]
        return (
            f"; by far the most changes the update of {', '.join(far[:3])}, the middle one {middle:.3g}" if far else ""
        )

    def clear(self) -> None:
        self._shown.clear()
        self._senders.clear()
