"""Schedulers: when the next global model is made, and how much work each learner gets."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from metisfl_async.core.checks import number, positive
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json

MOST_UPDATES = 2**31 - 1  #: batches that a task may ask for; a claim of no time for any would ask for more

__all__ = ["Asynchronous", "Scheduler", "SemiSynchronous", "Synchronous", "Timing", "timing_of"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast a learner was in its latest training task, as it says itself; milliseconds."""

    ms_per_batch: float
    ms_per_epoch: float


def timing_of(report: Mapping[str, object]) -> Timing | None:
    """Read ``processing_ms_per_batch`` and ``processing_ms_per_epoch``; None if there is no epoch, or no number."""
    values = [report.get(key) for key in ("processing_ms_per_batch", "processing_ms_per_epoch")]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            return None
    per_batch, per_epoch = (float(value) for value in values if isinstance(value, int | float))
    return Timing(per_batch, per_epoch) if per_epoch > 0 else None


class Scheduler(ABC):
    """Decides when a global model is made. The controller works on a copy of the object in its configuration.

    With rounds, a cohort is asked, and when a model is due, those who have not reported are not waited for. Without
    rounds, a learner that has reported gets its next task at once, and tasks go on while models are made.
    """

    in_rounds: bool = True

    @abstractmethod
    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        """Whether to make a global model now. Asked whenever a learner has reported or was given up.

        Parameters
        ----------
        reported : sequence of LearnerId
            Whose updates came since the model before, in order; without rounds, one may stand there twice.
        awaited : collection of LearnerId
            Who is at work. When nobody is, a round is over, whatever this returns.
        """

    def train_params(
        self, cohort: Sequence[LearnerId], params: Mapping[str, Json], timings: Mapping[LearnerId, Timing]
    ) -> Mapping[LearnerId, Mapping[str, Json]]:
        """Give each learner of a cohort its training parameters; `timings` are their latest, of those that tell."""
        return dict.fromkeys(cohort, params)

    def state(self) -> Json:
        """Say what it remembers from call to call, as JSON-like data: a durable federation writes it down.

        None if it remembers nothing. One of your own that keeps attributes must say it, for a durable federation.
        """
        return None

    def restore(self, state: Json) -> None:  # noqa: B027 - most remember nothing
        """Take up what `state` gave, after the controller was started again."""


class Synchronous(Scheduler):
    """A round is over when every learner of the cohort has reported or was given up."""

    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        return not awaited


class SemiSynchronous(Synchronous):
    """Rounds in which each learner gets as many batches as fit the time that the slowest one needs.

    From the second round on, learner k trains for ``ceil(t_max / ms_per_batch_k)`` batches, its `num_local_updates`,
    with ``t_max = semi_sync_lambda * max(ms_per_epoch)`` over the cohort. So all finish together, and the fast ones do
    more. A learner whose speed is not known yet trains for whole epochs. Learners say themselves how fast they are, so
    no more than `max_slowness` times the median is believed.

    Parameters
    ----------
    semi_sync_lambda : float
        > 0: for how many epochs of the slowest learner.
    recompute_num_updates : bool
        Whether to fit the batches anew in every round. Otherwise the first timings hold.
    max_slowness : float
        >= 1: at most so many times the cohort's (lower) median of ``ms_per_epoch`` counts as an epoch of its slowest.
        One that is slower still does what it can in that time.

    References
    ----------
    Stripelis, Thompson, Ambite, "Semi-Synchronous Federated Learning for Energy-Efficient Training and Accelerated
    Convergence in Cross-Silo Settings", ACM TIST 2022, doi:10.1145/3524885.
    """

    def __init__(
        self, semi_sync_lambda: float, *, recompute_num_updates: bool = False, max_slowness: float = 10.0
    ) -> None:
        positive("semi_sync_lambda", semi_sync_lambda)
        if not isinstance(recompute_num_updates, bool):
            raise ConfigError("semi_sync_recompute_num_updates", recompute_num_updates, "True or False")
        number("semi_sync_max_slowness", max_slowness, least=1)
        self.semi_sync_lambda, self.recompute_num_updates = semi_sync_lambda, recompute_num_updates
        self.max_slowness = max_slowness
        self._first: dict[LearnerId, Timing] = {}

    def train_params(
        self, cohort: Sequence[LearnerId], params: Mapping[str, Json], timings: Mapping[LearnerId, Timing]
    ) -> Mapping[LearnerId, Mapping[str, Json]]:
        if not self.recompute_num_updates:
            # Those who left have no timing any more; they are forgotten here, too.
            timings = self._first = {learner: self._first.get(learner, timings[learner]) for learner in timings}
        known = {learner: timings[learner] for learner in cohort if learner in timings}
        if not known:
            return dict.fromkeys(cohort, params)
        epochs_ms = [timing.ms_per_epoch for timing in known.values()]
        # Of two learners the faster one: with a mean of both, one that lies would decide.
        slowest_ms = min(max(epochs_ms), self.max_slowness * statistics.median_low(epochs_ms))
        t_max = self.semi_sync_lambda * slowest_ms
        plans: dict[LearnerId, Mapping[str, Json]] = dict.fromkeys(cohort, params)
        for learner, timing in known.items():
            batches = t_max / (timing.ms_per_batch or 1.0)  # 0 ms: less than a clock tells
            num_updates = max(math.ceil(min(batches, MOST_UPDATES)), 1)
            plans[learner] = {**params, "num_local_updates": num_updates}
        return plans

    def state(self) -> Json:
        return {learner: [timing.ms_per_batch, timing.ms_per_epoch] for learner, timing in self._first.items()}

    def restore(self, state: Json) -> None:
        assert isinstance(state, dict)
        self._first = {LearnerId(learner): Timing(*timing) for learner, timing in state.items()}  # type: ignore[misc]


class Asynchronous(Scheduler):
    """Every update makes a global model, and its learner gets that one at once; the fast never wait for the slow.

    A rule may ask for more updates a model (FedBuff).
    """

    in_rounds = False

    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        return len(reported) >= 1
