"""What is wrong in a file."""

from __future__ import annotations

from metisfl_async.core.errors import ConfigError

__all__ = ["ConfigFileError"]


class ConfigFileError(ConfigError):
    """A configuration file has something wrong in it; `field` is the path of its key."""

    def __init__(self, file: str, line: int, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.args = (file, line, field, value, allowed)
        self.file, self.line = file, line

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {super().__str__()}"
