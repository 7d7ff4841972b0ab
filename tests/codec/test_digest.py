"""The digest of what is kept."""

from __future__ import annotations

from metisfl_async.codec.digest import DIGEST_CHARACTERS, digest_of


def test_it_is_of_all_bytes_in_their_order_wherever_they_were_cut() -> None:
    digest = digest_of([b"some bytes"])
    assert digest == digest_of([b"some", memoryview(b" "), b"bytes"])
    assert len(digest) == DIGEST_CHARACTERS
    assert len({digest, digest_of([]), digest_of([b"some byteS"]), digest_of([b"bytes some"])}) == 4


def test_it_is_the_same_in_the_next_release() -> None:
    assert digest_of([]) == "99aa06d3014798d86001c324468d497f"  # XXH3-128 of nothing, as its authors give it
