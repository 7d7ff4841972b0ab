"""How a controller stands at one moment, for operators and tests."""

from __future__ import annotations

from dataclasses import dataclass

from metisfl_async.controller.job import Job
from metisfl_async.controller.registry import Registry
from metisfl_async.controller.turns import Turns
from metisfl_async.core.federation.course import Phase

__all__ = ["OpenTask", "Snapshot", "snapshot"]


@dataclass(frozen=True, slots=True)
class OpenTask:
    """A task whose outcome is still to come."""

    learner: str
    kind: str  #: "train", "evaluate" or "get_weights"
    state: str  #: see the states in docs/design.md, such as "accepted" or "uploading"
    round_number: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How a controller stands: who is there, what is awaited, and who waits."""

    federation_id: str  #: of the federation that runs, or ran last; empty if none did
    phase: str  #: "idle", "gathering", "initialising", "training", "aggregating", "evaluating" or "finished"
    model_version: int | None  #: of the latest global model
    connected: tuple[str, ...]  #: learners that are connected now, in order of their names
    open_tasks: tuple[OpenTask, ...]  #: the oldest first
    folded: tuple[str, ...]  #: learners whose updates are in the sum of the next model, in order of their names
    staged_bytes: int  #: of updates that are being received or folded
    uploads_waiting: int  #: updates that wait for their turn, or for room
    downloads_waiting: int  #: learners that wait for their turn to fetch a model


def snapshot(registry: Registry, job: Job | None, downloads: Turns) -> Snapshot:
    connected = tuple(sorted(member.id for member in registry if member.connection is not None))
    if job is None:
        return Snapshot("", Phase.IDLE.value, None, connected, (), (), 0, 0, downloads.waiting)
    federation, publication = job.federation, job.aggregator.publication
    tasks = (OpenTask(t.learner, t.kind.value, t.state.value, t.round_number) for t in federation.ledger.open())
    return Snapshot(
        job.id,
        federation.phase.value,
        None if publication is None else publication.model.version,
        connected,
        tuple(tasks),
        tuple(sorted(federation.ledger.folded)),
        job.staging.used_bytes,
        job.updates.waiting + job.staging.waiting,
        downloads.waiting,
    )
