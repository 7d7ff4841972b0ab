"""FedBuff: every K updates make a step of the global model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from metisfl_async.core.checks import integer, number, positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array, Model, allocate
from metisfl_async.core.strategies.aggregation.arithmetic import Sum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule, Update

__all__ = ["FedBuff"]


class FedBuff(AggregationRule):
    """``G += learning_rate * sum(s_k * d_k * (w_k - G_k)) / sum(s_k)`` over `updates_per_version` updates.

    Tensors that are not trained, such as running statistics, are a mean: for them, the learning rate is 1 and G_k is G.

    ``G_k`` is the global model that the update started from, ``d_k = (1 + staleness) ** -exponent``. With the scaling
    factor NumParticipants it is the paper's ``1/K * sum(...)``.

    Parameters
    ----------
    updates_per_version : int
        The paper's K.
    learning_rate : float
        > 0; of the server.
    exponent : float
        >= 0; 0 treats all alike.
    max_staleness : int
        An update that is staler is refused. So many global models, and the latest, are kept to tell what the updates
        changed.

    References
    ----------
    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated Learning with Buffered Asynchronous Aggregation",
    arXiv:2106.06639, algorithm 1; the discount is its section 5's.
    """

    in_rounds = False
    starts_afresh = False

    def __init__(
        self,
        updates_per_version: int = 10,
        *,
        learning_rate: float = 1.0,
        exponent: float = 0.5,
        max_staleness: int = 10,
    ) -> None:
        integer("updates_per_version", updates_per_version, 1)
        positive("learning_rate", learning_rate)
        number("exponent", exponent, least=0)
        integer("max_staleness", max_staleness, 0)
        self.updates_per_version, self.max_staleness = updates_per_version, max_staleness
        self.num_models = max_staleness + 1
        self.learning_rate, self.exponent = learning_rate, exponent

    def start(self, model: Model) -> None:
        self._models = {model.version: model}  # the latest comes last; after a crash, not every version is there
        self._changes, self._weight = Sum(model.manifest), 0.0

    def fold(self, update: Update) -> None:
        if update.staleness > self.max_staleness:
            raise ConfigError("staleness", update.staleness, f"at most max_staleness={self.max_staleness} versions")
        latest = next(reversed(self._models))
        if (base := self._models.get(latest - update.staleness)) is None:
            known = ", ".join(str(version) for version in self._models)
            raise ConfigError("model_version", latest - update.staleness, f"a version that is kept: {known}")
        share = update.weight * (1.0 + update.staleness) ** -self.exponent
        self._changes.add(update.model, share)
        self._changes.add(_with_untrained(base, self._models[latest]), -share)
        self._weight += update.weight

    def aggregate(self, version: int) -> Model:
        self._changes.scale(self.learning_rate / self._weight, of_untrained=1.0 / self._weight)
        self._changes.add(self._models[next(reversed(self._models))], 1.0)
        model = self._changes.divided_by(1.0, version)
        self._models = {old: kept for old, kept in self._models.items() if old >= version - self.max_staleness}
        self._models[version] = model
        self.discard()
        return model

    def restore(self, models: Sequence[Model], state: Mapping[str, Array]) -> None:
        self.start(models[-1])
        self._models = {model.version: model for model in models}

    def take_back(self, model: Model) -> None:
        """Go on from the models that are kept, without the one that cannot be published."""
        self._models = {version: kept for version, kept in self._models.items() if version < model.version}
        self._models[model.version] = model
        self.discard()

    def discard(self) -> None:
        self._changes.clear()
        self._weight = 0.0


def _with_untrained(base: Model, latest: Model) -> Model:
    """Give a model with the latest one's tensors that are not trained: a step from older ones may be too far."""
    if base is latest or not base.manifest.untrained:
        return base
    mixed = Model(base.manifest, allocate(len(base.buffer)), base.version)
    mixed.buffer[:] = base.buffer
    for place in base.manifest.untrained:
        where = base.manifest.places[place][0]
        mixed.buffer[where] = latest.buffer[where]
    return mixed
