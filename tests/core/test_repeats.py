from __future__ import annotations

from metisfl_async.core.repeats import MAX_COUNTED, Repeats


def test_what_happens_again_and_again_is_told_ever_more_rarely() -> None:
    repeats = Repeats()
    told = [repeats.count("a") for _ in range(1000)]
    assert [times for times in told if times] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert told.index(512) == 511
    assert repeats.count("b") == 1


def test_only_so_many_different_things_are_counted_at_a_time() -> None:
    repeats = Repeats()
    for number in range(3 * MAX_COUNTED):
        assert repeats.count(number) == 1
    assert repeats.count(3 * MAX_COUNTED - 1) == 2
    assert repeats.count(0) == 1  # counted anew
