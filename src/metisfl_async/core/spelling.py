"""Says what was probably meant where a name is not known."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from metisfl_async.core.errors import ConfigError

__all__ = ["nearest", "snake", "spelled"]

T = TypeVar("T")


def snake(key: str) -> str:
    """Turn CamelCase into snake_case: "GRPCServer" into "grpc_server"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", key).lower()


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which name was probably meant, or all that are known."""
    known = list(known)
    close = get_close_matches(snake(name), known, 1)
    return f"{close[0]} (the nearest of the known ones)" if close else ", ".join(sorted(known))


def spelled(kind: type[T]) -> type[T]:
    """Let a class name the field that was probably meant, where an unknown one is given by keyword.

    Raises
    ------
    ConfigError
        From its constructor, in place of Python's TypeError.
    """
    init: Callable[..., None] = getattr(kind, "__init__")  # noqa: B009
    known = [name for name in inspect.signature(init).parameters if name != "self"]

    @functools.wraps(init)
    def checked(self: T, *args: Any, **fields: Any) -> None:
        for name, value in fields.items():
            if name not in known:
                raise ConfigError(f"{kind.__name__}.{name}", value, nearest(name, known))
        init(self, *args, **fields)

    setattr(kind, "__init__", checked)  # noqa: B010
    return kind
