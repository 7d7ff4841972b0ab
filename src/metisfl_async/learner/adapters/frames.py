"""Frames of pandas, or of others, as arrays."""

from __future__ import annotations

from typing import Any

from metisfl_async.core.errors import ConfigError

__all__ = ["numbers_of"]


def numbers_of(field: str, x: Any) -> Any:
    """Make an array of a frame; what is none stays.

    Raises
    ------
    ConfigError
        If a column has no numbers.
    """
    if not hasattr(x, "columns") or not hasattr(x, "to_numpy"):
        return x
    for column in x.columns:
        values = x[column].to_numpy()
        if values.dtype.kind not in "biuf":
            raise ConfigError(f"column {column!r} of {field}", str(values.dtype), "numbers: encode what is none")
    return x.to_numpy()
