"""Tasks draw with seeds that are the same in each run, and another one for each learner, round and kind."""

from __future__ import annotations

from metisfl_async.core.federation.records import LearnerRecord
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.tasks import Task, TaskKind, seed_of
from metisfl_async.core.ids import LearnerId, TaskId


def task_of(
    kind: TaskKind = TaskKind.TRAIN, learner: str = "a", number: int = 1, task_id: str = "1", version: int = 0
) -> Task:
    return Task(TaskId(task_id), kind, LearnerId(learner), number, version, LearnerRecord())


def test_a_seed_follows_from_the_federations_the_learner_the_round_and_the_kind_alone() -> None:
    task = task_of()
    assert seed_of(1990, task) == seed_of(1990, task_of(task_id="2", version=5))
    others = [
        seed_of(1990, task),
        seed_of(1991, task),
        seed_of(1990, task_of(learner="b")),
        seed_of(1990, task_of(number=2)),
        seed_of(1990, task_of(TaskKind.EVALUATE)),
    ]
    assert len(set(others)) == 5
    assert all(0 < seed < 2**64 for seed in others)


def test_a_federation_that_goes_on_has_its_seed() -> None:
    standing = Standing(seed=7)
    assert Standing.from_json(standing.to_json()).seed == 7
