from __future__ import annotations

from metisfl_async.core.floor import Floor


def test_a_byte_a_second_is_not_enough_once_the_period_is_over() -> None:
    floor = Floor(100.0, 60.0)
    assert [floor.came(1, 1.0) for _ in range(60)] == [True] * 59 + [False]


def test_what_keeps_to_the_rate_in_each_period_goes_on_for_ever() -> None:
    floor = Floor(100.0, 60.0)
    for _ in range(10):
        assert floor.came(6_000, 59.9)  # a pause
        assert floor.came(10, 0.1)


def test_each_period_counts_for_itself() -> None:
    floor = Floor(100.0, 60.0)
    assert floor.came(10**9, 60.0)
    assert not floor.came(5_999, 60.0)
    assert floor.came(6_000, 60.0)


def test_without_a_rate_nothing_is_too_slow() -> None:
    assert Floor(0.0, 60.0).came(0, 1e9)
