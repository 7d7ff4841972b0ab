"""A federation in rounds under anything that learners, the aggregator, timers and the driver may do, in any order."""

from __future__ import annotations

from everyone import POOL, Everyone
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from sandbox import Sandbox

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation.events import RoundStarted, TaskFailed, UpdateCounted
from metisfl_async.core.federation.federation import Phase
from metisfl_async.core.federation.tasks import TaskKind, TaskState


class FederationMachine(Everyone):
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
            evaluation_metric="accuracy",
            evaluation_metric_cutoff_score=1.0,
        )
        if is_given:
            self.sandbox.act(self.federation.model_given())
        self.sandbox.start(num_learners, signals, seed=seed, join_timeout_s=60.0)
        for learner in POOL[:num_joined]:
            self.join(learner, True, False, False)

    @precondition(Everyone.aggregating)
    @rule()
    def publish(self) -> None:
        mean_of = self.sandbox.mean_of
        number, version = mean_of[0].round_number, mean_of[0].model_version
        assert len(mean_of) >= self.federation.config.min_learners
        assert len({task.learner for task in mean_of}) == len(mean_of)
        for task in mean_of:
            assert (task.state, task.round_number, task.model_version) == (TaskState.COUNTED, number, version)
        assert self.sandbox.aggregating == version + 1
        self.sandbox.publish()
        assert self.federation.model_version == version + 1

    @invariant()
    def the_accumulator_holds_each_counted_update_of_the_open_round_once(self) -> None:
        started = self.sandbox.events_of(RoundStarted)
        if self.federation.phase not in (Phase.TRAINING, Phase.AGGREGATING):
            assert self.sandbox.mean_of == []
        else:
            counted = {}
            position = len(self.sandbox.events) - 1 - self.sandbox.events[::-1].index(started[-1])
            for event in self.sandbox.events[position:]:
                if isinstance(event, UpdateCounted):
                    assert event.learner not in counted
                    assert event.learner in started[-1].cohort
                    counted[event.learner] = event.weight
            assert [task.learner for task in self.sandbox.mean_of] == list(counted)

    @invariant()
    def something_is_awaited_of_someone_who_can_still_deliver(self) -> None:
        phase = self.federation.phase
        if phase not in (Phase.INITIALISING, Phase.TRAINING, Phase.EVALUATING):
            return
        open_tasks = [task for task in self.tasks() if not task.state.is_final]
        for task in open_tasks:
            assert task.learner in self.present or task.state is TaskState.STORED
        away = self.present - set(self.federation.connected)  # may be asked to evaluate when they come back
        assert open_tasks or (phase is Phase.EVALUATING and away)
        kind = {Phase.INITIALISING: TaskKind.GET_WEIGHTS, Phase.TRAINING: TaskKind.TRAIN}.get(phase, TaskKind.EVALUATE)
        assert {task.kind for task in open_tasks} <= {kind}
        if self.federation.config.round_timeout_secs is not None:
            assert "phase" in self.sandbox.timers or {task.state for task in open_tasks} == {TaskState.STORED}

    @invariant()
    def what_does_not_count_is_said_once(self) -> None:
        unsuccessful = [task for task in self.tasks() if task.state.is_final and task.state is not TaskState.COUNTED]
        said = self.sandbox.events_of(TaskFailed)
        never_offered = len(said) - len(unsuccessful)  # evaluations of learners that were away
        assert never_offered >= 0
        assert not never_offered or any(event.task == "evaluate" for event in said)
        for task in unsuccessful:
            told = self.sandbox.withdrawn.count(task)
            assert told == (task.state in (TaskState.EXPIRED, TaskState.LATE, TaskState.CANCELLED))

    @invariant()
    def rounds_are_numbered_without_gaps(self) -> None:
        number = 1
        for record in self.federation.records:
            assert record.number == number
            assert record.bytes_sent == record.bytes_received == sum(p.bytes_sent for p in record.learners.values())
            number += record.is_published


TestFederationMachine = FederationMachine.TestCase
TestFederationMachine.settings = settings(max_examples=200, stateful_step_count=60)
