"""A relay: a learner above, a controller below."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

import msgpack

from metisfl_async.controller.questions import MAX_OPEN
from metisfl_async.core.config import ClientParams, ControllerConfig, ModelStoreConfig, ServerParams
from metisfl_async.core.errors import ConfigError, UnexpectedMessage
from metisfl_async.core.federation.evaluation import summed_up
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.ids import TaskId
from metisfl_async.core.messages import Afterwards, Evaluated, JoinReply, TaskOffer
from metisfl_async.core.metrics import Json, Metrics, weighted_means
from metisfl_async.core.model import Model
from metisfl_async.core.strategies.aggregation.contributors import MOST_CONTRIBUTORS, said_of, without_metrics
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.scaling import name_of
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.failing import FailureLog
from metisfl_async.learner.learner import Config
from metisfl_async.learner.outcome import Measured, Trained
from metisfl_async.learner.reported import MAX_FACTS_BYTES, evaluated
from metisfl_async.learner.works import AnswersBelow
from metisfl_async.relay.below import Below
from metisfl_async.transport.concurrency import first_of
from metisfl_async.transport.convert import MAX_MESSAGE_BYTES, learner_message
from metisfl_async.transport.grpc_link import GrpcLink

__all__ = ["Relay"]

logger = logging.getLogger(__name__)


class Relay:
    """Stands between a controller and some learners: to the controller one learner, to the learners a controller.

    ::

        async with Relay(config, ServerParams(port=50052), parent=ClientParams("headquarters", 50051)) as relay:
            await relay.run()

    Its learners dial it as they dial any controller. Each training task of its parent is a round below, whose updates
    are added up and go up as one sum; an evaluation is asked for below, and what each measured goes up. The parent's
    rule must be a weighted mean, with the same scaling factor. Learners may be relays.

    Parameters
    ----------
    controller_config : ControllerConfig, optional
        For the round below: its quorum, its deadline, how many are drawn, how many times it is tried again. Its
        `train_params` and `eval_params` are those that the parent does not give.
    server_params : ServerParams
        Where its learners find it.
    parent : ClientParams
        The controller above.
    relay_id : str
        The name under which it is known there, as a learner's.
    model_store_config : ModelStoreConfig, optional
        With a durable store, an open round outlives the relay: started again under its `relay_id`, it goes on.
    connect_timeout_secs : float, optional
        Give up if the first connection to the parent did not succeed in so long. Without it, try for ever.
    """

    def __init__(
        self,
        controller_config: ControllerConfig | None = None,
        server_params: ServerParams | None = None,
        *,
        parent: ClientParams,
        relay_id: str = "",
        model_store_config: ModelStoreConfig | None = None,
        connect_timeout_secs: float | None = None,
    ) -> None:
        if not isinstance(parent, ClientParams):
            raise ConfigError("parent", parent, "the ClientParams of the controller above")
        if not isinstance(server_params, ServerParams):
            raise ConfigError("server_params", server_params, "the ServerParams where its learners find it")
        self._region = _Region(controller_config or ControllerConfig(), server_params, model_store_config)
        self._parent, self._id, self._connect_timeout_s = parent, relay_id, connect_timeout_secs

    async def __aenter__(self) -> Self:
        await self._region.below.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._region.below.close()

    @property
    def client_params(self) -> ClientParams:
        """How to dial it from the same machine, as its learners do."""
        return self._region.below.client_params

    async def run(self) -> None:
        """Take part until the federation above is over, and the learners below know.

        Raises
        ------
        TransportError
            If no connection was made within `connect_timeout_secs`.
        """
        below, link = self._region.below, GrpcLink(self._parent)
        try:
            held, failures = () if below.held is None else (below.held,), _Failures()
            client = LearnerClient(link, self._region, self._id, self._connect_timeout_s, held=held, failures=failures)
            await first_of(client.run(), below.serve())
            await below.end(self._region.final, keep_running=False)
        finally:
            await link.close()


class _Failures(FailureLog):
    """Logs in a line what could not be done: there is no user's code here, and no traceback that would say more."""

    def tell(self, learner: str, what: str, where: str, error: Exception, text: str) -> None:
        logger.warning("%s failed to %s%s: %s: %s", learner, what, where, type(error).__name__, text)


class _Region:
    """Does the tasks of the parent, with the learners below."""

    is_given_up = was_trained = False
    questions_at_once = MAX_OPEN

    def __init__(self, config: ControllerConfig, server_params: ServerParams, store: ModelStoreConfig | None) -> None:
        if type(config.new_rule()) not in (FedAvg, FedStride):
            allowed = "FedAvg or FedStride: updates are only added up below, and the parent's rule makes models of them"
            raise ConfigError("aggregation_rule", config.aggregation_rule, allowed)
        if not config.new_scheduler().in_rounds:
            raise ConfigError("scheduler", config.scheduler, "one with rounds: a relay's rounds are its parent's")
        self._params: dict[str, Json] = {}  # of the task that is being done
        self._config, self._hook = config, config.params_hook
        hooked = replace(config, params_hook=self._params_of, driver_lost_secs=None, best_metric=None)
        self.below = Below(server_params, hooked, store)
        self.name = "a relay"
        self._offer: TaskOffer  # the task that is being done
        self.final: Model | None = None  #: if the federation above has ended, and its learners do not know yet

    def _params_of(self, kind: str, number: int, learner: str, params: dict[str, Json]) -> dict[str, Json]:
        """Give a task below what the parent gave the relay's own."""
        params = params | self._params
        return params if self._hook is None else self._hook(kind, number, learner, params)

    def joined(self, reply: JoinReply) -> None:
        if self.below.key in reply.relays:
            allowed = "a controller that is not this relay's own, nor of a relay below it"
            raise ConfigError("parent", reply.learner_id, allowed)
        self.name = reply.learner_id
        self.below.joined(reply.relays)

    def begin(self, offer: TaskOffer) -> None:
        self._offer = offer

    async def get_weights(self) -> Model:
        return await self.below.first_weights(self._offer.seed)

    async def set_weights(self, model: Model) -> None:
        """Do nothing: learners below take over weights with their first task."""

    async def train(self, model: Model, config: Config) -> Trained:
        self._params = config
        summed = await self.below.train(model, self._offer)
        contributors = summed.contributors
        if len(contributors) > MOST_CONTRIBUTORS:
            allowed = f"at most {MOST_CONTRIBUTORS} in one sum; put relays between"
            raise UnexpectedMessage(f"{len(contributors)} learners reported below; allowed: {allowed}")
        metrics = weighted_means((each.weight, each.metrics) for each in contributors.values())
        said = said_of(contributors, name_of(self._config.scaling_factor))
        if not _fits(metrics, said):
            what = "what %d learners measured in training does not fit into one header: the means alone go up"
            logger.warning(what, len(contributors))
            said = said_of(without_metrics(contributors), name_of(self._config.scaling_factor))
            metrics = _trimmed(metrics, MAX_FACTS_BYTES - len(msgpack.packb(said)))
        return Trained(summed.sum, metrics, said, sum_of=summed.of, codec=summed.codec)

    def settled(self, task_id: TaskId, refusal: str | None) -> None:
        self.below.settled(task_id, refusal)

    def recycle(self, update: Model) -> None:
        """Do nothing: its memory goes."""

    async def evaluate(self, model: Model, config: Config) -> Measured:
        self._params = config
        record = await self.below.evaluate(model)
        return _measured_in(record, self.below.weights, self._offer.task_id)

    async def take_final(self, model: Model, then: Afterwards) -> None:
        if then is Afterwards.STAY:
            await self.below.end(model, keep_running=True)
        else:
            self.final = model

    async def ask(self, method: str, params: Config, due_at: float) -> AnswersBelow:
        return self.below.ask(method, params, due_at)

    async def close(self) -> None:
        """Do nothing: whoever opened the controller closes it."""


def _measured_in(record: RoundRecord, weights: Mapping[str, float], task_id: TaskId) -> Measured:
    """Say who measured what in a region; of too many for one message, the relays below speak for theirs.

    Of too many even then, or with too many metrics, there are the means alone.
    """
    parts = record.learners.values()
    evaluators = record.evaluators(weights)
    if not evaluators and (failures := [each for part in parts for each in part.failures if each.task == "evaluate"]):
        raise UnexpectedMessage(f"nobody below evaluated it; one of them: {failures[0].type}: {failures[0].message}")
    for said_by in (record.evaluators, record.dialled_evaluators):
        said = said_by(weights)
        if len(said) <= MOST_CONTRIBUTORS and _is_short(Evaluated(task_id, {}, said)):
            return Measured({}, contributors=said)
    what = "what %d learners measured does not fit into one message: the means alone go up"
    logger.warning(what, len(evaluators))
    means = summed_up(evaluators.values()).metrics
    return Measured(evaluated(means, "the means of those below").metrics)


def _fits(metrics: Metrics, said: dict[str, Json]) -> bool:
    return len(msgpack.packb([metrics, said])) <= MAX_FACTS_BYTES


def _trimmed(metrics: Metrics, most_bytes: int) -> Metrics:
    """Keep the first of them, as many as there is room for."""
    kept: Metrics = {}
    for name, value in metrics.items():
        most_bytes -= len(msgpack.packb([name, value]))
        if most_bytes < 0:
            break
        kept[name] = value
    return kept


def _is_short(message: Evaluated) -> bool:
    return len(learner_message(message)) <= MAX_MESSAGE_BYTES
