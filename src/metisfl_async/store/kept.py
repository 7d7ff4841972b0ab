"""Which models of a federation there are: as of its last commit, and now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from metisfl_async.store.base import BEST, GLOBAL

__all__ = ["Change", "Entry", "Kept"]


class Entry(NamedTuple):
    """One stored model, or the arrays that a rule keeps."""

    owner: str | None  #: None: the rule
    name: str  #: which of the owner's; never used a second time in a federation


@dataclass(frozen=True, slots=True)
class Change:
    """What one commit writes, all of it or nothing."""

    federation_id: str
    number: int  #: of the commit
    standing: str
    version: int | None
    is_finished: bool
    arrays: str | None  #: the name of those that are valid from now on
    first_round: int  #: the number of the first of the texts; what is there from it on goes
    rounds: Sequence[str]
    added: list[Entry]
    removed: list[Entry]
    is_all: bool  #: nothing is there but what is added
    gone: list[Entry]  #: what takes room and is not needed after it
    models: dict[str, list[str]]  #: of owners whose models have changed: those that are there after it


@dataclass(slots=True)
class Kept:
    """A federation's models, by their names, oldest first."""

    federation_id: str
    commits: int = 0
    version: int | None = None
    arrays: str | None = None
    rounds: int = 0
    committed: dict[str, list[str]] = field(default_factory=dict)
    now: dict[str, list[str]] = field(init=False)
    dropped: list[Entry] = field(default_factory=list)  #: not in `now`; a crash may still need them
    is_sure: bool = True  #: whether `committed` is known to be what is there; not after a commit without an answer
    _changed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.now = {owner: list(names) for owner, names in self.committed.items()}
        self._changed.update(self.committed)  # another lineage length may hold now

    def add(self, owner: str, name: str) -> None:
        self.now.setdefault(owner, []).append(name)
        self._changed.add(owner)

    def drop(self, owner: str, name: str) -> None:
        self.now[owner].remove(name)
        self._changed.add(owner)

    def erase(self, owner: str) -> None:
        self.dropped += [Entry(owner, name) for name in self.now.pop(owner, ())]
        self._changed.add(owner)

    def uncommitted(self) -> list[Entry]:
        """List what no commit names."""
        new = [Entry(owner, name) for owner in self._changed for name in self.now.get(owner, ())]
        return [entry for entry in new + self.dropped if entry.name not in self.committed.get(entry.owner or "", ())]

    def change(
        self,
        length: int,
        standing: str,
        *,
        version: int | None,
        new_global: str | None,
        new_arrays: str | None,
        new_best: str | None,
        rounds: Sequence[str],
        is_finished: bool,
    ) -> Change:
        """Work out the next commit; nothing is changed yet."""
        if new_global is None:
            new_arrays = self.arrays
        models = {owner: self.now.get(owner, []) for owner in (self._changed if self.is_sure else {*self.now})}
        if new_global is not None:
            models[GLOBAL] = [*self.now.get(GLOBAL, ()), new_global]
        gone = [Entry(owner, name) for owner, names in models.items() for name in names[:-length]] if length else []
        models = {owner: names[-length:] for owner, names in models.items()}  # all of them, if it is 0
        if new_best is not None:
            gone += [Entry(BEST, name) for name in self.now.get(BEST, ())]
            models[BEST] = [new_best]
        before = {owner: set(self.committed.get(owner, ()) if self.is_sure else ()) for owner in models}
        removed = [Entry(owner, name) for owner in models for name in before[owner] - {*models[owner]}]
        if self.arrays not in (None, new_arrays):
            gone.append(Entry(None, self.arrays or ""))
        return Change(
            federation_id=self.federation_id,
            number=self.commits + 1,
            standing=standing,
            version=self.version if version is None else version,
            is_finished=is_finished,
            arrays=new_arrays,
            first_round=self.rounds,
            rounds=rounds,
            added=[Entry(owner, name) for owner in models for name in models[owner] if name not in before[owner]],
            removed=removed,
            is_all=not self.is_sure,
            gone=gone + self.dropped,
            models=models,
        )

    def take_over(self, change: Change) -> None:
        """Make a commit that has happened the last one."""
        if change.is_all:
            self.committed.clear()
        for owner, names in change.models.items():
            self.now[owner] = list(names)
            self.committed[owner] = names
            if not names:
                del self.now[owner], self.committed[owner]
        self.commits, self.version, self.arrays = change.number, change.version, change.arrays
        self.rounds = change.first_round + len(change.rounds)
        self.dropped.clear()
        self._changed.clear()
        self.is_sure = True
