"""Logs what fails in learners of this process: each kind once with its traceback, however many fail alike."""

from __future__ import annotations

import logging

from metisfl_async.core.repeats import Repeats
from metisfl_async.learner.away import users_part

__all__ = ["FailureLog"]

logger = logging.getLogger(__name__)


class FailureLog:
    """Shared by learners that run together. The 1st failure has its traceback; the 2nd, 4th, 8th, ... alike, a line."""

    def __init__(self) -> None:
        self._repeats = Repeats()

    def tell(self, learner: str, what: str, where: str, error: Exception, text: str) -> None:
        """Log that a learner failed to do something, in a round as a rule; what is alike may be in different ones."""
        kind = type(error).__name__
        times = self._repeats.count((what, kind, text))
        if times == 1:
            trace = (type(error), error, users_part(error.__traceback__))
            logger.error("%s failed to %s%s", learner, what, where, exc_info=trace)
        elif times is not None:
            said = "%s failed to %s%s; %d such failures so far: %s: %s"
            logger.error(said, learner, what, where, times, kind, text)
