from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from metisfl_async.core.ids import FederationId, TaskId, new_federation_id, new_task_id, new_token, traceparent_of


@pytest.mark.parametrize("new", [new_task_id, new_token])
def test_an_id_is_128_random_bits_in_hexadecimal(new: Callable[[], str]) -> None:
    made = [new() for _ in range(1000)]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in made)
    assert len(set(made)) == 1000
    bits = [int(name, 16) for name in made]
    assert all(350 < sum(number >> bit & 1 for number in bits) < 650 for bit in range(128))  # 9 sigma


def test_the_trace_of_a_task_is_that_of_its_federation() -> None:
    federation_id, task_id = FederationId("0123456789abcdef" * 2), TaskId("fedcba9876543210" * 2)
    assert traceparent_of(federation_id, task_id) == "00-0123456789abcdef0123456789abcdef-fedcba9876543210-01"


@pytest.mark.parametrize("others", ["", "mine", "F" * 32, "g" * 32, "f" * 33])
def test_ids_that_others_made_otherwise_have_no_trace(others: str) -> None:
    assert traceparent_of(FederationId(others), new_task_id()) == ""
    assert traceparent_of(new_federation_id(), TaskId(others)) == ""
