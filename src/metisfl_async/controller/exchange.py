"""Where a relay's controller waits with the sum of a round, until its parent's next global model, with it, is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from metisfl_async.core.errors import NoModel
from metisfl_async.core.model import Manifest, Model
from metisfl_async.core.strategies.aggregation.contributors import Contributor

__all__ = ["Exchange", "Summed"]


@dataclass(frozen=True, slots=True)
class Summed:
    """What a round came to, not divided and not rounded."""

    sum: Model  #: in float64
    of: Manifest  #: what the models in it are like
    contributors: Mapping[str, Contributor]


class Exchange:
    """Takes a sum for a model; one at a time."""

    def __init__(self) -> None:
        self.summed: Summed | None = None  #: for which no model is there
        self.arrived = asyncio.Event()  #: set while there is one
        self.counts = False  #: whether its parent says that it is in a published model
        self._model: asyncio.Future[Model] | None = None  # while there is one
        self._refusal: str | None = None  # why none is taken

    def open(self) -> None:
        """Take sums, of another federation than before."""
        self.summed = self._model = self._refusal = None
        self.arrived.clear()

    async def swap(self, summed: Summed) -> Model:
        """Show a sum, and wait for the model.

        Raises
        ------
        NoModel
            If none will come.
        """
        if self._refusal is not None:
            raise NoModel(self._refusal)
        self.summed, self._model = summed, asyncio.get_running_loop().create_future()
        self.counts = False
        self.arrived.set()
        return await self._model

    def settle(self, update: Model, refusal: str | None) -> None:
        """Take note of what the parent says of a sum: it counts, or why no model with it will come."""
        if self.summed is None or self.summed.sum is not update:
            return  # nobody waits with it any more
        if refusal is None:
            self.counts = True
        else:
            self._take().set_exception(NoModel(refusal))

    def give(self, model: Model) -> None:
        """Give the model for the sum that is there."""
        self._take().set_result(model)

    def refuse(self, reason: str) -> None:
        """Say that no model will come, for a sum that is there or comes yet."""
        self._refusal = reason
        if self._model is not None:
            self._take().set_exception(NoModel(reason))

    def _take(self) -> asyncio.Future[Model]:
        assert self._model is not None
        model, self.summed, self._model = self._model, None, None
        self.arrived.clear()
        return model
