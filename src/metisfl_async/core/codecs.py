"""How the values of a model may travel, by name: as they are, or in fewer bytes."""

from __future__ import annotations

import re

__all__ = ["BF16", "DOWNLOAD_CODECS", "EXACT", "INT8", "RAW", "UPDATE_CODECS", "is_update_codec", "share_of"]

RAW = "raw"  #: as they are
BF16 = "bf16"  #: the upper half of each float32
INT8 = "int8"  #: a byte each, and a scale for a thousand of them
EXACT = "exact"  #: of sums alone: several float64 numbers for each
DOWNLOAD_CODECS = (RAW, BF16, INT8)
UPDATE_CODECS = "'raw', 'bf16', 'int8', or 'topk:' and which share of the values, such as 'topk:0.01'"

_TOP_K = re.compile(r"topk:(0\.[0-9]{1,6})")


def share_of(codec: str) -> float | None:
    """Say which share of the values "topk:..." sends; None for what is not written so."""
    found = _TOP_K.fullmatch(codec)
    return (float(found[1]) or None) if found else None


def is_update_codec(codec: object) -> bool:
    """Say whether updates can travel so."""
    return codec in (RAW, BF16, INT8) or (isinstance(codec, str) and share_of(codec) is not None)
