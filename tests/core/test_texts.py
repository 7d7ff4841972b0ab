from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.core.texts import MAX_NAME, MAX_TEXT, plain, plain_names


@pytest.mark.parametrize("text", ["", "no data", "Größe 3 µm, 学習\u3000失敗", r"C:\new", "x" * MAX_TEXT])
def test_what_is_plain_stays_as_it_is(text: str) -> None:
    assert plain(text) is text or plain(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nINFO forged", r"a\nINFO forged"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x07\r\x7f\x9b", r"\x07\r\x7f\x9b"),
        ("a\u202eb", r"a\u202eb"),
        ("\udcff", r"\udcff"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.parametrize("text", ["x" * 100_000, "\x1b" * 100_000, "x" * (MAX_TEXT + 1), "x" * 3_998 + "\n\n"])
def test_what_is_long_is_cut_and_says_so(text: str) -> None:
    shown = plain(text)
    assert len(shown) == MAX_TEXT
    assert shown.endswith("...")


@given(st.text(st.characters(exclude_categories=[]), max_size=300), st.integers(3, 300))
def test_any_text_prints_and_making_it_plain_again_changes_nothing(text: str, most: int) -> None:
    shown = plain(text, most)
    assert len(shown) <= most
    assert plain(shown, most) == shown
    assert not any(character < " " or "\x7f" <= character < "\xa0" for character in shown)
    shown.encode()


def test_names_are_made_plain_as_well() -> None:
    assert plain_names({"loss": 1.0, "a\nb": 2.0, "x" * 999: 3.0}) == {
        "loss": 1.0,
        r"a\nb": 2.0,
        "x" * (MAX_NAME - 3) + "...": 3.0,
    }
