"""Spoils what comes from the network, for as long as you like, and sees that only the documented errors come of it.

``make fuzz`` runs it for an hour, ``python fuzzing/fuzz.py --seconds 36000 --seed 7`` for ten. An input that breaks
something is printed in hexadecimal, with its traceback, and ends the run. Inputs that took longer than `SLOW_S` of the
processor, or more than `LARGE_BYTES` of memory where ``--memory`` looks at that, are counted and shown.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from random import Random

from mutations import spoiled
from targets import TARGETS, Target

__all__ = ["inputs", "try_one"]

SLOW_S = 0.01
LARGE_BYTES = 2**20
ROUND = 2_000  #: inputs of one target, before it is another one's turn


def inputs(name: str, seed: int, count: int) -> Iterator[bytes]:
    """Give so many inputs for a target, the same for the same seed."""
    random = Random(f"{seed} {name}")
    for _ in range(count):
        yield spoiled(TARGETS[name].seeds, random)


def try_one(target: Target, data: bytes) -> None:
    """Read an input; raises what is not documented."""
    with suppress(*target.allowed):
        target.read(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="look at the memory that each input takes; much slower")
    options = parser.parse_args()
    until, seed, tried = time.monotonic() + options.seconds, options.seed, 0
    costly: dict[str, int] = {}
    while time.monotonic() < until:
        for name, target in TARGETS.items():
            for data in inputs(name, seed, ROUND):
                if options.memory:
                    tracemalloc.start()
                begun = time.thread_time()
                try:
                    try_one(target, data)
                except Exception:  # noqa: BLE001 - whatever it is, it is a bug
                    traceback.print_exc()
                    print(f"{name}, seed {seed}, after {tried} inputs: {data.hex()}")
                    return 1
                took_s, peak = time.thread_time() - begun, 0
                if options.memory:
                    peak = tracemalloc.get_traced_memory()[1]
                    tracemalloc.stop()
                tried += 1
                if took_s > SLOW_S or peak > LARGE_BYTES:
                    costly[name] = costly.get(name, 0) + 1
                    if costly[name] == 1:
                        print(f"{name}: {took_s * 1e3:.1f} ms, {peak} bytes for {data[:200].hex()}...")
        seed += 1
    print(f"{tried} inputs, seeds {options.seed} to {seed - 1}: only documented errors; costly: {costly or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
