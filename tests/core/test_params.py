from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json
from metisfl_async.core.params import Params, SharedValues

LONG: list[Json] = [0.5] * 1000


def test_what_is_shared_is_put_into_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    worded: list[object] = []

    def counted(value: object) -> str:
        worded.append(value)
        return words(value)

    words = json.dumps
    monkeypatch.setattr(json, "dumps", counted)
    shared = SharedValues({"x": LONG, "epochs": 3})
    texts = [shared.checked({"x": LONG, "num_local_updates": number}, "params").text for number in range(10)]
    monkeypatch.undo()
    assert [json.loads(text) for text in texts] == [{"x": LONG, "num_local_updates": number} for number in range(10)]
    assert worded.count(LONG) == 1


def test_what_is_shared_is_neither_walked_nor_copied_and_all_else_is_checked() -> None:
    shared = SharedValues({"x": LONG})
    mine: Json = [1, 2]
    checked = shared.checked({"x": LONG, "y": mine}, "params")
    assert checked == {"x": LONG, "y": mine}
    assert checked["x"] is LONG
    assert checked["y"] is not mine
    with pytest.raises(ConfigError, match=r"params\['y'\]"):
        shared.checked({"x": LONG, "y": b"raw"}, "params")  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="a key of params"):
        shared.checked({1: LONG}, "params")  # type: ignore[dict-item]


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.floats(allow_nan=False) | st.lists(st.text())))
def test_the_text_is_json_of_the_same(values: dict[str, Json]) -> None:
    assert json.loads(SharedValues(values).checked(values, "params").text) == values
    assert json.loads(Params(values).text) == values


def test_a_copy_is_a_plain_dict_without_what_is_shared() -> None:
    @dataclass
    class Holder:
        config: dict[str, Json]

    made = SharedValues({"x": LONG}).checked({"x": LONG}, "params")
    assert type(pickle.loads(pickle.dumps(made))) is dict
    assert copy.deepcopy(made) == made
    assert asdict(Holder(made)) == {"config": {"x": LONG}}
