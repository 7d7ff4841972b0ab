"""LoRAStacked: the mean of what low-rank adapters do, and not of their factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import NoModel
from metisfl_async.core.model import Array, Manifest, Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["LoRAStacked"]

Factors: TypeAlias = list[tuple[float, Array, Array]]  #: of each learner: its share, and the two

#: How the two factors of an adapter are told apart by their names: PEFT's, plain ones, and Keras'.
NAMES = (("lora_A", "lora_B"), ("lora_a", "lora_b"), ("lora_kernel_a", "lora_kernel_b"))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two tensors, by number, whose product ``left @ right`` is what is added to a weight."""

    left: int
    right: int
    scaled: int  #: the one of them that begins with zeros, and has the size of the product


class LoRAStacked(AggregationRule):
    """The weighted mean of the products of LoRA's factors, cut back to their rank; of all other tensors, the mean.

    The mean of factors is not the factor of the mean: ``mean(B_k) @ mean(A_k)`` has products of one learner's B with
    another's A in it. So the factors are stacked, ``[s_1 B_1, s_2 B_2, ...] @ [A_1; A_2; ...]``, whose product is the
    mean of all ``B_k @ A_k``, and a singular value decomposition of it gives the best factors of the old rank. What of
    the mean has a higher rank is lost. A comes out with orthonormal rows, and B has the size.

    The factors are found by their names, "lora_A" and "lora_B" as of PEFT, or "lora_a" and "lora_b", or
    "lora_kernel_a" and "lora_kernel_b" as of Keras. All learners' are kept until the model is made.

    Parameters
    ----------
    rank : int, optional
        At most so many directions are kept of the mean; without it, as many as the factors have room for.

    References
    ----------
    Wang et al., "FLoRA: Federated Fine-Tuning Large Language Models with Heterogeneous Low-Rank Adaptations",
    arXiv:2409.05976, section 3: the stacking. There, the stack is sent, and its product added to the base.
    """

    is_heavy = True

    def __init__(self, rank: int | None = None) -> None:
        if rank is not None:
            integer("rank", rank, 1)
        self.rank = rank

    def start(self, model: Model) -> None:
        self._sum, self._pairs = Sum(model.manifest), _pairs_of(model.manifest)
        self.discard()

    def fold(self, update: Update) -> None:
        arrays = update.model.arrays()
        factors = [(arrays[pair.left].copy(), arrays[pair.right].copy()) for pair in self._pairs]
        self._sum.add(update.model, update.weight)
        self._folded.append((update.weight, factors))

    def aggregate(self, version: int) -> Model:
        if not self._pairs:
            known = ", ".join(" and ".join(names) for names in NAMES)
            raise NoModel(f"LoRAStacked finds no factors in the model, two matrices whose names differ in {known}")
        total = sum(weight for weight, _ in self._folded)
        model = self._sum.divided_by(total, version)
        arrays = model.arrays()
        for number, pair in enumerate(self._pairs):
            factors = [(weight / total, *each[number]) for weight, each in self._folded]
            _merge(factors, arrays[pair.left], arrays[pair.right], self.rank, is_left=pair.scaled == pair.left)
        self.discard()
        return model

    def discard(self) -> None:
        self._sum.clear()
        self._folded: list[tuple[float, list[tuple[Array, Array]]]] = []


def _pairs_of(manifest: Manifest) -> list[_Pair]:
    places = {name: place for place, name in enumerate(manifest.names)}
    pairs = []
    for name, a in places.items():
        for of_a, of_b in NAMES:
            b = places.get(name.replace(of_a, of_b)) if of_a in name else None
            if b is not None and (pair := _pair(manifest, a, b, is_keras="kernel" in of_a)) is not None:
                pairs.append(pair)
    return pairs


def _pair(manifest: Manifest, a: int, b: int, *, is_keras: bool) -> _Pair | None:
    """Say which factor is the left one; None if they are no matrices that can be multiplied."""
    left, right = (a, b) if is_keras else (b, a)
    shapes = [manifest.tensors[place].shape for place in (left, right)]
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][0]:
        return None
    return _Pair(left, right, scaled=b)


def _merge(factors: Factors, left: Array, right: Array, rank: int | None, *, is_left: bool) -> None:
    """Write the factors of the mean of ``left_k @ right_k`` over what is there; `is_left` says which has the size."""
    tall = np.concatenate([share * each.astype(np.float64) for share, each, _ in factors], axis=1)
    wide = np.concatenate([each.astype(np.float64) for _, _, each in factors], axis=0)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            q_left, r_left = np.linalg.qr(tall)
            q_right, r_right = np.linalg.qr(wide.T)
            u, sizes, v = np.linalg.svd(r_left @ r_right.T)  # small, whatever the layer's size
    except np.linalg.LinAlgError as error:
        raise NoModel(f"LoRAStacked cannot decompose the mean of the learners' factors: {error}") from error
    room = min(left.shape[1], len(sizes))
    kept = np.where(np.arange(room) < (rank or room), sizes[:room], 0.0)
    left[...] = right[...] = 0
    left[:, :room] = (q_left @ u[:, :room]) * (kept if is_left else 1.0)
    right[:room] = (v[:room] @ q_right.T) * (1.0 if is_left else kept[:, None])
