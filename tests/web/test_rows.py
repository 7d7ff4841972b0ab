from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.web.rows import Rows


def put(rows: Rows, *key: Any, value: Any) -> None:
    rows.put(*key, value=lambda: value)


def test_a_reader_gets_each_row_that_changed_once_and_as_it_is_now() -> None:
    rows = Rows()
    put(rows, "learner", 0, value="a")
    put(rows, "learner", 1, value="b")
    seen = rows.since(0, 10)
    assert json.loads(seen.text) == [["learner", 0, "a"], ["learner", 1, "b"]]
    put(rows, "learner", 0, value="c")
    put(rows, "learner", 0, value="d")
    assert json.loads(rows.since(seen.version, 10).text) == [["learner", 0, "d"]]
    assert rows.since(rows.version, 10) == ("", rows.version)


def test_what_is_much_comes_in_pieces() -> None:
    rows, texts, version = Rows(), list[str](), 0
    for number in range(25):
        put(rows, "task", number, value=number)
    while version < rows.version:
        text, version = rows.since(version, 10)
        texts.append(text)
    assert [len(json.loads(text)) for text in texts] == [10, 10, 5]


def test_a_dropped_row_is_told_to_nobody_who_comes_later() -> None:
    rows = Rows()
    put(rows, "task", 0, value=0)
    put(rows, "task", 1, value=1)
    rows.drop("task", 0)
    rows.drop("task", 7)
    assert json.loads(rows.since(0, 10).text) == [["task", 1, 1]]
    assert len(rows) == 1


def test_numbers_that_json_does_not_have_become_null_and_others_are_short() -> None:
    rows = Rows()
    put(rows, "round", 0, value={"loss": float("nan"), "all": [1 / 3, float("inf"), 12, "text"]})
    assert rows.since(0, 1).text == '[["round",0,{"loss":null,"all":[0.333333333,null,12,"text"]}]]'


def test_a_row_that_changes_for_ever_takes_no_more_room() -> None:
    rows = Rows()
    for number in range(10_000):
        put(rows, "run", value=number)
    assert sum(len(block.rows) for block in rows._blocks) <= 2
    assert rows.since(5_000, 10) == ('[["run",9999]]', 10_000)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers()), max_size=80), st.lists(st.integers(1, 4), min_size=1))
def test_whoever_reads_at_whatever_times_has_all_rows_in_the_end(
    changes: list[tuple[int, int]], pieces: list[int]
) -> None:
    rows, read, version = Rows(block=4), dict[int, int](), 0
    for count, (key, value) in enumerate(changes):
        put(rows, "a", key, value=value)
        text, version = rows.since(version, pieces[count % len(pieces)])
        read |= {key: value for _, key, value in json.loads(text or "[]")}
    while version < rows.version:
        text, version = rows.since(version, 3)
        read |= {key: value for _, key, value in json.loads(text or "[]")}
    assert read == dict(changes)
