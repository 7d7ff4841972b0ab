"""Makes the user's learners."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json, checked_json
from metisfl_async.environment.document import scalar
from metisfl_async.learner.learner import Learner

__all__ = ["Factory", "Simulated", "import_factory", "make_learner", "read_args"]

Factory: TypeAlias = Callable[..., object]


def import_factory(module: str, option: str = "--module") -> Factory:
    """Import what "package.module:Name" names, from the current directory or what is installed."""
    name, _, attribute = module.partition(":")
    if not name or not attribute or name.startswith(".") or name.endswith(".py"):
        raise ConfigError(option, module, "a module and a name in it, such as learners:MyLearner")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and misses another one
        allowed = f"a module that can be imported; there is no {error.name!r} in {Path.cwd()}, nor installed"
        raise ConfigError(option, module, allowed) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            learners = ", ".join(_learners_of(found)) if option == "--module" and inspect.ismodule(found) else ""
            such = f", such as {learners}" if learners else ""
            raise ConfigError(option, module, f"a name that is in {name}{such}; {attribute!r} is not")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(
            option,
            module,
            "a subclass of Learner, or a function that gives one" if option == "--module" else "a function",
        )
    return found


def _learners_of(module: object) -> list[str]:
    """Name the learners' classes that a module has, and that can be made."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, Learner) and not inspect.isabstract(value)
    ]


def make_learner(module: str, factory: Factory, args: Mapping[str, Json], *numbers: int) -> Learner:
    """Call a factory with its arguments, after the learner's number if it is simulated."""
    _check_args(module, factory, args, *numbers)
    learner = factory(*numbers, **args)
    if not isinstance(learner, Learner):
        raise ConfigError("--module", module, f"something that gives a Learner; it gave {type(learner).__name__}")
    return learner


def _check_args(module: str, factory: Factory, args: Mapping[str, Json], *numbers: int) -> None:
    """Refuse a factory that does not take these arguments."""
    if inspect.isabstract(factory):
        missing = ", ".join(sorted(getattr(factory, "__abstractmethods__", ())))
        raise ConfigError("--module", module, f"a Learner that has all methods; missing: {missing}")
    signature = inspect.signature(factory)
    try:
        signature.bind(*numbers, **args)
    except TypeError as error:
        after = " after its number" if numbers else ""
        raise ConfigError("args", dict(args), f"what {module}{signature} takes{after} ({error})") from None


@dataclass(frozen=True)
class Simulated:
    """Makes simulated learners, wherever a worker is: the number is the factory's first argument."""

    module: str
    args: Mapping[str, Json]

    def __post_init__(self) -> None:
        _check_args(self.module, import_factory(self.module), self.args, 0)

    def __call__(self, number: int) -> Learner:
        return make_learner(self.module, import_factory(self.module), self.args, number)


def read_args(pairs: Sequence[str]) -> dict[str, Json]:
    """Read key=value pairs; values are YAML, so 3 is a number and [1, 2] a list."""
    args: dict[str, Json] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise ConfigError("--arg", pair, "key=value, with the name of a parameter")
        if key in args:
            raise ConfigError("--arg", pair, f"each key once; {key} was given before")
        args[key] = checked_json(scalar(value, f"--arg {key}"), f"--arg {key}")
    return args
