"""A federation without rounds under anything that may happen to it, in any order."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from everyone import POOL, Everyone, index, pick
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sandbox import Sandbox

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.course import LEFT_BEFORE, Phase
from metisfl_async.core.federation.events import ModelPublished, RoundFinished, RoundStarted, TaskFailed, UpdateFolded
from metisfl_async.core.federation.tasks import TaskKind, TaskState
from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff


class ContinuousMachine(Everyone):
    """Beside what `Everyone` does, learners fetch models, and updates wait while a model is made."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: Counter[TaskId] = Counter()
        self.folded: set[TaskId] = set()  # tasks whose updates were folded, whatever came after
        self.seen = 0  # events that are in the books
        self.num_published = 0
        self.pending: list[tuple[LearnerId, float]] = []  # counted since the latest model
        self.counted: dict[int, list[tuple[LearnerId, float]]] = {}  # by the model that they went into
        self.failed_since: set[LearnerId] = set()  # since the latest model
        self.shares: set[LearnerId] = set()  # who is in the sum of a rule that sums up everybody's latest
        self.num_forgotten = 0

    @initialize(
        aggregation_rule=st.sampled_from(["FedRec", "FedAvg", FedBuff(3)]),
        min_learners=st.integers(1, 2),
        participation_ratio=st.sampled_from([1.0, 1.0, 0.5]),
        evaluate_every=st.sampled_from([0, 1, 3]),
        has_deadline=st.booleans(),
        num_learners=st.integers(1, 3),
        num_joined=st.integers(0, 4),
        global_updates=st.none() | st.integers(1, 8),
        is_given=st.booleans(),
        seed=st.integers(0, 3),
    )
    def begin(  # noqa: PLR0917 - Hypothesis gives them by name
        self,
        aggregation_rule: str | FedBuff,
        min_learners: int,
        participation_ratio: float,
        evaluate_every: int,
        has_deadline: bool,
        num_learners: int,
        num_joined: int,
        global_updates: int | None,
        is_given: bool,
        seed: int,
    ) -> None:
        self.sandbox = Sandbox(
            ControllerConfig(
                scheduler="Asynchronous",
                aggregation_rule=aggregation_rule,
                min_learners=min_learners,
                participation_ratio=participation_ratio,
                evaluate_every=evaluate_every,
                round_timeout_secs=30.0 if has_deadline else None,
            )
        )
        self.federation = self.sandbox.federation
        self.global_updates = global_updates
        signals = TerminationSignals(
            global_updates=global_updates,
            execution_cutoff_time_mins=5.0,
            evaluation_metric="accuracy" if evaluate_every else None,
            evaluation_metric_cutoff_score=1.0 if evaluate_every else None,
        )
        if is_given:
            self.sandbox.give_model()
        self.sandbox.start(num_learners, signals, seed=seed, join_timeout_s=60.0)
        for learner in POOL[:num_joined]:
            self.join(learner, True, False, False)

    # --- what can happen only here ---------------------------------------------------------------------------------

    def working(self) -> bool:
        return any(task.state is TaskState.ACCEPTED for task in self.tasks())

    @precondition(working)
    @rule(position=index, is_trained=st.booleans())
    def fetch(self, position: int, is_trained: bool) -> None:
        """Get the newest model, whatever the task says, and train it, or not."""
        task = pick([task for task in self.tasks() if task.state is TaskState.ACCEPTED], position)
        if self.federation.model_version is not None:
            self.sandbox.served(task.learner, self.federation.model_version)
            if is_trained:
                self.trained_from[task.id] = self.federation.model_version

    @rule(learner=st.sampled_from(POOL), for_good=st.booleans())
    def go(self, learner: LearnerId, for_good: bool) -> None:
        super().go(learner, for_good)
        self.read_forgotten()  # now: it may come back and report before the step is over

    @rule(learner=st.sampled_from(POOL), size_bytes=st.integers(0, 9))
    def move(self, learner: LearnerId, size_bytes: int) -> None:
        for task in self.tasks():
            if task.learner == learner and not task.state.is_final and task.state is not TaskState.FOLDED:
                self.sent[task.id] += size_bytes
        super().move(learner, size_bytes)

    @precondition(Everyone.aggregating)
    @rule()
    def publish(self) -> None:
        self.read_events()
        sandbox, rule_ = self.sandbox, self.sandbox.strategies.rule
        mean_of = [task.learner for task in sandbox.mean_of]
        assert mean_of == [learner for learner, _ in self.pending]
        assert len(mean_of) >= rule_.updates_per_version
        assert sandbox.aggregating == (self.federation.model_version or 0) + 1
        if not rule_.starts_afresh or len(set(mean_of)) > 1:
            assert sandbox.others == ()
        sandbox.publish()

    @precondition(Everyone.folding)
    @rule(weight=st.sampled_from([1.0, 7.0]), is_finite=st.sampled_from([True, True, True, False]))
    def fold(self, weight: float, is_finite: bool) -> None:
        self.read_forgotten()
        task, version = self.whole[0], self.federation.model_version
        super().fold(weight, is_finite)
        if task.kind is TaskKind.TRAIN and task.state is TaskState.FOLDED and version is not None:
            self.shares.add(task.learner)
            self.folded.add(task.id)
            assert task.part.staleness == version - self.trained_from.get(task.id, task.model_version)

    # --- what always holds -----------------------------------------------------------------------------------------

    def read_events(self) -> None:
        """Bring the books up to date."""
        events, self.seen = self.sandbox.events[self.seen :], len(self.sandbox.events)
        for event in events:
            match event:
                case UpdateFolded(number, learner, weight):
                    assert number == self.num_published + 1
                    self.pending.append((LearnerId(learner), weight))
                case ModelPublished(number, version):
                    self.num_published += 1
                    assert (number, version) == (self.num_published, self.num_published)
                    self.counted[number], self.pending = self.pending, []
                    self.failed_since.clear()
                case TaskFailed(_, learner, "train", _, message):
                    self.failed_since.add(LearnerId(learner))
                    if message == LEFT_BEFORE:  # its share was taken out
                        self.pending.remove(next(each for each in self.pending if each[0] == learner))
                case RoundStarted(number, version, cohort):
                    assert (number, version) == (self.num_published + 1, self.num_published)
                    assert cohort

    @invariant()
    def each_update_counts_once(self) -> None:
        self.read_events()
        states = Counter(task.state for task in self.tasks() if task.kind is TaskKind.TRAIN)
        assert states[TaskState.COUNTED] == sum(map(len, self.counted.values())) == len(self.sandbox.told)
        assert self.federation.is_finished or states[TaskState.FOLDED] == len(self.pending)

    @invariant()
    def nobody_is_idle_without_a_reason(self) -> None:
        self.read_events()
        federation, config = self.federation, self.federation.config
        awaited = {task.learner for task in self.tasks() if not task.state.is_final}
        if federation.phase is not Phase.TRAINING or self.sandbox.aggregating is not None:
            return
        assert awaited
        if federation.num_connected < config.min_learners:
            return
        idle = set(federation.connected) - awaited - self.failed_since
        size = max(math.ceil(config.participation_ratio * len(idle | awaited)), config.min_learners)
        assert not idle or len(awaited) >= size

    @invariant()
    def what_is_awaited_can_come(self) -> None:
        for task in self.tasks():
            is_here = task.state in (TaskState.RECEIVED, TaskState.FOLDED)
            assert task.state.is_final or task.learner in self.present or is_here
        if self.federation.phase is Phase.EVALUATING:
            open_tasks = [task for task in self.tasks() if not task.state.is_final]
            assert {task.kind for task in open_tasks} == {TaskKind.EVALUATE}
        if self.federation.phase in (Phase.TRAINING, Phase.EVALUATING) and self.federation.config.round_timeout_secs:
            assert "phase" in self.sandbox.timers

    @invariant()
    def no_more_models_are_made_than_asked_for(self) -> None:
        self.read_events()
        if self.global_updates is not None:
            assert self.num_published <= self.global_updates
            if self.num_published == self.global_updates:
                assert self.federation.phase in (Phase.EVALUATING, Phase.FINISHED)

    @invariant()
    def each_model_has_one_record(self) -> None:
        self.read_events()
        records = self.sandbox.records
        closed = sorted(event.record.number for event in self.sandbox.events_of(RoundFinished))
        assert closed == [record.number for record in records]
        published = [record for record in records if record.is_published]
        numbers = [record.number for record in published]
        assert numbers == sorted(set(numbers))
        assert set(numbers) <= set(range(1, self.num_published + 1))
        for record in published:
            assert record.participants == sorted(learner for learner, _ in self.counted[record.number])
            last = dict(self.counted[record.number])
            assert {name: record.learners[name].weight for name in last} == last
            assert {record.learners[name].train_state for name in last} == {"counted"}
            assert record.model_version == record.number - 1
        for record in records:
            assert record.bytes_sent == record.bytes_received == sum(p.bytes_sent for p in record.learners.values())

    @invariant()
    def at_the_end_everything_is_in_a_record(self) -> None:
        self.read_events()
        if not self.federation.is_finished:
            return
        records, tasks = self.sandbox.records, self.tasks()
        assert [record.number for record in records if record.is_published] == list(range(1, self.num_published + 1))
        assert not any(record.participants for record in records if not record.is_published)
        told = [
            task
            for task in tasks
            if task.kind is not TaskKind.GET_WEIGHTS
            and (task.kind is TaskKind.EVALUATE or task.state is not TaskState.CANCELLED or task.id in self.folded)
        ]
        assert sum(self.sent[task.id] for task in told) == sum(record.bytes_sent for record in records)
        failures = [failure for record in records for part in record.learners.values() for failure in part.failures]
        assert len(failures) == sum(task.state is not TaskState.COUNTED for task in told)

    def read_forgotten(self) -> None:
        """Take out the shares that the aggregator was told to take out."""
        forgotten, self.num_forgotten = self.sandbox.forgotten[self.num_forgotten :], len(self.sandbox.forgotten)
        self.shares -= set(forgotten)

    @invariant()
    def only_those_present_have_a_share(self) -> None:
        self.read_forgotten()
        assert self.federation.is_finished or self.shares <= self.present


TestContinuousMachine = pytest.mark.slow(ContinuousMachine.TestCase)
TestContinuousMachine.settings = settings(max_examples=200, stateful_step_count=60)
