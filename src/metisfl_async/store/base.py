"""What every model store does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from metisfl_async.core.model import Model

__all__ = ["GLOBAL", "ModelStore", "Stored"]

GLOBAL = ""  #: the owner of the global models; every other owner is a learner's id


@dataclass(frozen=True, slots=True)
class Stored:
    """A model as it was inserted."""

    model: Model  #: read-only
    weight: float  #: what it was folded with; a rule that takes it out again needs the same number


class ModelStore(Protocol):
    """Keeps the latest models of each owner: `ModelStoreConfig.lineage_length` of them, or all with 0.

    A store is opened once, used by one controller, and closed. What is inserted is there whole or not at all, also when
    the insertion is cancelled. Models that are inserted at the same time are kept in the order of the calls.
    """

    async def open(self) -> None:
        """Make ready; what was kept before, if the store outlives a process, is there again."""
        ...

    async def close(self) -> None:
        """Give back what the store uses; may be called twice."""
        ...

    async def insert(self, owner: str, model: Model, weight: float = 1.0) -> None:
        """Add a model as its owner's latest, and drop the oldest beyond `lineage_length`.

        Afterwards the caller may use the model's buffer again. One that is read-only is never changed by anybody, so it
        may be shared instead of copied.
        """
        ...

    async def latest(self, owner: str) -> Stored | None:
        """Give the model that was inserted last; None if there is none."""
        ...

    async def lineage(self, owner: str) -> list[Stored]:
        """Give all that are kept, oldest first."""
        ...

    async def erase(self, owner: str) -> None:
        """Forget all models of this owner."""
        ...
