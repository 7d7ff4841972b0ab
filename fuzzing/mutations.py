"""Spoils bytes at random, the same way for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

__all__ = ["spoiled"]

MOST_SPOILS = 8
MOST_BYTES = 64 * 1024  #: inputs do not grow for ever
#: Bytes that msgpack or protobuf read as a head, and numbers at the ends of their ranges.
HEADS = bytes([0x00, 0x01, 0x0A, 0x12, 0x7F, 0x80, 0x8F, 0x90, 0x91, 0x92, 0x94, 0x9F, 0xA0, *range(0xC0, 0xE1), 0xFF])


def spoiled(seeds: Sequence[bytes], random: Random) -> bytes:
    """Take one of the seeds, and change it in a few places."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, MOST_SPOILS)):
        at = random.randint(0, len(data))
        match random.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1 if at < len(data):
                data[at] = random.choice(HEADS)
            case 2 if at < len(data):
                data[at] = random.randrange(256)
            case 3:
                del data[at : at + random.choice((1, 2, 8, 64))]
            case 4:
                data[at:at] = random.randbytes(random.choice((1, 2, 8)))
            case 5:
                data[at:at] = bytes([random.choice(HEADS)]) * random.choice((1, 4, 16, 300))
            case 6:
                data[at:at] = data[at : at + random.choice((1, 8, 64))]
            case 7:
                other = random.choice(seeds)
                begin = random.randint(0, len(other))
                data[at : at + random.choice((0, 8))] = other[begin : begin + random.choice((4, 16, 64))]
            case _:
                pass
        del data[MOST_BYTES:]
    return bytes(data)
