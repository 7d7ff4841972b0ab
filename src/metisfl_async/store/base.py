"""What every model store does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from metisfl_async.core.model import Array, Model

__all__ = ["BEST", "GLOBAL", "NO_ARRAYS", "ModelStore", "Saved", "Stored"]

GLOBAL = ""  #: the owner of the global models
BEST = "\nbest"  #: the owner of the best of them; every other owner is a learner's id, which prints
NO_ARRAYS: Mapping[str, Array] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Stored:
    """A model as it was inserted."""

    model: Model  #: read-only
    weight: float  #: what it was folded with; a rule that takes it out again needs the same number
    task_id: str = ""  #: of the task that the update answers


@dataclass(frozen=True, slots=True)
class Saved:
    """A federation as of its last commit; the models are in the store."""

    federation_id: str
    standing: str
    version: int | None  #: of the last global model that was committed; None before the first one
    arrays: dict[str, Array]  #: what the rule keeps; the caller's own


class ModelStore(Protocol):
    """Keeps the latest models of each owner: `ModelStoreConfig.lineage_length` of them, or all with 0.

    A store is opened once, used by one controller, and closed. It holds several federations, one after another, and
    each has models of its own; whatever is asked for is of the one that was begun or resumed last.

    A federation moves from commit to commit. After a crash, a store that `is_durable` has what it had at the last
    commit: learners' models that came since then are not there, and those that went are.

    Whatever fails raises `StoreError` and leaves the store as it was, so that it can be tried again. What is cancelled
    has happened whole or not at all. Calls that are made at the same time happen in the order of the calls.
    """

    is_durable: bool  #: whether another store at the same place can go on after a crash
    rounds_dropped: int  #: how many of the first texts of rounds are not kept any more

    async def open(self) -> None:
        """Make ready: nobody else may use the place from now on, and what a crash has left half-written goes."""
        ...

    async def close(self) -> None:
        """Give back what the store uses; may be called twice."""
        ...

    async def unfinished(self) -> str | None:
        """Name the federation that was begun last, if no commit has finished it."""
        ...

    async def begin(self, federation_id: str, standing: str) -> None:
        """Begin a new federation, whose id nobody has used before."""
        ...

    async def resume(self, federation_id: str) -> Saved:
        """Go back to a federation's last commit; what came after it is removed.

        Raises
        ------
        ModelLost
            If there is no such federation, or how it stands or the rule's arrays are damaged.
        """
        ...

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
        """Keep all this, and learners' models as they are now, in one step.

        Parameters
        ----------
        standing : str
            Replaces the one before.
        model : Model, optional
            Becomes the latest global model; the caller may use its buffer again, as with `insert`.
        arrays : mapping of str to ndarray
            What the rule keeps beside the model: they replace those before. Without a model those before stay.
        best : Model, optional
            Becomes the one model of `BEST`.
        rounds : sequence of str
            Texts to be added to those that `rounds` gives.
        is_finished : bool
            Whether `unfinished` has nothing more to say of this federation.
        """
        ...

    def rounds(self, start: int = 0) -> AsyncGenerator[str, None]:
        """Give the texts of all commits in order, from the `start`-th on, as far as they are kept; "" if damaged.

        A few are read at a time.
        """
        ...

    async def insert(self, owner: str, model: Model, weight: float = 1.0, task_id: str = "") -> None:
        """Add a learner's model as its latest. The next commit drops the oldest beyond `lineage_length`.

        Afterwards the caller may use the model's buffer again. One that is read-only is never changed by anybody, so it
        may be shared instead of copied.
        """
        ...

    async def latest(self, owner: str) -> Stored | None:
        """Give the model that was inserted last; None if there is none.

        Raises
        ------
        ModelLost
            If it is damaged or gone. It is not used any more: the one before it is the latest then.
        """
        ...

    async def lineage(self, owner: str) -> list[Stored]:
        """Give the latest `lineage_length`, oldest first; those that are damaged or lost are left out."""
        ...

    async def erase(self, owner: str) -> None:
        """Forget all models of this learner; after a crash before the next commit they are there again."""
        ...
