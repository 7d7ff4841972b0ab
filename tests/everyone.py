"""Anything that learners, the aggregator, timers and the driver may do to a federation, in any order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sandbox import STRANGE, A, B, C, D, Sandbox

from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.commands import Fold
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState, Verdict
from metisfl_async.core.ids import LearnerId, StreamId, TaskId
from metisfl_async.core.messages import Outcome, UpdateReply

T = TypeVar("T")
POOL = [A, B, C, D]
learners = st.sampled_from(POOL)
index = st.integers(0, 1000)  #: into whatever there is, from its end


def pick(items: list[T], position: int) -> T:
    return items[-1 - position % len(items)]


@dataclass
class Stream:
    """An update on its way."""

    task: Task
    id: StreamId
    is_latest: bool = True  #: the controller reads only the latest stream of a task


class Everyone(RuleBasedStateMachine):
    """Plays everyone around a federation, and keeps books of its own; a subclass starts it and says what holds."""

    def __init__(self) -> None:
        super().__init__()
        self.sandbox: Sandbox  # made by the subclass's `begin`
        self.federation: Federation
        self.present: set[LearnerId] = set()
        self.streams: list[Stream] = []
        self.whole: list[Task] = []  # in the aggregator's queue
        self.trained_from: dict[TaskId, int] = {}  # where it is not the model in the task as it was offered
        self.endings: dict[TaskId, TaskState] = {}

    def tasks(self) -> list[Task]:
        """All that were offered, each once."""
        return list({task.id: task for task in self.sandbox.offers}.values())

    # --- learners come and go --------------------------------------------------------------------------------------

    @rule(learner=learners, forgets=st.booleans(), is_done=st.booleans(), is_odd=st.booleans())
    def join(self, learner: LearnerId, forgets: bool, is_done: bool, is_odd: bool) -> None:
        mine = {task.id: task for task in self.tasks() if task.learner == learner}
        held = [] if forgets else [(task_id, is_done) for task_id in list(mine)[-2:]]
        if is_odd:
            held += [(STRANGE, True), *((task.id, True) for task in self.tasks() if task.learner != learner)]
        verdicts = self.sandbox.come_back(learner, held)
        self.present.add(learner)
        assert list(verdicts) == [task_id for task_id, _ in held]
        for task_id, (verdict, reason) in verdicts.items():
            is_wanted = task_id in mine and not mine[task_id].state.is_final
            counts = task_id in mine and mine[task_id].state is TaskState.COUNTED
            counts = counts and mine[task_id].kind is not TaskKind.EVALUATE
            assert (verdict is Verdict.COUNTED) == counts
            assert (verdict is Verdict.DISCARD) == (not is_wanted and verdict is not Verdict.COUNTED)
            assert (verdict is Verdict.KEEP) == (task_id in mine and mine[task_id].state is TaskState.FOLDED)
            assert reason

    @rule(learner=learners, for_good=st.booleans())
    def go(self, learner: LearnerId, for_good: bool) -> None:
        if for_good:
            self.sandbox.leave(learner)
            self.present.discard(learner)
        else:
            self.sandbox.disconnect(learner)

    # --- and work, or do not ---------------------------------------------------------------------------------------

    def offered(self) -> bool:
        return bool(self.sandbox.offers)

    @precondition(offered)
    @rule(
        position=index,
        steps=st.integers(1, 20),
        accuracy=st.sampled_from([0.0, 0.5, 0.75]),
        leaves=st.none() | st.integers(0, 1),
        comes_back=st.booleans(),
    )
    def work(self, position: int, steps: int, accuracy: float, leaves: int | None, comes_back: bool) -> None:
        """Do well for some steps, so that there is something to disturb; one may leave while a model is made."""
        for _ in range(steps):
            todo = [task for task in self.tasks() if not task.state.is_final]
            if self.aggregating():
                if leaves is not None:
                    learner = pick(self.sandbox.mean_of, leaves).learner
                    self.go(learner, True)
                    if comes_back:
                        self.join(learner, True, False, False)
                if self.aggregating():
                    self.publish()
            elif self.whole:
                self.fold(1.0, True)
            elif todo:
                self.advance(pick(todo, position), accuracy)

    def advance(self, task: Task, accuracy: float) -> None:
        streams = [stream for stream in self.streams if stream.task is task]
        place = self.sandbox.offers[::-1].index(task)
        if task.state is TaskState.OFFERED:
            self.accept(place, None)
        elif task.kind is TaskKind.EVALUATE:
            self.evaluate(place, None, accuracy)
        elif streams:
            self.end_upload(self.streams[::-1].index(streams[-1]), "whole")
        else:
            self.begin_upload(place, None)

    @precondition(offered)
    @rule(position=index, sender=st.none() | learners)
    def accept(self, position: int, sender: LearnerId | None) -> None:
        task = pick(self.sandbox.offers, position)
        self.sandbox.accepted(sender or task.learner, task.id)

    @precondition(offered)
    @rule(position=index, sender=st.none() | learners)
    def fail(self, position: int, sender: LearnerId | None) -> None:
        task = pick(self.sandbox.offers, position)
        self.sandbox.failed(sender or task.learner, task.id, "ValueError", "no data")

    @precondition(offered)
    @rule(position=index, sender=st.none() | learners, accuracy=st.sampled_from([0.0, 0.5, 1.0]))
    def evaluate(self, position: int, sender: LearnerId | None, accuracy: float) -> None:
        task = pick(self.sandbox.offers, position)
        self.sandbox.evaluated(sender or task.learner, task.id, {"accuracy": accuracy})

    @precondition(offered)
    @rule(position=index, sender=st.none() | learners)
    def begin_upload(self, position: int, sender: LearnerId | None) -> None:
        task = pick(self.sandbox.offers, position)
        is_its_own = sender in (None, task.learner) and task.kind is not TaskKind.EVALUATE
        is_over = task.state.is_final
        admitted = self.sandbox.admit(sender or task.learner, task.id, self.trained_from.get(task.id, 0))
        if isinstance(admitted, UpdateReply):
            assert admitted.reason or admitted.outcome is Outcome.FOLDED
            assert is_over or not is_its_own or task.state is TaskState.FOLDED
            assert not admitted.is_counted or (is_its_own and task.state is TaskState.COUNTED)
            return
        assert admitted is task
        assert is_its_own
        assert not is_over
        if task.state is TaskState.UPLOADING:
            for stream in self.streams:
                stream.is_latest &= stream.task is not task
            self.streams.append(Stream(task, self.sandbox.streams[task.id][-1]))

    def uploading(self) -> bool:
        return bool(self.streams)

    @precondition(uploading)
    @rule(position=index, how=st.sampled_from(["whole", "whole", "broken", "damaged"]))
    def end_upload(self, position: int, how: str) -> None:
        stream = pick(self.streams, position)
        self.streams.remove(stream)
        task, was = stream.task, stream.task.state
        if how == "broken":
            self.sandbox.hear(happened.Interrupted(stream.id))
        elif how == "damaged":
            self.sandbox.hear(happened.Rejected(stream.id, "Damaged", "end frame"))
            assert task.state.is_final or not stream.is_latest
        else:
            is_wanted = stream.is_latest and was is TaskState.UPLOADING
            commands = self.sandbox.hear(happened.Arrived(stream.id))
            assert any(isinstance(command, Fold) for command in commands) == is_wanted
            if is_wanted:
                self.whole.append(task)

    def folding(self) -> bool:
        return bool(self.whole) and (self.sandbox.aggregating is None or self.federation.is_finished)

    @precondition(folding)
    @rule(weight=st.sampled_from([1.0, 7.0]), is_finite=st.sampled_from([True, True, True, False]))
    def fold(self, weight: float, is_finite: bool) -> None:
        task = self.whole.pop(0)
        if not is_finite:
            self.sandbox.rejected(task, "NotFinite", "tensor '0' holds NaN")
        elif task.state is TaskState.RECEIVED and task.kind is TaskKind.TRAIN:
            self.sandbox.fold(task, weight)
        else:
            self.sandbox.folded(task, weight, {}, {})

    @rule(learner=learners, size_bytes=st.integers(0, 9))
    def move(self, learner: LearnerId, size_bytes: int) -> None:
        self.sandbox.moved(learner, sent=size_bytes, received=size_bytes)

    # --- the aggregator, the clock and the driver ------------------------------------------------------------------

    def aggregating(self) -> bool:
        return self.sandbox.aggregating is not None and not self.federation.is_finished

    @precondition(aggregating)
    @rule()
    def publish(self) -> None:
        self.sandbox.publish()

    @rule(seconds=st.sampled_from([0.0, 1.0, 9.0, 31.0, 65.0]))
    def wait(self, seconds: float) -> None:
        self.sandbox.wait(seconds)

    @rule(dice=st.integers(0, 50))
    def meddle(self, dice: int) -> None:
        if dice == 37:
            self.sandbox.stop("enough", Ending.QUORUM_LOST)
        else:
            with pytest.raises(UnexpectedMessage):
                self.sandbox.start(1)

    # --- what always holds -----------------------------------------------------------------------------------------

    @invariant()
    def a_final_state_never_changes(self) -> None:
        for task in self.sandbox.offers:
            if task.state.is_final:
                assert self.endings.setdefault(task.id, task.state) is task.state

    @invariant()
    def gathering_has_an_end_and_lacks_learners(self) -> None:
        if self.federation.phase is Phase.GATHERING:
            assert "gather" in self.sandbox.timers
            assert len(self.federation.connected) < 3

    @invariant()
    def the_end_settles_every_task(self) -> None:
        if self.federation.is_finished:
            assert self.sandbox.finish is not None
            assert self.sandbox.timers == {}
            assert all(task.state.is_final for task in self.sandbox.offers)

    def teardown(self) -> None:
        """However it stands, it ends when all streams end, all learners leave and nobody comes back."""
        if not hasattr(self, "sandbox"):
            return
        for stream in self.streams:
            self.sandbox.hear(happened.Interrupted(stream.id))
        for learner in POOL:
            self.go(learner, True)
        while self.whole or self.aggregating():
            if self.folding():
                self.fold(1.0, True)
            else:
                self.publish()
        self.sandbox.wait(1000.0)
        assert self.federation.is_finished
        self.the_end_settles_every_task()
