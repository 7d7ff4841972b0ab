"""One federation at work in a controller: the parts that are its own, and end with it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

from metisfl_async.codec.publication import Publication
from metisfl_async.controller.aggregator import Aggregator
from metisfl_async.controller.codecs import Codecs
from metisfl_async.controller.dispatcher import Dispatcher
from metisfl_async.controller.exchange import Exchange
from metisfl_async.controller.keeper import ANOTHER, UNREADABLE, Keeper
from metisfl_async.controller.led_aggregator import LedAggregator
from metisfl_async.controller.registry import Registry
from metisfl_async.controller.staging import Staging
from metisfl_async.controller.sums import Sums
from metisfl_async.controller.threads import Threads
from metisfl_async.controller.updates import Updates
from metisfl_async.core.config import ControllerConfig, ModelStoreConfig
from metisfl_async.core.config.sameness import check_same, facts_of
from metisfl_async.core.errors import MetisError, ModelLost, StoreError, UnexpectedMessage
from metisfl_async.core.federation.continuous import ContinuousFederation
from metisfl_async.core.federation.events import FederationStarted, RoundFinished
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.in_rounds import FederationInRounds
from metisfl_async.core.federation.inputs import Resume, Start
from metisfl_async.core.federation.led import LedFederation
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import StartRequest
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.strategies import Strategies
from metisfl_async.store.base import ModelStore
from metisfl_async.store.event_log import EventLog
from metisfl_async.transport.concurrency import first_of

__all__ = ["Job"]

logger = logging.getLogger(__name__)


class Job:
    """A federation with everything that decides, folds, receives and tells for it."""

    def __init__(
        self,
        federation_id: FederationId,
        config: ControllerConfig,
        store_config: ModelStoreConfig,
        *,
        registry: Registry,
        store: ModelStore,
        threads: Threads,
        clock: Callable[[], float],
        exchange: Exchange | None = None,
    ) -> None:
        strategies = Strategies(config)
        kind: type[Federation] = FederationInRounds if strategies.in_rounds else ContinuousFederation
        new_aggregator: Callable[..., Aggregator] = Aggregator
        if exchange is not None:
            kind, new_aggregator = LedFederation, partial(LedAggregator, exchange)
        self.id, self.run_id = federation_id, secrets.token_hex(8)
        self.federation: Federation = kind(
            federation_id,
            config,
            strategies,
            durable_every=store_config.durable_every if store.is_durable else 0,
            epoch=time.time() - clock(),
        )
        keeps_updates = strategies.keeps_updates or store_config.keep_local_models
        self._rule, self.sum_form = strategies.rule, strategies.rule.sum_form
        self.staging = Staging(config.max_inflight_bytes, strategies.rule.stride_length)
        self.events = EventLog(store_config.history_bytes)
        self.has_begun = False  #: whether it would survive us, if the store is durable
        self.over = asyncio.Event()  #: set once the federation is over
        self._facts = facts_of(config)
        self._dispatcher = Dispatcher(
            self.federation,
            registry,
            self.events,
            self.over,
            clock=clock,
            in_rounds=strategies.in_rounds,
            best_metric=config.best_metric,
        )
        self.post = self._dispatcher.post
        self.keeper = Keeper(store, store_config, self._dispatcher.announce, clock)
        codecs = Codecs(config.update_codec, config.download_codec, strategies.rule.sum_form)
        self.aggregator = new_aggregator(
            strategies.rule, self.keeper, self.post, threads, codecs, keeps_updates=keeps_updates
        )
        #: whether several learners' updates may come as one sum; and whether sums may wait for one another
        self.takes_sums = takes_sums = strategies.in_rounds and strategies.rule.is_mean and not keeps_updates
        self.updates = Updates(
            config, self.aggregator, codecs, self.post, self.staging, clock=clock, takes_sums=takes_sums
        )
        self.sums = Sums(self.updates, self.aggregator, self.post)
        self.may_order = strategies.waits_for_all
        self._dispatcher.connect(self.aggregator, self.updates, self.keeper)

    @property
    def is_over(self) -> bool:
        return self.over.is_set()

    @property
    def has_run(self) -> bool:
        """Whether nothing works for it any more: it made room for another one."""
        return self.updates.is_closed

    async def begin(self, request: StartRequest, first: Model | None) -> None:
        """Start it, with first weights if they are given.

        It is started in one step: with the commit that says so, and has the weights.
        """
        self.federation.standing.started_at = started_at = time.time()
        self._dispatcher.announce(FederationStarted(self.id, self.run_id, started_at))
        signals, seed, timeout_s = request.signals, request.seed, request.join_timeout_secs
        start = Start(signals, request.num_learners, seed, timeout_s, first is not None, request.evaluates)
        self.federation.standing.config = self._facts
        not_started = self.federation.standing.to_json()
        try:
            standing = self.federation.as_started(start)
        except MetisError:
            raise
        except Exception as bug:
            self._dispatcher.fail(bug)
            raise
        await self.keeper.do(self.keeper.store.begin, self.id, standing if first is None else not_started)
        if first is not None:
            await self.aggregator.set_first_model(first, standing)
        self.post(start)
        self.has_begun = True

    async def resume(self) -> bool:
        """Go on with what was saved; say whether it was started at all. If not, its driver does it once more.

        Raises
        ------
        ConfigError
            If the controller is configured otherwise than before, in what must stay.
        ModelLost
            If it was saved by a version that writes it otherwise, or is damaged.
        """
        saved = await self.keeper.do(self.keeper.store.resume, self.id)
        try:
            standing = Standing.from_json(saved.standing)
        except UNREADABLE as error:
            raise ModelLost("the model store", f"how federation {self.id!r} stands {ANOTHER}: {error!r}") from error
        if standing.signals is None:
            return False
        check_same(standing.config, self._facts)
        await self.aggregator.restore(saved, sorted(standing.reported))
        for opened in standing.rounds:
            if opened.record.is_published:  # it was written down before its model was made
                opened.record.privacy = dict(self._rule.privacy())
        if self.aggregator.best is None:  # it may be damaged
            standing.best = None
        self._dispatcher.announce(FederationStarted(self.id, self.run_id, standing.started_at))
        self.post(Resume(standing, saved.version))
        self.has_begun = True
        return True

    def published(self) -> Publication:
        """Give the latest global model."""
        if self.aggregator.publication is None:
            raise UnexpectedMessage("there is no global model yet")
        return self.aggregator.publication

    def best(self) -> Publication:
        """Give the global model that scored best."""
        if self.aggregator.best is None:
            raise UnexpectedMessage("no model was measured by a best_metric")
        return self.aggregator.best

    async def records(self) -> AsyncGenerator[RoundRecord, None]:
        """Give the records of all closed rounds; while the store cannot be read, those that are in memory."""
        given = set[tuple[int, float]]()
        try:
            async with aclosing(self.keeper.records()) as records:
                async for record in records:
                    given.add((record.number, record.started_ms))
                    yield record
        except StoreError as error:
            logger.warning("the records of rounds cannot be read; those in memory are given: %s", error)
            for event in self.events.kept():
                if isinstance(event, RoundFinished) and (event.record.number, event.record.started_ms) not in given:
                    yield event.record

    async def conclude(self) -> None:
        """Let go of a federation whose driver has the result: from now on, it is not resumed."""
        await self.over.wait()
        if self.keeper.store.is_durable:
            try:
                await self.keeper.commit(self.federation.standing.to_json(), is_finished=True)
            except StoreError as error:
                logger.error("the end of the federation could not be saved, it will be resumed: %s", error)

    async def run(self) -> None:
        """Aggregate until cancelled; a bug ends it, and is raised."""
        try:
            await first_of(self._dispatcher.broken, self.aggregator.run())
        finally:
            self.close()

    def close(self) -> None:
        """Let nobody wait for it, and nothing more happen to it."""
        self.updates.close()
        self._dispatcher.close()
