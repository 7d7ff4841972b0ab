"""Learners that are named on the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metisfl_async import ConfigError
from metisfl_async.cli.factory import import_factory, make_learner, read_args

MODULE = """
from metisfl_async import Learner

class Site(Learner):
    def __init__(self, part, size=3):
        super().__init__(num_training_examples=size)
        self.part = part
    def get_weights(self): return []
    def set_weights(self, parameters): pass
    def train(self, parameters, config): return parameters, {}
    def evaluate(self, parameters, config): return {}

class Unfinished(Learner):
    def get_weights(self): return []

class Sites:
    first = Site

def site(**options): return Site(part=options["part"])
def nothing(): return None
number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "sites_for_a_test.py").write_text(MODULE)
    (tmp_path / "incomplete_for_a_test.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "sites_for_a_test"
    for name in ("sites_for_a_test", "incomplete_for_a_test"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["Site", "site", "Sites.first"])
def test_a_class_or_a_function_in_the_current_directory_makes_a_learner(module: str, name: str) -> None:
    learner = make_learner(f"{module}:{name}", import_factory(f"{module}:{name}"), {"part": 2})
    assert learner.part == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("sites_for_a_test", "a module and a name in it"),
        (":Site", "a module and a name in it"),
        ("sites_for_a_test.py:Site", "a module and a name in it"),
        ("./sites_for_a_test:Site", "a module and a name in it"),
        ("sites_for_a_tests:Site", "there is no 'sites_for_a_tests' in"),
        ("sites_for_a_test.more:Site", "a module that can be imported"),
        ("sites_for_a_test:Sight", "a name that is in sites_for_a_test, such as Site; 'Sight' is not"),
        ("sites_for_a_test:Sites.second", "a name that is in sites_for_a_test; 'Sites.second' is not"),
        ("sites_for_a_test:number.part", "a name that is in sites_for_a_test; 'number.part' is not"),
        ("sites_for_a_test:number", "a subclass of Learner, or a function that gives one"),
    ],
)
def test_what_cannot_be_imported_is_told(module: str, named: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_factory(named)
    assert (caught.value.field, caught.value.value) == ("--module", named)
    assert message in caught.value.allowed


def test_what_a_module_misses_itself_is_its_own_error(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        import_factory("incomplete_for_a_test:Site")


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        (
            "Site",
            {},
            "args is {}; allowed: what sites_for_a_test:Site(part, size=3) takes (missing a required argument",
        ),
        ("Site", {"part": 1, "sise": 2}, "(got an unexpected keyword argument 'sise')"),
        ("Unfinished", {}, "a Learner that has all methods; missing: evaluate, set_weights, train"),
        ("nothing", {}, "something that gives a Learner; it gave NoneType"),
    ],
)
def test_what_makes_no_learner_is_told(module: str, name: str, args: dict[str, int], message: str) -> None:
    factory = import_factory(f"{module}:{name}")
    with pytest.raises(ConfigError) as caught:
        make_learner(f"{module}:{name}", factory, dict(args))
    assert message in str(caught.value)


def test_arguments_are_yaml_values() -> None:
    given = ["a=1", "b=1e-3", "c=three", "d=[1, 2]", "e={x: y}", "f=", "g=a=b", "h='7'", "i=true"]
    read = {"a": 1, "b": 1e-3, "c": "three", "d": [1, 2], "e": {"x": "y"}, "f": None, "g": "a=b", "h": "7", "i": True}
    assert read_args(given) == read


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a"], "--arg is 'a'; allowed: key=value"),
        (["a-b=1"], "--arg is 'a-b=1'; allowed: key=value"),
        (["a=1", "a=2"], "each key once; a was given before"),
        (["a=[1"], "--arg a is '[1'; allowed: a value in YAML"),
        (["a=2020-01-01"], "--arg a is datetime.date(2020, 1, 1); allowed: None, a bool"),
    ],
)
def test_wrong_arguments_are_told(given: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_args(given)
    assert message in str(caught.value)
