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

    sum: Model  #: in float64, as the codec lays it out
    codec: str
    of: Manifest  #: what the models in it are like
    contributors: Mapping[str, Contributor]


class Exchange:
    """Takes a sum for a model; one at a time."""

    def __init__(self) -> None:
        self.summed: Summed | None = None  #: for which no model is there
        self.arrived = asyncio.Event()  #: set while there is one
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
        self.arrived.set()
        return await self._model

    def give(self, model: Model) -> None:
        """Give the model for the sum that is there."""
        self._take().set_result(model)

    def take_back(self, reason: str) -> None:
        """Say that no model will come for the sum that is there, if there is one."""
        if self._model is not None:
            self._take().set_exception(NoModel(reason))

    def refuse(self, reason: str) -> None:
        """Say that no model will come, for a sum that is there or comes yet."""
        self._refusal = reason
        self.take_back(reason)

    def _take(self) -> asyncio.Future[Model]:
        assert self._model is not None
        model, self.summed, self._model = self._model, None, None
        self.arrived.clear()
        return model
