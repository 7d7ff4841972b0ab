"""A value in a configuration file that knows where it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metisfl_async.core.errors import ConfigError
from metisfl_async.environment.errors import ConfigFileError

__all__ = ["Node"]


@dataclass(frozen=True, slots=True)
class Node:
    """One value: a scalar, a list of nodes, or a dict of them by key."""

    file: Path
    path: str  #: of its key, as the file spells it, such as "controller_config.participation_ratio"; "" for the whole
    line: int  #: of its key, from 1
    value: object

    @property
    def name(self) -> str:
        return self.path or "the file"

    def mapping(self) -> dict[str, Node]:
        """Give the nodes by key; a key with nothing behind it has none."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self.error(self.plain(), "keys with values")
        return dict(self.value)

    def items(self) -> list[Node]:
        if not isinstance(self.value, list):
            raise self.error(self.plain(), "a list")
        return list(self.value)

    def plain(self) -> object:
        """Give the value without any places in it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def error(self, value: object, allowed: str) -> ConfigFileError:
        return ConfigFileError(str(self.file), self.line, self.name, value, allowed)

    def error_at(self, key: str, value: object, allowed: str) -> ConfigFileError:
        """Say what is wrong with a key of this mapping, which may be absent."""
        return ConfigFileError(str(self.file), self.line, f"{self.path}.{key}", value, allowed)

    def key_error(self, key: object, allowed: str, line: int | None = None) -> ConfigFileError:
        """Refuse a key of this mapping."""
        return ConfigFileError(str(self.file), line or self.line, f"a key of {self.name}", key, allowed)

    def located(self, error: ConfigError, found: Mapping[str, Node]) -> ConfigFileError:
        """Say where the field of an error stands: in one of the nodes that were found, or else in this section."""
        for name, node in sorted(found.items(), key=lambda item: -len(item[0])):
            if match := re.search(rf"\b{name}\b", error.field):
                field = error.field[: match.start()] + node.path + error.field[match.end() :]
                return ConfigFileError(str(self.file), node.line, field, error.value, error.allowed)
        field = ".".join(filter(None, (self.path, error.field if error.field.islower() else "")))
        return ConfigFileError(str(self.file), self.line, field, error.value, error.allowed)
