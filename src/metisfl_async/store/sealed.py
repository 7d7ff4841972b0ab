"""Texts that know whether they are damaged: the XXH3-128 of each stands before it."""

from __future__ import annotations

from metisfl_async.codec.digest import DIGEST_CHARACTERS, digest_of

__all__ = ["sealed", "unsealed"]


def sealed(text: str) -> str:
    return digest_of([text.encode()]) + text


def unsealed(text: str) -> str:
    """Give what was sealed.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    if text.startswith("{"):
        return text  # of an earlier version, which sealed nothing
    digest, text = text[:DIGEST_CHARACTERS], text[DIGEST_CHARACTERS:]
    if digest_of([text.encode(errors="replace")]) != digest:
        raise ValueError("its content is not what was written")
    return text
