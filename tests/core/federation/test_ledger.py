from __future__ import annotations

import pytest

from metisfl_async.core.federation import ledger as ledgers
from metisfl_async.core.federation.ledger import Ledger
from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.federation.tasks import Task, TaskKind, TaskState
from metisfl_async.core.ids import LearnerId, new_task_id


def ended(ledger: Ledger, learner: str) -> Task:
    """A task that was given and failed."""
    task = Task(new_task_id(), TaskKind.TRAIN, LearnerId(learner), 1, 0, LearnerRecord())
    ledger.assign(task)
    ledger.fail(task, TaskState.FAILED, "no data", "ValueError")
    return task


def test_the_last_two_tasks_of_a_learner_are_known() -> None:
    ledger = Ledger(lambda: 0.0)
    tasks = [ended(ledger, "a") for _ in range(3)]
    assert [ledger.find(LearnerId("a"), task.id) for task in tasks] == [None, *tasks[1:]]
    assert ledger.find(LearnerId("b"), tasks[-1].id) is None


def test_learners_that_were_asked_longest_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "MAX_LEARNERS", 2)
    ledger = Ledger(lambda: 0.0)
    first, second, again, third = (ended(ledger, name) for name in "abac")
    found = [ledger.find(task.learner, task.id) for task in (first, second, again, third)]
    assert found == [first, None, again, third]
