from __future__ import annotations

from metisfl_async.core.repeats import Repeats


def test_what_happens_again_and_again_is_told_ever_more_rarely() -> None:
    repeats = Repeats()
    told = [repeats.count("a") for _ in range(1000)]
    assert [times for times in told if times] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert told.index(512) == 511
    assert repeats.count("b") == 1
