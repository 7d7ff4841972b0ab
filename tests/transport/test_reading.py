from __future__ import annotations

import asyncio

import numpy as np
import pytest

from metisfl_async.codec.frame import Data, End, Header, encode, frames_of
from metisfl_async.codec.manifest import STEP
from metisfl_async.core.errors import Damaged
from metisfl_async.core.model import Manifest, Model
from metisfl_async.transport.reading import frames_in

MODEL = Model.from_arrays([np.arange(5)])
FRAMES = list(frames_of(Header("update", MODEL.manifest, 3), MODEL))


async def test_all_frames_of_a_chunk_are_read() -> None:
    assert await frames_in(encode(*FRAMES)) == FRAMES


@pytest.mark.parametrize("frame", [FRAMES[0], Data(40, memoryview(b"a")), End(bytes(16))])
async def test_a_frame_behind_the_end_frame_is_damage(frame: Header | Data | End) -> None:
    with pytest.raises(Damaged, match="after the end frame"):
        await frames_in(encode(*FRAMES, frame))


async def test_others_get_their_turn_while_many_tensors_are_read() -> None:
    manifest = Manifest.lay_out([(str(index), "int8", ()) for index in range(4 * STEP)])
    chunk, turns = encode(Header("update", manifest, 3)), 0
    del manifest  # what is known is not read again
    reading = asyncio.ensure_future(frames_in(chunk))
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 4
