"""A short number that says whether bytes are still what they were."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

__all__ = ["DIGEST_CHARACTERS", "digest_of"]

DIGEST_CHARACTERS = 32  #: of the hexadecimal text


def digest_of(parts: Iterable[bytes | memoryview]) -> str:
    """Give the XXH3-128 of all parts, one after another, as hexadecimal text.

    It finds damage, not forgery. Where one part ends and the next begins makes no difference to it.
    """
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
