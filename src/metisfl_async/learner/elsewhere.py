"""An error of the user's code in another process, told in words: not every error can be pickled, or unpickled."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from types import TracebackType

__all__ = ["Raised"]


@dataclass(frozen=True, slots=True)
class Raised:
    """What is known of an error where it cannot be itself."""

    name: str
    module: str
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception, trace: TracebackType | None) -> Raised:
        try:
            text = str.__str__(str(error))  # without the class that a user's `__str__` may give
        except Exception as of_its_own:  # noqa: BLE001 - it is the user's code
            text = f"its text cannot be had: str() raises {type(of_its_own).__name__}"
        lines = traceback.format_exception(type(error), error, trace)
        return cls(type(error).__name__, str(type(error).__module__), text, "".join(lines))

    def error(self) -> Exception:
        """Make an error that has the name and the text of the first one, and its traceback as a note."""
        stand_in = type(self.name, (RuntimeError,), {"__module__": self.module})
        error: Exception = stand_in(self.text)
        error.add_note(f"It was raised in the learner's process:\n{self.trace.rstrip()}")
        return error
