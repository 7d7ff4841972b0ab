"""A federation without a controller: learners are moved by hand, and the clock is told the time."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.commands import (
    Aggregate,
    Announce,
    Command,
    Discard,
    Finish,
    Forget,
    Offer,
    StartTimer,
    StopTimer,
    Withdraw,
)
from metisfl_async.core.federation.continuous import ContinuousFederation
from metisfl_async.core.federation.events import Event
from metisfl_async.core.federation.federation import Federation, Phase
from metisfl_async.core.federation.in_rounds import FederationInRounds
from metisfl_async.core.federation.tasks import HeldTask, Task, Verdict
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.metrics import Json
from metisfl_async.core.strategies.strategies import Strategies

E = TypeVar("E", bound=Event)

A, B, C, D = (LearnerId(name) for name in "abcd")
STRANGE = TaskId("0" * 32)  #: nobody's task


class Sandbox:
    """Carries out a federation's commands as a controller does, and keeps what it did."""

    def __init__(self, config: ControllerConfig | None = None) -> None:
        self.now = 1000.0  #: seconds
        config = config or ControllerConfig()
        self.strategies = Strategies(config)
        kind = FederationInRounds if self.strategies.in_rounds else ContinuousFederation
        self.federation: Federation = kind(config, self.strategies, lambda: self.now)
        self.offers: list[Task] = []
        self.withdrawn: list[Task] = []
        self.timers: dict[str, float] = {}  #: when each is due
        self.events: list[Event] = []
        self.mean_of: list[Task] = []  #: updates in the accumulator
        self.aggregating: int | None = None  #: the version that the aggregator makes
        self.others: tuple[LearnerId, ...] = ()  #: whose latest updates are in it too
        self.forgotten: list[LearnerId] = []
        self.finish: Finish | None = None

    def act(self, commands: list[Command]) -> None:
        for command in commands:
            assert self.finish is None or isinstance(command, Announce), command
            match command:
                case Offer(task):
                    assert task.learner in self.federation.connected
                    self.offers.append(task)
                case Withdraw(task):
                    self.withdrawn.append(task)
                case StartTimer(name, seconds):
                    self.timers[name] = self.now + seconds
                case StopTimer(name):
                    self.timers.pop(name, None)
                case Aggregate(version, others):
                    self.aggregating, self.others = version, others
                case Forget(learner):
                    self.forgotten.append(learner)
                case Discard():
                    self.mean_of.clear()
                case Announce(event):
                    self.events.append(event)
                case Finish():
                    self.finish = command

    # --- the driver and the clock ----------------------------------------------------------------------------------

    def start(
        self,
        num_learners: int = 1,
        signals: TerminationSignals | None = None,
        *,
        seed: int = 1990,
        join_timeout_s: float | None = None,
    ) -> None:
        signals = signals or TerminationSignals(federation_rounds=1000)
        start = self.federation.start
        self.act(start(signals, num_learners=num_learners, seed=seed, join_timeout_s=join_timeout_s))

    def wait(self, seconds: float) -> None:
        """Let time pass; timers fire when they are due."""
        until = self.now + seconds
        while self.timers and min(self.timers.values()) <= until:
            name = min(self.timers, key=self.timers.__getitem__)
            self.now = self.timers[name]
            self.fire(name)
        self.now = until

    def fire(self, name: str) -> None:
        """Let a timer end now."""
        del self.timers[name]
        federation = self.federation
        on_timer = {
            "gather": federation.gather_timed_out,
            "phase": federation.phase_timed_out,
            "cutoff": federation.cutoff_passed,
        }
        self.act(on_timer[name]())

    # --- learners --------------------------------------------------------------------------------------------------

    def join(self, *learners: LearnerId) -> None:
        for learner in learners:
            self.come_back(learner)

    def come_back(
        self, learner: LearnerId, held: Collection[tuple[TaskId, bool]] = ()
    ) -> dict[TaskId, tuple[Verdict, str]]:
        """Connect with tasks that are held, each with whether it is done."""
        verdicts, commands = self.federation.joined(learner, [HeldTask(*task) for task in held])
        self.act(commands)
        return verdicts

    def disconnect(self, learner: LearnerId) -> None:
        self.act(self.federation.disconnected(learner, "its connection broke"))

    def leave(self, learner: LearnerId, reason: str = "it left") -> None:
        self.act(self.federation.left(learner, reason))

    def task(self, learner: LearnerId) -> Task:
        """The task that was offered to a learner last."""
        return next(task for task in reversed(self.offers) if task.learner == learner)

    def accept(self, *learners: LearnerId) -> None:
        for learner in learners:
            self.act(self.federation.accepted(learner, self.task(learner).id))

    def fail(self, learner: LearnerId, message: str = "no data", error_type: str = "ValueError") -> None:
        self.act(self.federation.failed(learner, self.task(learner).id, error_type, message))

    def begin_upload(self, learner: LearnerId, trained_from: int = 0) -> Task:
        """Send the header of an update."""
        task = self.federation.admit(learner, self.task(learner).id, trained_from)
        assert isinstance(task, Task)
        return task

    def upload(self, learner: LearnerId) -> Task:
        """Send all of an update; it is not folded yet."""
        task = self.begin_upload(learner)
        assert self.federation.arrived(task) is None
        return task

    def fold(self, task: Task, weight: float = 1.0, metadata: dict[str, Json] | None = None, **metrics: float) -> None:
        """Do what the aggregator does with a whole update."""
        self.mean_of.append(task)
        self.act(self.federation.counted(task, weight, metrics, metadata or {}))

    def train(self, *learners: LearnerId, weight: float = 1.0, **metrics: float) -> None:
        """Go all the way from the acknowledgement to the mean; for the request for first weights too."""
        for learner in learners:
            self.accept(learner)
            self.fold(self.upload(learner), weight, {}, **metrics)

    def publish(self) -> None:
        """End the aggregator's work on a mean."""
        assert self.aggregating is not None
        version, self.aggregating = self.aggregating, None
        self.mean_of.clear()
        self.act(self.federation.published(version))

    def evaluate(self, *learners: LearnerId, **metrics: float) -> None:
        for learner in learners:
            self.act(self.federation.evaluated(learner, self.task(learner).id, metrics))

    # --- what happened ---------------------------------------------------------------------------------------------

    def phase(self) -> Phase:
        return self.federation.phase

    def events_of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def training(
    *learners: LearnerId, config: ControllerConfig | None = None, signals: TerminationSignals | None = None
) -> Sandbox:
    """A federation whose first round has just started, with these learners and given weights."""
    sandbox = Sandbox(config)
    sandbox.act(sandbox.federation.model_given())
    sandbox.start(len(learners), signals)
    sandbox.join(*learners)
    return sandbox
