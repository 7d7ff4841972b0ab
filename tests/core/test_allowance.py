from __future__ import annotations

import pytest

from metisfl_async.core.allowance import Allowance


def test_so_much_goes_at_once_and_the_rest_at_the_rate() -> None:
    allowance = Allowance(10.0, 20.0)
    assert [allowance.spend(5.0) for _ in range(23)] == pytest.approx([0.0] * 20 + [0.1, 0.2, 0.3])


def test_whoever_waits_as_told_gets_the_rate() -> None:
    allowance, now = Allowance(10.0, 20.0), 0.0
    for _ in range(120):
        now += allowance.spend(now)
    assert now == pytest.approx(10.0)


def test_a_pause_fills_it_but_not_above_what_it_holds() -> None:
    allowance = Allowance(10.0, 20.0)
    allowance.spend(0.0, 20.0)
    assert allowance.spend(1.0, 10.0) == 0.0
    assert allowance.spend(1_000.0, 21.0) == pytest.approx(0.1)


def test_what_was_earned_is_spent_first_and_once() -> None:
    allowance = Allowance(10.0, 2.0)
    allowance.earn(3.0, 9.0)
    assert [allowance.spend(0.0) for _ in range(6)] == pytest.approx([0.0] * 5 + [0.1])


def test_what_is_earned_pays_no_debt() -> None:
    allowance = Allowance(10.0, 1.0)
    assert allowance.spend(0.0, 2.0) == pytest.approx(0.1)
    allowance.earn(0.5, 9.0)
    assert allowance.spend(0.0, 1.0) == pytest.approx(0.15)


def test_what_is_earned_and_not_spent_does_not_pile_up() -> None:
    allowance = Allowance(10.0, 1.0)
    for _ in range(1_000):
        allowance.earn(2.0, 4.0)
    assert [allowance.spend(0.0) for _ in range(6)] == pytest.approx([0.0] * 5 + [0.1])
    allowance.earn(8.0, 8.0)
    allowance.earn(2.0, 4.0)  # less may be kept of this kind; what is there stays
    assert [allowance.spend(0.0) for _ in range(9)] == pytest.approx([0.1] * 8 + [0.2])


def test_what_is_forfeited_cannot_be_spent() -> None:
    allowance = Allowance(10.0, 1.0)
    allowance.earn(5.0, 9.0)
    for amount in (3.0, -1.0):
        allowance.forfeit(amount)
    assert [allowance.spend(0.0) for _ in range(4)] == pytest.approx([0.0] * 3 + [0.1])
    allowance.forfeit(7.0)
    assert allowance.spend(0.0) == pytest.approx(0.2)
