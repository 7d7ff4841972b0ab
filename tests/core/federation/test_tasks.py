from __future__ import annotations

from itertools import product

import pytest

from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import LearnerId, TaskId

S = TaskState
OPEN = [S.PENDING, S.OFFERED, S.ACCEPTED, S.UPLOADING, S.STORED]
FINAL = [S.COUNTED, S.FAILED, S.LOST, S.EXPIRED, S.LATE, S.CANCELLED, S.REJECTED]

ALLOWED = {
    S.PENDING: {S.OFFERED, S.FAILED, S.LOST, S.EXPIRED, S.CANCELLED, S.REJECTED},
    S.OFFERED: {S.ACCEPTED, S.COUNTED, S.FAILED, S.LOST, S.EXPIRED, S.CANCELLED, S.REJECTED},
    S.ACCEPTED: {S.UPLOADING, S.COUNTED, S.FAILED, S.LOST, S.EXPIRED, S.CANCELLED, S.REJECTED},
    S.UPLOADING: {S.ACCEPTED, S.STORED, S.FAILED, S.LOST, S.EXPIRED, S.LATE, S.CANCELLED, S.REJECTED},
    S.STORED: {S.COUNTED, S.CANCELLED, S.REJECTED},  # nothing takes back an update that is here
}


def task_in(state: TaskState) -> Task:
    return Task(
        TaskId("1"), TaskKind.TRAIN, LearnerId("a"), round_number=1, model_version=0, part=LearnerRecord(), state=state
    )


def test_states_are_either_open_or_final() -> None:
    assert {state for state in S if not state.is_final} == set(OPEN)
    assert {state for state in S if state.is_final} == set(FINAL)


@pytest.mark.parametrize(("before", "after"), list(product(S, S)))
def test_a_task_moves_as_the_table_says_and_never_out_of_a_final_state(before: TaskState, after: TaskState) -> None:
    task = task_in(before)
    if after in ALLOWED.get(before, ()):
        task.move_to(after, "because")
        assert (task.state, task.reason) == (after, "because")
    else:
        with pytest.raises(AssertionError, match=f"task 1 cannot go from {before} to {after}"):
            task.move_to(after)
        assert (task.state, task.reason) == (before, "")


def test_a_new_task_is_pending_with_a_configuration_of_its_own() -> None:
    first, second = (Task(TaskId(name), TaskKind.EVALUATE, LearnerId("a"), 1, 0, LearnerRecord()) for name in "12")
    assert first.state is TaskState.PENDING
    assert first.config is not second.config
