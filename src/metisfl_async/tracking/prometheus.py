"""Numbers that Prometheus scrapes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metisfl_async.core.federation.events import (
    Event,
    LearnerJoined,
    LearnerLeft,
    RoundFinished,
    TaskFailed,
    UpdateCounted,
)
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.metrics import Metrics
from metisfl_async.tracking.names import of_learners, of_round
from metisfl_async.tracking.tracker import RoundTracker, package

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["Prometheus"]

logger = logging.getLogger(__name__)

MOST_MEANS = 1_000  #: series of rounds: learners choose what their metrics are called
MOST_OF_LEARNERS = 10_000  #: series of learners
OURS = "system/", "central/"  #: no learner chooses these names


class Prometheus(RoundTracker):
    """Keeps gauges and counters in a registry. Needs ``pip install prometheus-client``.

    They are `metisfl_round`, `metisfl_learners_connected`, `metisfl_value` (with the label `name`, such as
    "train/loss"), `metisfl_updates_counted_total`, `metisfl_tasks_failed_total` (with the label `task`) and
    `metisfl_bytes_total` (with the label `direction`: "sent" or "received").

    `metisfl_value` has at most 1,000 names of learners' means, and 10,000 of single learners: the first ones. Others
    are left out, with one warning.

    Parameters
    ----------
    registry : prometheus_client.CollectorRegistry, optional
        Where; without it, prometheus_client's own, which ``start_http_server`` serves. One such tracker a registry.
    learners : bool
        Keep each learner's own numbers, too: as many series as there are learners, times their metrics.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, learners: bool = False) -> None:
        client = package("prometheus_client", "Prometheus", "prometheus-client")
        registry = client.REGISTRY if registry is None else registry
        self._learners = learners
        self._means, self._of_learners = set[str](), set[str]()
        self._has_warned = False
        self._round = client.Gauge("metisfl_round", "The latest round or model", registry=registry)
        self._connected = client.Gauge("metisfl_learners_connected", "Learners connected now", registry=registry)
        self._value = client.Gauge("metisfl_value", "The latest value of a metric", ["name"], registry=registry)
        self._counted = client.Counter("metisfl_updates_counted", "Updates in a published model", registry=registry)
        self._failed = client.Counter("metisfl_tasks_failed", "Tasks that did not count", ["task"], registry=registry)
        self._bytes = client.Counter("metisfl_bytes", "Bytes on the wire", ["direction"], registry=registry)

    def take(self, events: Sequence[Event]) -> None:
        for event in events:
            match event:
                case LearnerJoined(_, connected) | LearnerLeft(_, connected):
                    self._connected.set(connected)
                case UpdateCounted():
                    self._counted.inc()
                case TaskFailed(task=task):
                    self._failed.labels(task).inc()
                case RoundFinished(record):
                    self._bytes.labels("sent").inc(record.bytes_sent)
                    self._bytes.labels("received").inc(record.bytes_received)
        super().take(events)

    def note(self, record: RoundRecord) -> None:
        self._round.set(record.number)
        self._set(of_round(record), self._means, MOST_MEANS)
        if self._learners:
            self._set(of_learners(record), self._of_learners, MOST_OF_LEARNERS)

    def _set(self, values: Metrics, names: set[str], most: int) -> None:
        """Set the values whose names are known, or of which there are not too many yet."""
        for name, value in values.items():
            if not name.startswith(OURS) and name not in names:
                if len(names) >= most:
                    self._warn(name, most)
                    continue
                names.add(name)
            self._value.labels(name).set(value)

    def _warn(self, name: str, most: int) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("metisfl_value leaves out %r, and all new names like it: it has %d already", name, most)
