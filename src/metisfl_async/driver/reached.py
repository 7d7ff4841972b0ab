"""What a run has reached so far, as its events tell."""

from __future__ import annotations

import logging

from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import Event, FederationStarted, FirstWeights, ModelPublished, RoundFinished
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.repeats import Repeats
from metisfl_async.driver.result import FederationResult
from metisfl_async.store.event_log import EventLog

__all__ = ["Reached"]

logger = logging.getLogger(__name__)

NOT_OVER = "it is not over"


class Reached:
    """Takes note of a run's events. The records of the latest rounds are kept, as many as an `EventLog` keeps."""

    def __init__(self, evaluation_metric: str | None) -> None:
        self.first_weights = ""  #: where they came from
        self.reason = NOT_OVER
        self.ending: Ending | None = None
        self.started_at = 0.0
        self._metric, self._repeats = evaluation_metric, Repeats()
        self._rounds = EventLog()
        self._version: int | None = None

    def note(self, event: Event) -> None:
        match event:
            case RoundFinished(record):
                self._rounds.append(event)
                self._look_for_metric(record)
            case ModelPublished(_, version):
                self._version = version
            case FederationStarted(started_at=started_at):
                self.started_at = started_at
            case FirstWeights(source):
                self.first_weights, self._version = source, self._version or 0

    def end(self, reason: str, ending: Ending | None = None) -> None:
        """Take note of why it is over; the first reason stays."""
        if self.reason == NOT_OVER:
            self.reason, self.ending = reason, ending

    def result(self) -> FederationResult:
        """Give it as a result, without a model."""
        records = [event.record for event in self._rounds.kept() if isinstance(event, RoundFinished)]
        records.sort(key=lambda record: record.number)
        facts = self._version, records, self.reason, self.first_weights
        return FederationResult(None, *facts, started_at=self.started_at, ending=self.ending)

    def _look_for_metric(self, record: RoundRecord) -> None:
        """Warn if the metric that should end it is not measured: it would never end."""
        metric, measured = self._metric, record.scores()
        if metric is not None and measured and metric not in measured and self._repeats.count(metric):
            logger.warning("no learner reports the evaluation_metric %r; they report %s", metric, ", ".join(measured))
