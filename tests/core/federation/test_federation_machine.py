"""A federation in rounds under anything that learners, the aggregator, timers and the driver may do, in any order."""

from __future__ import annotations

from collections import Counter

import pytest
from everyone import POOL, Everyone
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sandbox import Sandbox

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.events import TaskFailed, UpdateCounted
from metisfl_async.core.federation.tasks import TaskKind, TaskState
from metisfl_async.core.ids import TaskId


class FederationMachine(Everyone):
    def __init__(self) -> None:
        super().__init__()
        self.taken_back: set[TaskId] = set()  # updates of which no model came

    @initialize(
        min_learners=st.integers(1, 2),
        evaluate_every=st.integers(0, 2),
        has_deadline=st.booleans(),
        num_learners=st.integers(1, 3),
        num_joined=st.integers(0, 4),
        federation_rounds=st.integers(1, 5),
        cutoff_mins=st.none() | st.just(5.0),
        is_given=st.booleans(),
        seed=st.integers(0, 3),
    )
    def begin(  # noqa: PLR0917 - Hypothesis gives them by name
        self,
        min_learners: int,
        evaluate_every: int,
        has_deadline: bool,
        num_learners: int,
        num_joined: int,
        federation_rounds: int,
        cutoff_mins: float | None,
        is_given: bool,
        seed: int,
    ) -> None:
        self.sandbox = Sandbox(
            ControllerConfig(
                min_learners=min_learners,
                evaluate_every=evaluate_every,
                round_timeout_secs=30.0 if has_deadline else None,
                max_failed_rounds=3,
            )
        )
        self.federation = self.sandbox.federation
        signals = TerminationSignals(
            federation_rounds=federation_rounds,
            execution_cutoff_time_mins=cutoff_mins,
            evaluation_metric="accuracy" if evaluate_every else None,
            evaluation_metric_cutoff_score=1.0 if evaluate_every else None,
        )
        if is_given:
            self.sandbox.give_model()
        self.sandbox.start(num_learners, signals, seed=seed, join_timeout_s=60.0)
        for learner in POOL[:num_joined]:
            self.join(learner, True, False, False)

    @precondition(Everyone.aggregating)
    @rule()
    def publish(self) -> None:
        mean_of = [*self.sandbox.mean_of]
        number, version = mean_of[0].round_number, mean_of[0].model_version
        assert len(mean_of) >= self.federation.config.min_learners
        assert len({task.learner for task in mean_of}) == len(mean_of)
        for task in mean_of:
            assert (task.state, task.round_number, task.model_version) == (TaskState.FOLDED, number, version)
        assert self.sandbox.aggregating == version + 1
        self.sandbox.publish()
        assert self.federation.model_version == version + 1
        assert [task.state for task in mean_of] == [TaskState.COUNTED] * len(mean_of)

    @precondition(Everyone.aggregating)
    @rule(keeps_updates=st.booleans())
    def unpublish(self, keeps_updates: bool) -> None:
        mean_of, version = [*self.sandbox.mean_of], self.federation.model_version
        self.sandbox.unpublished(keeps_updates=keeps_updates)
        assert self.federation.model_version == version
        if not keeps_updates:
            self.taken_back |= {task.id for task in mean_of}
            assert {task.state for task in mean_of} == {TaskState.REJECTED}
        elif not self.federation.is_finished:
            assert {task.state for task in mean_of} == {TaskState.FOLDED}

    @invariant()
    def the_accumulator_holds_each_update_that_is_folded_and_in_no_model_once(self) -> None:
        if self.federation.is_finished:
            return
        folded = [task for task in self.tasks() if task.state is TaskState.FOLDED]
        assert sorted(task.id for task in self.sandbox.mean_of) == sorted(task.id for task in folded)
        assert len({task.learner for task in folded}) == len(folded)

    @invariant()
    def the_word_counted_is_said_once_for_each_update_that_is_in_a_model(self) -> None:
        counted = [task for task in self.tasks() if task.state is TaskState.COUNTED and task.kind is TaskKind.TRAIN]
        assert sorted(self.sandbox.told) == sorted(task.id for task in counted)
        events = self.sandbox.events_of(UpdateCounted)
        assert sorted((event.learner, event.model_version) for event in events) == sorted(
            (task.learner, task.model_version + 1) for task in counted
        )
        in_records = Counter(name for record in self.sandbox.records for name in record.participants)
        if self.federation.phase not in (Phase.EVALUATING, Phase.TRAINING):
            assert in_records == Counter(task.learner for task in counted)

    @invariant()
    def something_is_awaited_of_someone_who_can_still_deliver(self) -> None:
        phase = self.federation.phase
        if phase not in (Phase.INITIALISING, Phase.TRAINING, Phase.EVALUATING):
            return
        open_tasks = [task for task in self.tasks() if not task.state.is_final]
        for task in open_tasks:
            assert task.learner in self.present or task.state in (TaskState.RECEIVED, TaskState.FOLDED)
        away = self.present - set(self.federation.connected)  # may be asked to evaluate when they come back
        assert open_tasks or (phase is Phase.EVALUATING and away)
        here = {TaskState.RECEIVED, TaskState.FOLDED}
        kind = {Phase.INITIALISING: TaskKind.GET_WEIGHTS, Phase.TRAINING: TaskKind.TRAIN}.get(phase, TaskKind.EVALUATE)
        assert {task.kind for task in open_tasks} <= {kind}
        if self.federation.config.round_timeout_secs is not None:
            assert "phase" in self.sandbox.timers or {task.state for task in open_tasks} <= here

    @invariant()
    def what_does_not_count_is_said_once(self) -> None:
        unsuccessful = [task for task in self.tasks() if task.state.is_final and task.state is not TaskState.COUNTED]
        said = self.sandbox.events_of(TaskFailed)
        never_offered = len(said) - len(unsuccessful)  # evaluations of learners that were away
        assert never_offered >= 0
        assert not never_offered or any(event.task == "evaluate" for event in said)
        for task in unsuccessful:
            told = self.sandbox.withdrawn.count(task)
            is_withdrawn = task.state in (TaskState.EXPIRED, TaskState.LATE, TaskState.CANCELLED)
            assert told == (is_withdrawn or task.id in self.taken_back)

    @invariant()
    def rounds_are_numbered_without_gaps(self) -> None:
        number = 1
        for record in self.sandbox.records:
            assert record.number == number
            assert record.bytes_sent == record.bytes_received == sum(p.bytes_sent for p in record.learners.values())
            number += record.is_published


TestFederationMachine = pytest.mark.slow(FederationMachine.TestCase)
TestFederationMachine.settings = settings(max_examples=200, stateful_step_count=60)
