"""A model in fewer bytes: a smaller model, of which the tensors are the parts that a coding makes.

So it has a manifest and a buffer like any other, and travels as one. A global model is coded as it is. Of an update,
the change is coded: small steps would vanish beside large weights. Only tensors of floats that are trained are coded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from metisfl_async.codec.coding import Coding, Values
from metisfl_async.core.errors import Damaged
from metisfl_async.core.model import Array, Bytes, Manifest, Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import blocks
from metisfl_async.core.strategies.aggregation.spreading import spread

__all__ = ["Layout", "effort"]

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
TENSOR_BYTES = 4096  #: a tensor takes as long as so many bytes, however small it is


@dataclass(frozen=True, slots=True)
class Layout:
    """What a coding makes of the models of one manifest; made once for all of them."""

    coding: Coding
    whole: Manifest
    coded: Manifest
    parts: tuple[slice, ...]  #: of each tensor: which ones it has become
    is_coded: tuple[bool, ...]  #: of each tensor; the others travel as they are

    @classmethod
    def of(cls, coding: Coding, manifest: Manifest) -> Layout:
        tensors: list[tuple[str, str, tuple[int, ...]]] = []
        parts: list[slice] = []
        is_coded: list[bool] = []
        untrained = frozenset(manifest.untrained)
        for place, spec in enumerate(manifest.tensors):
            first = len(tensors)
            is_coded.append(place not in untrained and coding.codes(spec.dtype, spec.count))
            if is_coded[-1]:
                tensors += [(spec.name, dtype, (count,)) for dtype, count in coding.parts(spec.count)]
            else:
                tensors.append((spec.name, spec.dtype, spec.shape))
            parts.append(slice(first, len(tensors)))
        return cls(coding, manifest, Manifest.lay_out(tensors), tuple(parts), tuple(is_coded))

    def no_rest(self) -> list[Values]:
        """Make room for what codings lose: a zero for each value that is coded."""
        tensors = zip(self.whole.tensors, self.is_coded, strict=True)
        return [np.zeros(spec.count, np.float32) for spec, codes in tensors if codes]

    def encoded(self, model: Model, base: Model | None = None, rest: Sequence[Values] | None = None) -> Model:
        """Code a model, or what it changes of `base`.

        What earlier codings lost may be given as `rest`, which begins with `no_rest`: it is added to the change, and
        what is lost now stays there.

        References
        ----------
        Seide, Fu, Droppo, Li, Yu, "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
        Training of Speech DNNs", Interspeech 2014; Karimireddy, Rebjock, Stich, Jaggi, "Error Feedback Fixes SignSGD",
        arXiv:1901.09847.
        """
        coded = Model(self.coded, allocate(self.coded.size_bytes), model.version)
        coded.buffer[self.coded.padding] = 0
        outs, tensors = coded.arrays(), model.arrays()
        bases: Sequence[Array | None] = [None] * len(tensors) if base is None else base.arrays()
        rests = iter(rest or ())
        for tensor, before, mine, codes in zip(tensors, bases, self.parts, self.is_coded, strict=True):
            parts, values = outs[mine], tensor.reshape(-1)
            if not codes:
                parts[0][...] = tensor
            elif before is None:
                self.coding.encode(_narrow(values), parts)
            else:
                left = next(rests, None)
                change = np.zeros(len(values), np.float32) if left is None else left
                _add_change(change, values, before.reshape(-1))
                self.coding.encode(change, parts)
                if left is not None:
                    _subtract(left, self.coding, parts)
        return coded

    def decoded(self, coded: Model, base: Model | None = None, again: Bytes | None = None) -> Model:
        """Make the model that was coded, or the one that a coded change makes of `base`, perhaps in the buffer `again`.

        Raises
        ------
        Damaged
            If the parts of a tensor are none that the coding makes.
        """
        model = Model(self.whole, allocate(self.whole.size_bytes, again), coded.version)
        model.buffer[self.whole.padding] = 0
        arrays, outs = coded.arrays(), model.arrays()
        bases: Sequence[Array | None] = [None] * len(outs) if base is None else base.arrays()
        tensors = zip(self.whole.tensors, outs, bases, self.parts, self.is_coded, strict=True)
        for spec, out, before, mine, codes in tensors:
            parts = arrays[mine]
            if not codes:
                out[...] = parts[0]
                continue
            if (problem := self.coding.check(parts, spec.count)) is not None:
                raise Damaged(f"tensor {spec.name!r}, coded", problem)
            flat = None if before is None else before.reshape(-1)
            spread(partial(_decode, self.coding, parts, flat, out.reshape(-1)), spec.count)
        return model


def effort(manifest: Manifest) -> int:
    """Say how much work it is to code such a model or to make one whole, in bytes of other arithmetic."""
    return manifest.size_bytes + TENSOR_BYTES * len(manifest.tensors)


def _decode(coding: Coding, parts: Sequence[Array], base: Array | None, out: Array, part: slice) -> None:
    for block in blocks(part.stop, part.start):
        values = coding.decode(parts, block)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
            out[block] = values if base is None else _wide(base[block]) + values


def _add_change(to: Values, values: Array, base: Array) -> None:
    for block in blocks(len(values)):
        with np.errstate(over="ignore", invalid="ignore"):
            to[block] += _wide(values[block]) - _wide(base[block])


def _subtract(left: Values, coding: Coding, parts: Sequence[Array]) -> None:
    for block in blocks(len(left)):
        with np.errstate(over="ignore", invalid="ignore"):
            left[block] -= coding.decode(parts, block)


def _narrow(values: Array) -> Values:
    """Give values as float32; a float64 beyond its range becomes its largest."""
    if values.dtype == np.float64:
        values = np.clip(values, -LARGEST_FLOAT32, LARGEST_FLOAT32)
    return values.astype(np.float32, copy=False)


def _wide(values: Array) -> Array:
    """Give floats a dtype to compute in: float64 stays, smaller ones become float32."""
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)
