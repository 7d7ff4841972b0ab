"""Models kept as safetensors files, which outlive the controller and its machine's power."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.errors import ConfigError, ModelLost, StoreError
from metisfl_async.core.model import DTYPES, Array, Manifest
from metisfl_async.store.base import BEST, GLOBAL, Stored
from metisfl_async.store.durable import DurableStore, Found, Unreadable
from metisfl_async.store.files import read, sync, write
from metisfl_async.store.journal import Journal
from metisfl_async.store.kept import Change, Entry
from metisfl_async.store.record import record_of
from metisfl_async.store.worker import Worker

__all__ = ["DiskStore"]

T = TypeVar("T")
P = ParamSpec("P")


class DiskStore(DurableStore):
    """A `ModelStore` in a directory: in it one for each federation, one for each owner in that, a file for each model.

    A file is written under another name, brought to the disk, and moved to its place; it is valid once the journal
    names it. One open store at a time uses a directory.
    """

    def __init__(self, config: ModelStoreConfig) -> None:
        assert config.directory is not None
        self._directory = Path(config.directory).absolute()
        super().__init__(str(self._directory), config.lineage_length)
        self._unfinished = self._directory / ".unfinished"
        self._journal = Journal(self._directory / "journal.sqlite")
        self._lock: int | None = None
        self._numbers = itertools.count()
        self._lasting: set[Path] = set()  # directories whose names are on the disk
        self._worker = Worker()

    async def open(self) -> None:
        await self._do(self._open)

    async def close(self) -> None:
        self._kept = None
        lock, self._lock = self._lock, None
        try:
            if lock is not None:
                await self._do(self._journal.close)
        finally:
            self._worker.close()
            if lock is not None:
                os.close(lock)

    async def _do(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._worker.do(job, *args, **kwargs)
        except (OSError, sqlite3.Error, MemoryError) as error:
            raise StoreError(self._where, str(error) or type(error).__name__) from error

    async def _find_unfinished(self) -> str | None:
        return await self._do(self._journal.unfinished)

    async def _add(self, federation_id: str, standing: str) -> None:
        if not await self._do(self._journal.begin, federation_id, standing):
            raise StoreError(self._where, f"it has a federation {federation_id!r} already")
        self._numbers = itertools.count()

    async def _find(self, federation_id: str) -> Found | None:
        return await self._do(self._look_up, federation_id)

    async def _count_commits(self, federation_id: str) -> int:
        return await self._do(self._journal.commits, federation_id)

    async def _write(
        self, federation_id: str, owner: str | None, what: Stored | Mapping[str, Array], written: list[Entry]
    ) -> str:
        name = f"{next(self._numbers):010}"
        written.append(Entry(owner, name))
        await self._do(self._write_file, federation_id, Entry(owner, name), what)
        return name

    async def _commit(self, change: Change) -> None:
        await self._do(self._journal.commit, change)

    async def _discard(self, federation_id: str, entries: list[Entry]) -> None:
        await self._do(self._remove, federation_id, entries)

    async def _read(self, federation_id: str, entry: Entry) -> Stored:
        path = self._path(federation_id, entry)
        try:
            return await self._do(read, path)
        except ValueError as error:
            raise Unreadable(str(path), f"the file is damaged: {error}") from error
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise Unreadable(str(path), "the file is not there") from error
            raise

    async def _quarantine(self, federation_id: str, entry: Entry) -> str | None:
        return await self._do(self._move_aside, self._path(federation_id, entry))

    async def _read_rounds(self, federation_id: str, start: int, count: int) -> list[str]:
        return await self._do(self._journal.rounds, federation_id, start, count)

    # From here on, in the worker.

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._directory, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however that ends
        except BlockingIOError:
            allowed = "a directory that no other open controller keeps its models in"
            raise ConfigError("directory", str(self._directory), allowed) from None
        shutil.rmtree(self._unfinished, ignore_errors=True)  # what a crash has left
        self._unfinished.mkdir(exist_ok=True)
        known = self._journal.federations()
        self._check_known(known)
        for federation_id in known:
            self._look_up(federation_id)
        sync(self._directory)

    def _check_known(self, federation_ids: list[str]) -> None:
        """Refuse a journal that is older than the models: it would begin anew, as if they were not there."""
        homes = {self._home(federation_id) for federation_id in federation_ids}
        for path in sorted(self._directory.glob("*/global/[0-9]*.safetensors")):
            home = path.parent.parent
            if home not in homes and home == self._home(home.name):
                why = f"it has models in {home.name}, which journal.sqlite does not know"
                lost = "was that file, or journal.sqlite-wal beside it, lost, or not copied?"
                raise ModelLost(str(self._directory), f"{why}; {lost} To begin anew, use another directory")

    def _look_up(self, federation_id: str) -> Found | None:
        """Find a federation, and remove files that its last commit does not name."""
        found = self._journal.find(federation_id)
        if found is None:
            return None
        entries = [Entry(owner, name) for owner, names in found.kept.committed.items() for name in names]
        if found.kept.arrays is not None:
            entries.append(Entry(None, found.kept.arrays))
        valid = {self._path(federation_id, entry) for entry in entries}
        for path in self._home(federation_id).glob("*/[0-9]*.safetensors"):
            if path not in valid:
                path.unlink(missing_ok=True)
                self._remove_if_empty(path.parent)
        self._numbers = itertools.count(max((int(entry.name) + 1 for entry in entries), default=0))
        return found

    def _write_file(self, federation_id: str, entry: Entry, what: Stored | Mapping[str, Array]) -> None:
        if isinstance(what, Stored):
            model, arrays = what.model, what.model.arrays()
            record = record_of(model.manifest, model.version, what.weight, what.task_id)
        else:
            arrays = [np.asarray(array, DTYPES[array.dtype.name], order="C") for array in what.values()]
            facts = [(name, array.dtype.name, array.shape) for name, array in zip(what, arrays, strict=True)]
            record = record_of(Manifest.lay_out(facts))
        unfinished, path = self._unfinished / entry.name, self._path(federation_id, entry)
        try:
            write(unfinished, entry.owner or "", record, arrays)
            self._make_lasting(path.parent)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync(path.parent)

    def _make_lasting(self, folder: Path) -> None:
        """Make a directory that is there after a crash."""
        if folder not in self._lasting:
            folder.mkdir(parents=True, exist_ok=True)
            sync(folder.parent)
            sync(folder.parent.parent)
            self._lasting.add(folder)

    def _remove(self, federation_id: str, entries: list[Entry]) -> None:
        for path in (self._path(federation_id, entry) for entry in entries):
            path.unlink(missing_ok=True)
            if path.parent.name.startswith("learner-"):
                self._remove_if_empty(path.parent)

    def _remove_if_empty(self, folder: Path) -> None:
        with suppress(OSError):
            folder.rmdir()
            self._lasting.discard(folder)

    def _move_aside(self, path: Path) -> str | None:
        quarantine = self._directory / "quarantine"
        quarantine.mkdir(exist_ok=True)
        aside = quarantine / f"{path.parent.parent.name}-{path.parent.name}-{path.name}"
        try:
            path.replace(aside)
        except FileNotFoundError:
            return None
        sync(quarantine)
        return str(aside)

    def _home(self, federation_id: str) -> Path:
        is_ours = re.fullmatch("[0-9a-f]{32}", federation_id) is not None
        return self._directory / (federation_id if is_ours else f"federation-{_readable(federation_id)}")

    def _path(self, federation_id: str, entry: Entry) -> Path:
        """Name a file: readable, and different for every owner, also where case makes no difference."""
        ours = {None: "arrays", GLOBAL: "global", BEST: "best"}
        folder = ours[entry.owner] if entry.owner in ours else f"learner-{_readable(entry.owner or '')}"
        return self._home(federation_id) / folder / f"{entry.name}.safetensors"


def _readable(text: str) -> str:
    start = re.sub(r"[^A-Za-z0-9]+", "-", text)[:40]
    return f"{start}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
