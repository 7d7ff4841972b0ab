from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from metisfl_async.core.ids import new_task_id, new_token


@pytest.mark.parametrize("new", [new_task_id, new_token])
def test_an_id_is_128_random_bits_in_hexadecimal(new: Callable[[], str]) -> None:
    made = [new() for _ in range(1000)]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in made)
    assert len(set(made)) == 1000
    bits = [int(name, 16) for name in made]
    assert all(350 < sum(number >> bit & 1 for number in bits) < 650 for bit in range(128))  # 9 sigma
