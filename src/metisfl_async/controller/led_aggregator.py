"""Folds what comes from below a relay, and publishes what its parent makes of that."""

from __future__ import annotations

from typing import Any

from metisfl_async.controller.aggregator import Aggregator, AggregatorJob
from metisfl_async.controller.exchange import Exchange, Summed
from metisfl_async.controller.upload import Upload
from metisfl_async.core.errors import NoModel
from metisfl_async.core.federation.commands import Discard
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.contributors import Contributor
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.resemblance import Portrait

__all__ = ["LedAggregator"]


class LedAggregator(Aggregator):
    """Has no model of its own: the sum of a round goes up whole, and the next global model comes down."""

    def __init__(self, exchange: Exchange, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._exchange = exchange
        self._contributors: dict[str, Contributor] = {}  # to what is folded

    async def _fold(self, upload: Upload) -> Portrait:
        seen = await super()._fold(upload)
        self._contributors[upload.learner] = Contributor(upload.weight, upload.num_relayed or 1, upload.header.metrics)
        return seen

    async def _do(self, job: AggregatorJob, submitted: int) -> None:
        await super()._do(job, submitted)
        if isinstance(job, Discard):
            self._contributors = {}

    async def _made(self, version: int, size_bytes: int) -> Model:
        assert self.publication is not None
        rule, manifest = self._rule, self.publication.model.manifest
        assert isinstance(rule, FedAvg)

        def packed() -> Model:
            total = rule.summed()
            return total.packed(total.packed_manifest(manifest), version - 1)

        summed = await self._threads.work(size_bytes, packed)
        contributors, self._contributors = self._contributors, {}
        model = await self._exchange.swap(Summed(summed, rule.sum_form.codec, manifest, contributors))
        rule.discard()
        model = Model(model.manifest, model.buffer, version)
        if self._infinities is not None:
            model = await self._threads.work(size_bytes, self._infinities.without, model)
        return model

    async def _take_back(self, error: NoModel) -> None:
        self._contributors = {}
        self._gallery.clear()  # no update here is to blame
        await super()._take_back(error)
