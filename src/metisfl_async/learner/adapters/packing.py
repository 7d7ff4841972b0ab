"""What a learner remembers from task to task, as bytes: arrays by their names, and where a generator is."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["packed", "unpacked"]

DRAWN = "drawn"  #: the generator's name among the arrays; theirs have a slash


def packed(arrays: Mapping[str, NDArray[Any]], rng: np.random.Generator | None) -> bytes:
    """Pack arrays; those of bfloat16 become float32, which holds all their values."""
    # isbuiltin is 1 for NumPy's own dtypes, and 2 for those that another library adds.
    plain = {name: array if array.dtype.isbuiltin == 1 else array.astype(np.float32) for name, array in arrays.items()}
    drawn = np.array(json.dumps(None if rng is None else rng.bit_generator.state))
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **plain, **{DRAWN: drawn})
    return file.getvalue()


def unpacked(state: bytes, rng: np.random.Generator | None) -> dict[str, NDArray[Any]]:
    """Give the arrays, and set the generator; nothing is run as code."""
    with np.load(io.BytesIO(state), allow_pickle=False) as file:
        found = dict(file)
    drawn = json.loads(str(found.pop(DRAWN)))
    if rng is not None and drawn is not None:
        rng.bit_generator.state = drawn
    return found
