"""Keeps finished updates on disk until they are settled: a learner that is started again need not train again."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, ModelRef, TaskId
from metisfl_async.core.messages import TaskOffer
from metisfl_async.learner.outcome import Trained
from metisfl_async.store.base import Stored
from metisfl_async.store.files import read, sync, write
from metisfl_async.store.record import record_of
from metisfl_async.transport.concurrency import to_the_end

__all__ = ["Spool", "Spooled"]

logger = logging.getLogger(__name__)

LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Spooled:
    """A finished update, and the task that it answers."""

    offer: TaskOffer
    trained: Trained
    model_version: int  #: of the model that it was trained from


class Spool:
    """A directory of updates; each is there whole or not at all. One learner uses it."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory).absolute()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            allowed = f"a directory that can be written to ({error.strerror})"
            raise ConfigError("spool_dir", str(directory), allowed) from error
        self._lock: int | None = None

    async def open(self) -> list[Spooled]:
        """Read what is kept; a damaged file is removed, and named.

        Raises
        ------
        ConfigError
            If another learner uses the directory.
        """
        return await to_the_end(asyncio.to_thread(self._open))

    def close(self) -> None:
        """Let another learner use it."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    async def save(self, spooled: Spooled) -> None:
        """Keep an update; without room for it, the learner goes on all the same, and says so."""
        try:
            await to_the_end(asyncio.to_thread(self._save, spooled))
        except OSError as error:
            logger.warning("an update is not in the spool_dir, and would be lost if this process died: %s", error)

    def forget(self, task_id: TaskId) -> None:
        """Remove an update that is settled."""
        with suppress(OSError):
            self._file(task_id).unlink(missing_ok=True)

    def _file(self, task_id: TaskId) -> Path:
        return self._directory / f"{task_id}.update"

    def _save(self, spooled: Spooled) -> None:
        offer, trained = spooled.offer, spooled.trained
        facts = {
            "task_id": offer.task_id,
            "kind": offer.kind.value,
            "round_number": offer.round_number,
            "federation_id": offer.model.federation_id,
            "offered_version": offer.model.version,
            "model_version": spooled.model_version,
            "metrics": trained.metrics,
            "metadata": trained.metadata,
        }
        unfinished, file = self._directory / f".{offer.task_id}.{os.getpid()}", self._file(offer.task_id)
        model = trained.model
        try:
            # The facts stand where a store has the id of a task: everything there is under the file's digest.
            write(unfinished, "", record_of(model.manifest, 0, 1.0, json.dumps(facts)), model.arrays())
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
        sync(self._directory)

    def _open(self) -> list[Spooled]:
        self._lock = lock = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise ConfigError("spool_dir", str(self._directory), "a directory that no other learner uses") from None
        for left in self._directory.glob(".*"):
            if left.name != LOCK:
                left.unlink(missing_ok=True)
        return [
            spooled for file in sorted(self._directory.glob("*.update")) if (spooled := self._read(file)) is not None
        ]

    def _read(self, file: Path) -> Spooled | None:
        try:
            stored = read(file)
            return _spooled(stored, json.loads(stored.task_id))
        except OSError as error:
            logger.warning("an update in the spool_dir cannot be read, and stays there: %s: %s", file, error)
            return None
        except (ValueError, LookupError, TypeError) as error:
            logger.warning(
                "a damaged update, or one of another version, was removed from the spool_dir: %s: %r", file, error
            )
            file.unlink(missing_ok=True)
            return None


def _spooled(stored: Stored, facts: dict[str, Any]) -> Spooled:
    ref = ModelRef(FederationId(facts["federation_id"]), facts["offered_version"])
    offer = TaskOffer(TaskId(facts["task_id"]), TaskKind(facts["kind"]), facts["round_number"], ref, {})
    return Spooled(offer, Trained(stored.model, facts["metrics"], facts["metadata"]), facts["model_version"])
