"""Parameters of tasks: what all learners get is checked once, and put into words once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json, checked_json

__all__ = ["MAX_PARAMS_BYTES", "Params", "SharedValues", "check_size"]

MAX_PARAMS_BYTES = 3 * 2**20  #: of a task, as JSON; 150 thousand numbers


def check_size(params: Json, field: str) -> None:
    """Refuse parameters that no message can carry."""
    if (size := len(json.dumps(params))) > MAX_PARAMS_BYTES:
        raise ConfigError(field, f"JSON of {size} bytes", f"at most {MAX_PARAMS_BYTES} bytes; for more, a file")


class SharedValues:
    """Values of the configuration that go into the parameters of many tasks; they never change."""

    def __init__(self, *params: Mapping[str, Json]) -> None:
        self._values = {id(value): value for of in params for value in of.values() if isinstance(value, list | dict)}
        self._texts: dict[int, str] = {}

    def __contains__(self, value: object) -> bool:
        return id(value) in self._values

    def text(self, value: Json) -> str:
        """Give the JSON text of any value, of a shared one the same that was made before."""
        if value not in self:
            return json.dumps(value)
        if (text := self._texts.get(id(value))) is None:
            text = self._texts[id(value)] = json.dumps(value)
        return text

    def checked(self, params: Mapping[str, Json], field: str) -> Params:
        """Take the parameters of a task, of which only what is not shared is looked at, and copied."""
        others = checked_json({key: None if value in self else value for key, value in params.items()}, field)
        assert isinstance(others, dict)
        return Params({key: value if value in self else others[key] for key, value in params.items()}, self)


class Params(dict[str, Json]):
    """The parameters of one task; a dict like any other, with shared values that must not be changed."""

    def __init__(
        self, values: Mapping[str, Json] | Iterable[tuple[str, Json]] = (), shared: SharedValues | None = None
    ) -> None:
        super().__init__(values)
        self._shared = shared or SharedValues()

    def __reduce__(self) -> tuple[type[dict[str, Json]], tuple[dict[str, Json]]]:
        return dict, (dict(self),)

    @property
    def text(self) -> str:
        """The same as JSON."""
        return "{" + ", ".join(f"{json.dumps(key)}: {self._shared.text(value)}" for key, value in self.items()) + "}"
