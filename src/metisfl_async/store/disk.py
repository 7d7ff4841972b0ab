"""Models kept as safetensors files, which outlive the controller and its machine's power."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from safetensors import SafetensorError
from safetensors.numpy import save_file

from metisfl_async.core.config import ModelStoreConfig
from metisfl_async.core.errors import ConfigError, StoreError
from metisfl_async.core.model import Model
from metisfl_async.store.base import GLOBAL, Stored
from metisfl_async.store.record import record_of, stored_of
from metisfl_async.store.worker import Worker

__all__ = ["DiskStore"]

T = TypeVar("T")
P = ParamSpec("P")


class DiskStore:
    """A `ModelStore` in a directory: a directory for each owner in it, a numbered file for each model in that.

    A file is written under another name, brought to the disk, and moved to its place; so every file that has a number
    is whole, also after a crash. One open store at a time uses a directory.
    """

    def __init__(self, config: ModelStoreConfig) -> None:
        assert config.directory is not None
        self._directory = Path(config.directory).absolute()
        self._unfinished = self._directory / ".unfinished"
        self._length = config.lineage_length
        self._lock: int | None = None
        self._names = itertools.count()
        self._worker = Worker()
        self._order = asyncio.Lock()  # an insertion takes several jobs of the worker

    async def open(self) -> None:
        await self._do(self._open)

    async def close(self) -> None:
        self._worker.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    async def insert(self, owner: str, model: Model, weight: float = 1.0) -> None:
        async with self._order:
            unfinished = self._unfinished / f"{next(self._names)}"
            try:
                await self._do(_write, unfinished, owner, model, weight)
                await self._do(self._commit, unfinished, owner)
            finally:
                await self._do(unfinished.unlink, missing_ok=True)

    async def latest(self, owner: str) -> Stored | None:
        kept = await self._do(self._read, owner, 1)
        return kept[0] if kept else None

    async def lineage(self, owner: str) -> list[Stored]:
        return await self._do(self._read, owner, self._length)

    async def erase(self, owner: str) -> None:
        async with self._order:
            await self._do(self._erase, owner)

    async def _do(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await self._worker.do(job, *args, **kwargs)
        except (OSError, SafetensorError) as error:
            raise StoreError(str(self._directory), str(error)) from error

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

    def _commit(self, unfinished: Path, owner: str) -> None:
        """Make a whole file its owner's latest, in one step."""
        folder = self._folder(owner)
        if not folder.is_dir():
            folder.mkdir()
            _sync(self._directory)
        files = _files(folder)
        number = int(files[-1].stem) + 1 if files else 0
        files.append(unfinished.replace(folder / f"{number:010}.safetensors"))
        _sync(folder)
        if self._length:
            for file in files[: -self._length]:
                file.unlink()

    def _read(self, owner: str, count: int) -> list[Stored]:
        return [_read(file) for file in _files(self._folder(owner))[-count:]]

    def _erase(self, owner: str) -> None:
        folder = self._folder(owner)
        if folder.is_dir():
            gone = self._unfinished / f"{next(self._names)}"
            folder.replace(gone)  # all of them at once
            _sync(self._directory)
            shutil.rmtree(gone)

    def _folder(self, owner: str) -> Path:
        """Name an owner's directory: readable, and different for every owner, also where case makes no difference."""
        if owner == GLOBAL:
            return self._directory / "global"
        readable = re.sub(r"[^A-Za-z0-9]+", "-", owner)[:40]
        return self._directory / f"learner-{readable}-{hashlib.sha256(owner.encode()).hexdigest()[:32]}"


def _files(folder: Path) -> list[Path]:
    """Give an owner's files, oldest first."""
    return sorted(folder.glob("[0-9]*.safetensors"), key=lambda file: int(file.stem))


def _write(path: Path, owner: str, model: Model, weight: float) -> None:
    # Any text may be the name of a tensor, but not of one in a safetensors file; so there they are numbered.
    tensors = {str(index): array for index, array in enumerate(model.arrays())}
    save_file(tensors, path, {"owner": owner, "record": record_of(model, weight)})
    _sync(path)


def _read(path: Path) -> Stored:
    # safetensors' own reader copies every tensor, and holds Python's lock meanwhile; this reads each into its place.
    with path.open("rb") as file:
        try:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            stored = stored_of(header["__metadata__"]["record"])
            start = file.tell()
            for index, spec in enumerate(stored.model.manifest.tensors):
                file.seek(start + header[str(index)]["data_offsets"][0])
                room = stored.model.buffer[spec.offset : spec.offset + spec.size_bytes]
                if file.readinto(room.data) != spec.size_bytes:
                    raise EOFError(f"it ends within tensor {spec.name!r}")
        except (ValueError, LookupError, TypeError, EOFError, OverflowError, MemoryError) as error:
            raise StoreError(str(path), f"the file is damaged: {error!r}") from error
    stored.model.freeze()
    return stored


def _sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
