"""Where a relay's controller waits with the sum of a round, until its parent's next global model is there."""

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
        self.summed: Summed | None = None  #: the latest
        self.arrived = asyncio.Event()  #: set while a sum is there for which no model is
        self._model: asyncio.Future[Model] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a sum is there for which no model is."""
        return self._model is not None and not self._model.done()

    async def swap(self, summed: Summed) -> Model:
        """Show a sum, and wait for the model.

        Raises
        ------
        NoModel
            If none will come.
        """
        self.summed, self._model = summed, asyncio.get_running_loop().create_future()
        self.arrived.set()
        return await self._model

    def give(self, model: Model) -> None:
        """Give the model that is waited for."""
        assert self._model is not None
        self.arrived.clear()
        self._model.set_result(model)

    def refuse(self, reason: str) -> None:
        """Say that none will come, if one is waited for."""
        if self._model is not None and not self._model.done():
            self.arrived.clear()
            self._model.set_exception(NoModel(reason))
