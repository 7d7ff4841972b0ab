from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest

from metisfl_async.codec.chunk import split
from metisfl_async.codec.frame import Assembly, Data, Frame, Header, decode, frames_of
from metisfl_async.codec.pace import CHUNK_BYTES, FIRST_BYTES, LEAST_BYTES, Pace
from metisfl_async.codec.publication import Publication
from metisfl_async.core.model import Model, allocate

MODEL = Model.from_arrays([np.arange(3 * CHUNK_BYTES // 8 + 5, dtype=np.int64)], version=7)


def test_it_grows_while_frames_are_sent_quickly_up_to_a_chunk() -> None:
    pace = Pace()
    sizes = []
    for _ in range(6):
        sizes.append(pace.payload_bytes)
        pace.took(pace.payload_bytes, 0.001)
        assert pace.is_quick == (len(sizes) > 3)
    assert sizes == [FIRST_BYTES * 2**n for n in range(5)] + [CHUNK_BYTES]


def test_it_shrinks_while_frames_take_seconds_and_grows_again() -> None:
    pace = Pace()
    pace.payload_bytes = CHUNK_BYTES
    pace.took(CHUNK_BYTES, 2.1)
    assert pace.payload_bytes == CHUNK_BYTES // 2
    assert not pace.is_quick
    pace.took(CHUNK_BYTES // 2, 12.0)  # six times as long as it may
    assert pace.payload_bytes == CHUNK_BYTES // 16
    pace.took(0, 1e9)
    assert pace.payload_bytes == LEAST_BYTES
    pace.took(pace.payload_bytes, 0.1)
    assert pace.payload_bytes == 2 * LEAST_BYTES


@pytest.mark.parametrize(("sent_bytes", "seconds"), [(FIRST_BYTES, 1.0), (FIRST_BYTES - 1, 0.001), (0, 0.001)])
def test_what_says_nothing_changes_nothing(sent_bytes: int, seconds: float) -> None:
    """A frame that took as long as it may; one that was smaller than what is allowed, or broke off."""
    pace = Pace()
    pace.took(sent_bytes, seconds)
    assert pace.payload_bytes == FIRST_BYTES


def test_sending_is_timed_also_when_it_breaks_off() -> None:
    pace = Pace()
    with mock.patch("time.perf_counter", side_effect=[0.0, 0.1, 0.1, 3.1, 3.1, 3.2]):
        with pace.sending(bytes(FIRST_BYTES)):
            pass
        assert pace.payload_bytes == 2 * FIRST_BYTES
        with pytest.raises(TimeoutError), pace.sending(bytes(2 * FIRST_BYTES)):
            raise TimeoutError
        assert pace.payload_bytes == FIRST_BYTES
        with pytest.raises(OSError, match="gone"), pace.sending(bytes(2 * FIRST_BYTES)):
            raise OSError("gone")
        assert pace.payload_bytes == FIRST_BYTES


def test_a_model_is_cut_as_its_pace_says_and_is_the_same() -> None:
    pace = Pace()
    header = Header("update", MODEL.manifest, 7)
    assembly = Assembly(header, allocate(MODEL.manifest.size_bytes))
    sizes = []
    for frame in getting_slower(header, pace):
        if isinstance(frame, Data):
            sizes.append(len(frame.payload))
        if not isinstance(frame, Header):
            assembly.add(frame)
    assert assembly.is_complete
    np.testing.assert_array_equal(assembly.model.arrays()[0], MODEL.arrays()[0])
    assert sizes[:4] == [FIRST_BYTES, FIRST_BYTES // 2, FIRST_BYTES // 4, FIRST_BYTES // 4]


def getting_slower(header: Header, pace: Pace) -> Iterator[Frame]:
    for frame in frames_of(header, MODEL, pace):
        yield frame
        if isinstance(frame, Data):
            pace.took(len(frame.payload), 3.0)


def test_readers_at_any_pace_get_the_same_model_and_the_quick_ones_the_same_chunks() -> None:
    publication = Publication(MODEL)
    slow, waking, quick = Pace(), Pace(), Pace()
    quick.payload_bytes = CHUNK_BYTES
    taken: list[list[bytes]] = []
    for pace, seconds in ((slow, 3.0), (quick, 0.001), (waking, 0.001)):
        chunks = []
        for chunk, size in publication.chunks(pace):
            chunks.append(chunk)
            pace.took(size, seconds)
        taken.append(chunks)
        header, *frames = [decode(frame) for chunk in chunks for frame in split(chunk)]
        assert isinstance(header, Header)
        assembly = Assembly(header, allocate(header.manifest.size_bytes))
        assert [assembly.add(frame) for frame in frames][-1]
        np.testing.assert_array_equal(assembly.model.arrays()[0], MODEL.arrays()[0])
    in_slow, in_quick, in_waking = taken
    assert max(map(len, in_slow)) < FIRST_BYTES + 100
    assert all(ours is shared for ours, (shared, _) in zip(in_quick, publication.chunks(), strict=True))
    assert in_waking[-3] is in_quick[-3]  # once it is quick enough
