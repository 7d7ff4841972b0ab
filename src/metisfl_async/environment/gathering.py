"""Collects the keys of a file that make one configuration object, whatever they are called there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.spelling import nearest, snake
from metisfl_async.environment.errors import ConfigFileError
from metisfl_async.environment.node import Node

__all__ = ["Gathering", "Words"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Words:
    """What a section's keys mean, beyond the names of the fields."""

    aliases: Mapping[str, str] = field(default_factory=dict)  #: another name of a field
    refused: Mapping[str, str] = field(default_factory=dict)  #: a key of MetisFL's, and what to do instead


class Gathering(Generic[T]):
    """What is found for one configuration class; `section` is where it is looked for."""

    def __init__(self, kind: type[T], section: Node) -> None:
        self._kind, self.section = kind, section
        self._parameters = inspect.signature(kind).parameters
        self.found: dict[str, Node] = {}

    def take(self, section: Node, words: Words | None = None) -> None:
        """Take all keys of a section; `ConfigFileError` for one that nothing is known about."""
        if not self.found:
            self.section = section
        for key, node in section.mapping().items():
            self.take_key(section, key, node, words or Words())

    def take_key(self, section: Node, key: str, node: Node, words: Words) -> None:
        name = words.aliases.get(snake(key), snake(key))
        if name in words.refused:
            raise section.key_error(key, f"leave it out: {words.refused[name]}", node.line)
        if name not in self._parameters:
            raise section.key_error(key, nearest(name, list(self._parameters)), node.line)
        if name in self.found:
            other = self.found[name]
            raise section.key_error(key, f"one of the two; {other.path} in line {other.line} is the same", node.line)
        self.found[name] = node

    def make(self, **overrides: object) -> T:
        """Make the object; its own checks are told with their place in the file."""
        values = {name: self._value(name, node) for name, node in self.found.items()} | overrides
        try:
            return self._kind(**values)
        except ConfigError as error:
            raise self.located(error) from None

    def located(self, error: ConfigError) -> ConfigFileError:
        return self.section.located(error, self.found)

    def _value(self, name: str, node: Node) -> object:
        value = node.plain()
        if isinstance(value, str) and re.search(r"\bPath\b", str(self._parameters[name].annotation)):
            return node.file.parent / Path(value).expanduser()  # an absolute path stays what it is
        return value
