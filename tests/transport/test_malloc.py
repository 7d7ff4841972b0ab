from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

PAGE_FAULTS = """
import resource
from metisfl_async.transport.malloc import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        chunks = [bytes([1]) * 2**20 for _ in range(8)]  # they come and go together, as a round's do
        del chunks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""


def test_chunks_that_come_and_go_use_the_same_pages() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 5_000  # two thousand pages at a time, again and again
    assert after < 500
