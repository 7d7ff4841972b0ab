from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from metisfl_async.core import errors
from metisfl_async.core.errors import (
    AccessDenied,
    CodecError,
    ConfigError,
    ConnectionLost,
    Damaged,
    MetisError,
    ModelLost,
    NoModel,
    PeerTimeout,
    ProtocolError,
    QuorumLost,
    RoundError,
    StoreError,
    Superseded,
    TlsFailure,
    TooLarge,
    TransportError,
    Truncated,
    UnexpectedMessage,
    UnknownDtype,
    UnknownFederation,
    UnknownLearner,
    WrongProtocol,
    brief,
)

#: One of each class, its facts by name, and its parents.
EVERY_ERROR: list[tuple[MetisError, dict[str, object], tuple[type, ...]]] = [
    (MetisError("it failed"), {}, (Exception,)),
    (
        ConfigError("cohort_size", 0, "an integer >= 1"),
        {"field": "cohort_size", "value": 0, "allowed": "an integer >= 1"},
        (MetisError, ValueError),
    ),
    (CodecError("header", "not a map"), {"where": "header", "what": "not a map"}, (MetisError, ValueError)),
    (Damaged("end frame", "odd"), {"where": "end frame", "what": "odd"}, (CodecError,)),
    (Truncated("Chunk", "1 of 2 bytes"), {"where": "Chunk", "what": "1 of 2 bytes"}, (CodecError,)),
    (TooLarge("header", "5 bytes; at most 4"), {"where": "header", "what": "5 bytes; at most 4"}, (CodecError,)),
    (UnknownDtype("tensor 0", "dtype 'O'"), {"where": "tensor 0", "what": "dtype 'O'"}, (CodecError,)),
    (ProtocolError("it lied"), {}, (MetisError,)),
    (UnknownLearner("token-1"), {"token": "token-1"}, (ProtocolError,)),
    (Superseded("site-a"), {"learner": "site-a"}, (ProtocolError,)),
    (UnknownFederation("a", "b"), {"meant": "a", "running": "b"}, (ProtocolError,)),
    (WrongProtocol("a learner", 1, 2), {"peer": "a learner", "theirs": 1, "ours": 2}, (ProtocolError,)),
    (UnexpectedMessage("no round is open"), {"what": "no round is open"}, (ProtocolError,)),
    (TransportError("a:1", "it broke"), {"address": "a:1", "reason": "it broke"}, (MetisError, OSError)),
    (ConnectionLost("a:1", "it went away"), {"address": "a:1", "reason": "it went away"}, (TransportError,)),
    (TlsFailure("a:1", "it has expired"), {"address": "a:1", "reason": "it has expired"}, (ConnectionLost,)),
    (PeerTimeout("a:1", "silent for 5 s"), {"address": "a:1", "reason": "silent for 5 s"}, (TransportError,)),
    (AccessDenied(), {}, (ProtocolError,)),
    (StoreError("models", "no room"), {"where": "models", "why": "no room"}, (MetisError,)),
    (ModelLost("models", "a bit"), {"where": "models", "why": "a bit"}, (StoreError,)),
    (RoundError("it stopped"), {}, (MetisError,)),
    (NoModel("it is NaN"), {"why": "it is NaN"}, (RoundError,)),
    (QuorumLost("2 of 5 reported"), {"why": "2 of 5 reported"}, (RoundError,)),
]
each_error = pytest.mark.parametrize(
    ("error", "facts", "parents"), [pytest.param(*case, id=type(case[0]).__name__) for case in EVERY_ERROR]
)


def test_every_public_error_is_among_those_tested_here() -> None:
    public = {name for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert public == {type(error).__name__ for error, _, _ in EVERY_ERROR}


@each_error
def test_an_error_stands_on_the_branch_that_says_who_can_act(
    error: MetisError, facts: dict[str, object], parents: tuple[type, ...]
) -> None:
    assert type(error).__bases__ == parents


@each_error
def test_facts_are_attributes(error: MetisError, facts: dict[str, object], parents: tuple[type, ...]) -> None:
    assert {name: getattr(error, name) for name in facts} == facts


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_class_facts_and_text(
    error: MetisError, facts: dict[str, object], parents: tuple[type, ...], protocol: int
) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert copy.args == error.args
    assert {name: getattr(copy, name) for name in facts} == facts
    assert str(copy) == str(error)


@each_error
def test_the_text_is_a_sentence_with_every_fact_in_it(
    error: MetisError, facts: dict[str, object], parents: tuple[type, ...]
) -> None:
    text = str(error)
    assert " " in text
    assert not text.startswith("(")  # the tuple of arguments that Exception shows by itself
    assert all(str(fact) in text for fact in facts.values())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        ("Sync", "'Sync'"),
        (None, "None"),
        ([1, 2], "[1, 2]"),
        ({"a": 1}, "{'a': 1}"),
        (Path("certs/ca.pem"), "'certs/ca.pem'"),
    ],
)
def test_a_short_value_is_shown_whole(value: object, text: str) -> None:
    assert brief(value) == text
    assert str(ConfigError("field", value, "others")) == f"field is {text}; allowed: others"


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x" * 10**7, id="long"),
        pytest.param([0] * 10**6, id="many"),
        pytest.param(dict.fromkeys(range(10**5), 0), id="many keys"),
        pytest.param(nested(100_000), id="deep"),
        pytest.param(Unshowable(), id="without repr"),
    ],
)
def test_a_value_that_is_hard_to_show_still_makes_a_short_text(value: object) -> None:
    assert len(str(ConfigError("metrics", value, "numbers"))) < 300
