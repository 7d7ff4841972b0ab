"""A federation without a controller: learners are moved by hand, and the clock is told the time."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Collection
from typing import TypeVar

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.commands import (
    Abandon,
    Aggregate,
    Announce,
    Answer,
    Command,
    Count,
    Discard,
    Finish,
    Fold,
    Forget,
    Greet,
    KeepBest,
    Offer,
    Receive,
    Save,
    StartTimer,
    StopTimer,
    TimerName,
    Withdraw,
)
from metisfl_async.core.federation.continuous import ContinuousFederation
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.events import Event, RoundFinished
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.in_rounds import FederationInRounds
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.tasks import HeldTask, Task, Verdict
from metisfl_async.core.ids import FederationId, LearnerId, StreamId, TaskId
from metisfl_async.core.messages import UpdateReply
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.strategies.strategies import Strategies

E = TypeVar("E", bound=Event)

A, B, C, D = (LearnerId(name) for name in "abcd")
FEDERATION = FederationId("f" * 32)
STRANGE = TaskId("0" * 32)  #: nobody's task


class Sandbox:
    """Carries out a federation's commands as a controller does, and keeps what it did."""

    def __init__(
        self, config: ControllerConfig | None = None, *, durable_every: int = 0, kind: type[Federation] | None = None
    ) -> None:
        self.now = 1000.0  #: seconds
        config = config or ControllerConfig()
        self.strategies = Strategies(config)
        kind = kind or (FederationInRounds if self.strategies.in_rounds else ContinuousFederation)
        self.federation: Federation = kind(FEDERATION, config, self.strategies, durable_every=durable_every)
        self.is_model_given = False
        self.records: list[RoundRecord] = []  #: by number
        self.saved: list[str] = []  #: standings, the latest last
        self.told: list[TaskId] = []  #: tasks whose updates were said to count
        self.offers: list[Task] = []
        self.withdrawn: list[Task] = []
        self.verdicts: dict[TaskId, tuple[Verdict, str]] = {}  #: of the learner that came last
        self.timers: dict[TimerName, float] = {}  #: when each is due
        self.events: list[Event] = []
        self.mean_of: list[Task] = []  #: updates in the accumulator
        self.aggregating: int | None = None  #: the version that the aggregator makes
        self.to_save = ""  #: with that version
        self.others: tuple[LearnerId, ...] = ()  #: whose latest updates are in it too
        self.forgotten: list[LearnerId] = []
        self.best_versions: list[int | None] = []  #: the models that were kept as the best, in order
        self.finish: Finish | None = None
        self.unsaved: list[int] = []  #: that wait for `save`
        self.answers: dict[StreamId, UpdateReply] = {}
        self.abandoned: set[StreamId] = set()
        self.streams: defaultdict[TaskId, list[StreamId]] = defaultdict(list)  #: that bring a task's update, in order
        self._number_of_streams = 0

    def hear(self, happened: happened.Input) -> list[Command]:
        """Let something happen, and carry out what follows."""
        commands = self.federation.handle(happened, self.now)
        for command in commands:
            self._do(command)
        return commands

    def _do(self, command: Command) -> None:
        assert self.finish is None or isinstance(command, Announce | Greet | Answer), command
        match command:
            case Greet(_, verdicts):
                self.verdicts = verdicts
            case Offer(learner, offer):
                assert learner in self.federation.connected
                task = self.federation.ledger.find(learner, offer.task_id)
                assert task is not None
                self.offers.append(task)
            case Count(learner, task_id):
                self.told.append(task_id)
            case Save(number, standing):
                self.saved.append(standing)
                self.unsaved.append(number)
            case Withdraw(learner, task_id, reason):
                # An evaluation of a learner that is away was never offered.
                of = [task for task in self.offers if (task.learner, task.id) == (learner, task_id)]
                assert all(task.reason == reason for task in of)
                self.withdrawn.extend(of[:1])
            case Receive() | Fold():
                pass
            case Abandon(stream):
                self.abandoned.add(stream)
            case Answer(stream, reply):
                assert stream not in self.answers
                self.answers[stream] = reply
            case StartTimer(name, seconds):
                self.timers[name] = self.now + seconds
            case StopTimer(name):
                self.timers.pop(name, None)
            case Aggregate(version, others, standing):
                self.aggregating, self.others, self.to_save = version, others, standing
            case Forget(learner):
                self.forgotten.append(learner)
                if self.strategies.rule.needs_previous and self.aggregating is None:
                    self.mean_of = [task for task in self.mean_of if task.learner != learner]
            case KeepBest():
                self.best_versions.append(self.federation.model_version)
            case Discard():
                self.mean_of.clear()
            case Announce(event):
                self.events.append(event)
                if isinstance(event, RoundFinished):
                    insort(self.records, event.record, key=lambda record: record.number)
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
        evaluates: bool = False,
    ) -> None:
        signals = signals or TerminationSignals(federation_rounds=1000)
        self.hear(happened.Start(signals, num_learners, seed, join_timeout_s, self.is_model_given, evaluates))

    def give_model(self) -> None:
        """Have the first weights before it starts."""
        self.is_model_given = True

    def save(self) -> None:
        """Let what is to be saved be saved."""
        while self.unsaved:
            self.hear(happened.Saved(self.unsaved.pop(0)))

    def stop(self, reason: str = "enough", *, is_failure: bool = False) -> list[Command]:
        return self.hear(happened.Stop(reason, is_failure))

    def wait(self, seconds: float) -> None:
        """Let time pass; timers fire when they are due."""
        until = self.now + seconds
        while self.timers and min(self.timers.values()) <= until:
            name = min(self.timers, key=self.timers.__getitem__)
            self.now = self.timers[name]
            self.fire(name)
        self.now = until

    def fire(self, name: TimerName) -> list[Command]:
        """Let a timer end now."""
        self.timers.pop(name, None)
        return self.hear(happened.TimerFired(name))

    # --- learners --------------------------------------------------------------------------------------------------

    def join(self, *learners: LearnerId) -> None:
        for learner in learners:
            self.come_back(learner)

    def come_back(
        self, learner: LearnerId, held: Collection[tuple[TaskId, bool]] = ()
    ) -> dict[TaskId, tuple[Verdict, str]]:
        """Connect with tasks that are held, each with whether it is done."""
        self.hear(happened.Joined(learner, [HeldTask(*task) for task in held]))
        return self.verdicts

    def disconnect(self, learner: LearnerId) -> None:
        self.hear(happened.Disconnected(learner, "its connection broke"))

    def leave(self, learner: LearnerId, reason: str = "it left") -> None:
        self.hear(happened.Left(learner, reason))

    def task(self, learner: LearnerId) -> Task:
        """The task that was offered to a learner last."""
        return next(task for task in reversed(self.offers) if task.learner == learner)

    def accept(self, *learners: LearnerId) -> None:
        for learner in learners:
            self.accepted(learner, self.task(learner).id)

    def accepted(self, learner: LearnerId, task_id: TaskId) -> list[Command]:
        return self.hear(happened.Accepted(learner, task_id))

    def fail(self, learner: LearnerId, message: str = "no data", error_type: str = "ValueError") -> None:
        self.failed(learner, self.task(learner).id, error_type, message)

    def failed(self, learner: LearnerId, task_id: TaskId, error_type: str, message: str) -> list[Command]:
        return self.hear(happened.Failed(learner, task_id, error_type, message))

    def served(self, learner: LearnerId, version: int) -> None:
        self.hear(happened.Served(learner, version))

    def moved(self, learner: LearnerId, *, sent: int = 0, received: int = 0, is_all: bool = False) -> None:
        self.hear(happened.Moved(learner, sent, received, is_all))

    def evaluate(self, *learners: LearnerId, **metrics: float) -> None:
        for learner in learners:
            self.evaluated(learner, self.task(learner).id, metrics)

    def evaluated(self, learner: LearnerId, task_id: TaskId, metrics: Metrics) -> list[Command]:
        return self.hear(happened.Evaluated(learner, task_id, metrics))

    # --- updates ---------------------------------------------------------------------------------------------------

    def admit(
        self, learner: LearnerId, task_id: TaskId, trained_from: int = 0, content: bytes = b"its"
    ) -> Task | UpdateReply:
        """Open a stream with the header of an update: what it is received for, or the answer."""
        self._number_of_streams += 1
        stream = StreamId(self._number_of_streams)
        self.hear(happened.Admit(stream, learner, task_id, trained_from, content))
        if (reply := self.answers.get(stream)) is not None:
            return reply
        self.streams[task_id].append(stream)
        task = self.federation.ledger.find(learner, task_id)
        assert task is not None
        return task

    def begin_upload(self, learner: LearnerId, trained_from: int = 0) -> Task:
        """Send the header of an update."""
        task = self.admit(learner, self.task(learner).id, trained_from)
        assert isinstance(task, Task)
        return task

    def upload(self, learner: LearnerId) -> Task:
        """Send all of an update; it is not folded yet."""
        task = self.begin_upload(learner)
        assert self.arrived(task) is None
        return task

    def arrived(self, task: Task) -> str | None:
        """Bring the latest stream of an update to its end: None if it is to be folded, or why not."""
        if not self.streams[task.id] and isinstance(reply := self.admit(task.learner, task.id), UpdateReply):
            return reply.reason
        stream = self._stream(task)
        commands = self.hear(happened.Arrived(stream))
        if any(isinstance(command, Fold) for command in commands):
            return None
        return self.answers[stream].reason if stream in self.answers else ""

    def interrupted(self, task: Task, *, oldest: bool = False) -> list[Command]:
        """Break the latest stream of an update, or the oldest."""
        return self.hear(happened.Interrupted(self._stream(task, 0 if oldest else -1)))

    def rejected(
        self, task: Task, error_type: str = "NotFinite", reason: str = "tensor '0' holds NaN"
    ) -> list[Command]:
        """Refuse the update of the latest stream."""
        return self.hear(happened.Rejected(self._stream(task), error_type, reason))

    def fold(self, task: Task, weight: float = 1.0, metadata: dict[str, Json] | None = None, **metrics: float) -> None:
        """Do what the aggregator does with a whole update."""
        self.mean_of.append(task)
        self.folded(task, weight, metrics, metadata)

    def folded(
        self, task: Task, weight: float, metrics: Metrics | None = None, metadata: dict[str, Json] | None = None
    ) -> list[Command]:
        return self.hear(happened.Folded(self._stream(task), weight, metrics or {}, metadata or {}))

    def _stream(self, task: Task, position: int = -1) -> StreamId:
        """Find a stream that brings a task's update, or make one up that nobody knows."""
        return self.streams[task.id][position] if self.streams[task.id] else StreamId(0)

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
        self.published(version)

    def published(self, version: int, selection_ms: float = 0.0) -> list[Command]:
        return self.hear(happened.Published(version, selection_ms))

    def unpublished(self, reason: str = "it is not finite", *, keeps_updates: bool = False) -> list[Command]:
        """End the aggregator's work on a mean without one."""
        self.aggregating = None
        if not keeps_updates:
            self.mean_of.clear()
        return self.hear(happened.Unpublished(reason, keeps_updates))

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
    sandbox.give_model()
    sandbox.start(len(learners), signals)
    sandbox.join(*learners)
    return sandbox
