"""Whatever an attacker does, the federation beside it finishes, and its model is what it would have been."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import pytest
from attackers import insiders
from attackers.catalogue import ROWS, Row
from attackers.ground import HONEST, ROUNDS, Outside, Seen, beside, tokens_in

from metisfl_async import ControllerConfig
from metisfl_async.core.access import Identity
from metisfl_async.core.texts import MAX_TEXT

pytestmark = pytest.mark.slow

Tokens: TypeAlias = tuple[Path, Mapping[Identity, str]]


async def nothing(_: Outside) -> str:
    return "nothing"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return tokens_in(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def undisturbed() -> dict[tuple[object, ...], list[bytes]]:
    """Final models by what they depend on, of federations that nobody attacked."""
    return {}


async def expected(row: Row, tokens: Tokens, undisturbed: dict[tuple[object, ...], list[bytes]]) -> list[bytes]:
    """Run the federation with honest learners alone, or with one more where the attacker's update counts."""
    key = row.size, row.counts, str(row.config)
    if key not in undisturbed:
        peers, attack = (("insider",), insiders.honest) if row.counts else ((), nothing)
        seen = await beside(attack, tokens, ControllerConfig(**row.config), size=row.size, insiders=peers)
        undisturbed[key] = seen.bits
    return undisturbed[key]


@pytest.mark.parametrize("name", ROWS)
async def test_an_attack_changes_nothing_for_the_others(
    name: str, tokens: Tokens, undisturbed: dict[tuple[object, ...], list[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    row = ROWS[name]
    seen = await beside(row.attack, tokens, ControllerConfig(**row.config), size=row.size, insiders=row.insiders)
    assert seen.told == row.told
    assert seen.bits == await expected(row, tokens, undisturbed)
    check_records(row, seen)
    assert not [record.getMessage() for record in caplog.records if _is_an_error(record)]
    assert sorted(seen.comings_and_goings()) == [("LearnerJoined", name) for name in HONEST]


def _is_an_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR and record.name.startswith(("metisfl_async", "grpc"))


def check_records(row: Row, seen: Seen) -> None:
    first, *rest = seen.result.rounds
    assert [sorted(record.participants) for record in rest] == [sorted(HONEST)] * (ROUNDS - 1)
    assert sorted(first.participants) == sorted([*HONEST, *(["insider"] if row.counts else [])])
    texts = [text for part in first.learners.values() for each in part.failures for text in (each.type, each.message)]
    assert all(text.isprintable() and len(text) <= MAX_TEXT for text in texts)
    for name in HONEST:
        assert not any(record.learners[name].failures for record in seen.result.rounds)
    if row.insiders:
        failures = [failure.type for failure in first.learners["insider"].failures if failure.task == "train"]
        assert set(failures) == ({row.failure} if row.failure else set())
