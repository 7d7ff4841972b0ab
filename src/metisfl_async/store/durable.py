"""What stores that outlive the controller have in common: which model counts, and when."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from metisfl_async.core.errors import ConfigError, ModelLost, StoreError
from metisfl_async.core.model import Array, Model
from metisfl_async.store.base import BEST, GLOBAL, NO_ARRAYS, Saved, Stored
from metisfl_async.store.kept import Change, Entry, Kept
from metisfl_async.store.record import check_arrays
from metisfl_async.store.sealed import sealed, unsealed
from metisfl_async.transport.concurrency import to_the_end

__all__ = ["BATCH", "DurableStore", "Found", "Unreadable"]

logger = logging.getLogger(__name__)

LOOK_BACK_S = 2.0  #: for finding out what has happened, at a place that does not answer
BATCH = 16  #: texts of rounds that are read at one time; each may have a megabyte


class Unreadable(Exception):
    """A model is damaged or lost; it never leaves the store."""

    def __init__(self, place: str, why: str) -> None:
        super().__init__(place, why)
        self.place, self.why = place, why


@dataclass(frozen=True, slots=True)
class Found:
    """A federation as the place has it."""

    kept: Kept
    standing: str


class DurableStore(ABC):
    """A `ModelStore` over a place: it keeps in mind which models there are, and the place keeps the models.

    A model is written first, where nobody looks for it. A commit names all that are valid, in one step.
    """

    is_durable = True
    rounds_dropped = 0

    def __init__(self, where: str, length: int) -> None:
        self._where, self._length = where, length
        self._kept: Kept | None = None
        self._order = asyncio.Lock()  # whoever reads or writes; each takes several steps

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    async def unfinished(self) -> str | None:
        async with self._order:
            return await self._find_unfinished()

    async def begin(self, federation_id: str, standing: str) -> None:
        async with self._order:
            await self._add(federation_id, sealed(standing))
            before, self._kept = self._kept, Kept(federation_id)
            if before is not None and before.is_sure:
                await self._try_to_discard(before.federation_id, before.uncommitted())

    async def resume(self, federation_id: str) -> Saved:
        async with self._order:
            self._kept = None
            found = await self._find(federation_id)
            if found is None:
                raise ModelLost(self._where, f"it has no federation {federation_id!r}")
            try:
                standing = unsealed(found.standing)
            except ValueError as error:
                what = f"how federation {federation_id!r} stands is damaged ({error}), so it cannot go on"
                raise ModelLost(self._where, f"{what}; its models are there, to begin another one from") from error
            kept, arrays = found.kept, dict[str, Array]()
            if kept.arrays is not None:
                try:
                    model = (await self._read(federation_id, Entry(None, kept.arrays))).model
                except Unreadable as error:
                    raise await self._put_aside(federation_id, Entry(None, kept.arrays), error) from error
                model.buffer.flags.writeable = True
                arrays = {spec.name: array for spec, array in zip(model.manifest.tensors, model.arrays(), strict=True)}
            self._kept = kept
            return Saved(federation_id, standing, kept.version, arrays)

    async def commit(
        self,
        standing: str,
        *,
        model: Model | None = None,
        arrays: Mapping[str, Array] = NO_ARRAYS,
        best: Model | None = None,
        rounds: Sequence[str] = (),
        is_finished: bool = False,
    ) -> None:
        check_arrays(model, arrays)
        async with self._order:
            kept, written, change = self._current(), list[Entry](), None
            if not kept.is_sure:
                kept.commits = await self._count_commits(kept.federation_id)
            try:
                new_global = new_arrays = new_best = None
                if model is not None:
                    new_global = await self._write(kept.federation_id, GLOBAL, Stored(model, 1.0), written)
                if arrays:
                    new_arrays = await self._write(kept.federation_id, None, arrays, written)
                if best is not None:
                    new_best = await self._write(kept.federation_id, BEST, Stored(best, 1.0), written)
                change = kept.change(
                    self._length,
                    sealed(standing),
                    version=None if model is None else model.version,
                    new_global=new_global,
                    new_arrays=new_arrays,
                    new_best=new_best,
                    rounds=tuple(map(sealed, rounds)),
                    is_finished=is_finished,
                )
                await self._commit(change)
            except BaseException as error:
                has_happened = await to_the_end(self._look_back(kept, change, written))
                if not (has_happened and isinstance(error, StoreError)):
                    raise
            else:
                kept.take_over(change)
                await self._after_commit(change)

    async def rounds(self, start: int = 0) -> AsyncGenerator[str, None]:
        kept = self._kept
        while kept is not None:
            async with self._order:
                count = min(kept.rounds - start, BATCH) if kept is self._kept else 0
                texts = await self._read_rounds(kept.federation_id, start, count) if count > 0 else []
            for number, text in enumerate(texts, start):
                yield self._whole(number, text)
            if not texts:
                return
            start += len(texts)

    async def insert(self, owner: str, model: Model, weight: float = 1.0, task_id: str = "") -> None:
        if owner in (GLOBAL, BEST):
            raise ConfigError("owner", owner, "a learner's id; global models come with a commit")
        async with self._order:
            kept, written = self._current(), list[Entry]()
            try:
                name = await self._write(kept.federation_id, owner, Stored(model, weight, task_id), written)
            except BaseException:
                await to_the_end(self._try_to_discard(kept.federation_id, written))
                raise
            kept.add(owner, name)

    async def latest(self, owner: str) -> Stored | None:
        async with self._order:
            if self._kept is None or not (names := self._kept.now.get(owner)):
                return None
            return await self._read_or_drop(self._kept, owner, names[-1])

    async def lineage(self, owner: str) -> list[Stored]:
        read: dict[str, Stored] = {}
        kept = self._kept
        while True:
            async with self._order:  # one model at a time, for a commit must not wait for all of them
                names = kept.now.get(owner, [])[-self._length :] if kept is not None and kept is self._kept else []
                unread = [name for name in names if name not in read]
                if kept is None or not unread:
                    return [read[name] for name in names]
                try:
                    read[unread[0]] = await self._read_or_drop(kept, owner, unread[0])
                except StoreError:
                    if unread[0] in kept.now.get(owner, ()):
                        raise

    async def erase(self, owner: str) -> None:
        async with self._order:
            if self._kept is not None:
                self._kept.erase(owner)

    def _whole(self, number: int, text: str) -> str:
        """Give a round's text, empty if it is damaged."""
        try:
            return unsealed(text)
        except ValueError as error:
            logger.error("a round's record, number %d, is left out: %s: %s", number, self._where, error)
            return ""

    def _current(self) -> Kept:
        if self._kept is None:
            raise StoreError(self._where, "no federation was begun or resumed; nothing can be kept before")
        return self._kept

    async def _read_or_drop(self, kept: Kept, owner: str, name: str) -> Stored:
        entry = Entry(owner, name)
        try:
            stored = await self._read(kept.federation_id, entry)
        except Unreadable as error:
            kept.drop(owner, name)
            raise await self._put_aside(kept.federation_id, entry, error) from error
        stored.model.freeze()
        return stored

    async def _put_aside(self, federation_id: str, entry: Entry, error: Unreadable) -> ModelLost:
        """Keep a damaged model for people to look at; give the error that names it."""
        try:
            place = await self._quarantine(federation_id, entry)
            moved = "" if place is None else f"; it is now {place}"
        except StoreError as failure:
            moved = f"; it stays there: {failure.why}"
        logger.error("a model is not used any more: %s: %s%s", error.place, error.why, moved)
        return ModelLost(error.place, error.why + moved)

    async def _look_back(self, kept: Kept, change: Change | None, written: list[Entry]) -> bool:
        """Find out whether a commit that got no answer has happened; clean up if it has not."""
        if change is not None:
            try:
                async with asyncio.timeout(LOOK_BACK_S):
                    has_happened = await self._count_commits(kept.federation_id) == change.number
            except (StoreError, TimeoutError):  # whatever may be valid now has to stay
                kept.is_sure = False
                kept.dropped += written
                return False
            if has_happened:
                kept.take_over(change)
                await self._after_commit(change)
                return True
        await self._try_to_discard(kept.federation_id, written)
        return False

    async def _after_commit(self, change: Change) -> None:
        """Remove what is gone, unless the commit has done so."""
        await self._try_to_discard(change.federation_id, change.gone)

    async def _try_to_discard(self, federation_id: str, entries: list[Entry]) -> None:
        """Remove what no commit names; what cannot be removed now goes when the store is opened."""
        if entries:
            try:
                await self._discard(federation_id, entries)
            except StoreError as error:
                logger.warning("models that nobody needs stay where they are: %s", error)

    # What the place does. Each raises StoreError if it fails.

    @abstractmethod
    async def _find_unfinished(self) -> str | None: ...

    @abstractmethod
    async def _add(self, federation_id: str, standing: str) -> None:
        """Keep a new federation; one that has had no commit may be replaced."""

    @abstractmethod
    async def _find(self, federation_id: str) -> Found | None:
        """Read what a federation's last commit has written, and remove all models that it does not name."""

    @abstractmethod
    async def _count_commits(self, federation_id: str) -> int: ...

    @abstractmethod
    async def _write(
        self, federation_id: str, owner: str | None, what: Stored | Mapping[str, Array], written: list[Entry]
    ) -> str:
        """Write a model, or a rule's arrays; `written` has its entry as soon as there is anything to discard."""

    @abstractmethod
    async def _commit(self, change: Change) -> None:
        """Write a change in one step."""

    @abstractmethod
    async def _discard(self, federation_id: str, entries: list[Entry]) -> None:
        """Remove models, as far as they are there."""

    @abstractmethod
    async def _read(self, federation_id: str, entry: Entry) -> Stored:
        """Read a model that a caller may change, or raise `Unreadable`."""

    @abstractmethod
    async def _quarantine(self, federation_id: str, entry: Entry) -> str | None:
        """Move a damaged model to where nobody reads it; say where that is, None if there is nothing to move."""

    @abstractmethod
    async def _read_rounds(self, federation_id: str, start: int, count: int) -> list[str]: ...
