"""What a federation decides when it is taken up again, without processes: each of these was lost, doubled or hung."""

from __future__ import annotations

from sandbox import FEDERATION, STRANGE, A, B, Sandbox

from metisfl_async.core.config import ControllerConfig, TerminationSignals
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.events import FederationFinished
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.tasks import HeldTask, Task, TaskKind, TaskState, Verdict
from metisfl_async.core.ids import LearnerId, ModelRef, TaskId
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff

SIGNALS = TerminationSignals(global_updates=10)
WITHOUT_ROUNDS = ControllerConfig(aggregation_rule=FedBuff(3), scheduler="Asynchronous", evaluate_every=0)


def resumed(config: ControllerConfig, standing: str, version: int | None) -> Sandbox:
    sandbox = Sandbox(config, durable_every=1)
    sandbox.hear(happened.Resume(Standing.from_json(standing), version))
    return sandbox


def begun(num_learners: int = 1) -> Sandbox:
    """Take up a federation without rounds that was started, and of which no model was made."""
    start = happened.Start(SIGNALS, num_learners, 1990, None, True)
    standing = Sandbox(WITHOUT_ROUNDS, durable_every=1).federation.as_started(start)
    return resumed(WITHOUT_ROUNDS, standing, 0)


def comes_with(sandbox: Sandbox, learner: LearnerId, **held: bool) -> dict[TaskId, tuple[Verdict, str]]:
    tasks = [HeldTask(TaskId(name), done, "train", ModelRef(FEDERATION, 0)) for name, done in held.items()]
    sandbox.hear(happened.Joined(learner, tasks))
    return sandbox.verdicts


def uploaded(sandbox: Sandbox, learner: LearnerId, name: str) -> Task:
    task = sandbox.admit(learner, TaskId(name))
    assert isinstance(task, Task)
    assert sandbox.arrived(task) is None
    return task


def test_a_federation_that_waited_for_its_learners_waits_for_as_many_again() -> None:
    sandbox = begun(num_learners=2)
    assert sandbox.federation.standing.first_weights == "given"
    sandbox.join(A)
    assert sandbox.phase() is Phase.GATHERING
    sandbox.join(B)
    assert sandbox.phase() is Phase.TRAINING


def test_one_that_is_finished_says_so_again_and_who_has_not_heard_it() -> None:
    sandbox = Sandbox(durable_every=1)
    sandbox.give_model()
    sandbox.join(A)
    sandbox.start()
    sandbox.stop("enough", ending=Ending.STORE_FAILED)
    again = resumed(ControllerConfig(), sandbox.saved[-1], 0)
    assert again.phase() is Phase.FINISHED
    assert again.events_of(FederationFinished) == [FederationFinished("enough", True, Ending.STORE_FAILED)]
    assert list(again.federation.returning) == [A]
    verdicts = again.come_back(A, [(TaskId("x" * 32), True)])  # it was awaited when the end came
    assert verdicts == {"x" * 32: (Verdict.DISCARD, "the federation ended")}
    assert not again.federation.returning


def test_all_that_a_learner_holds_is_taken_up_and_comes_in_any_order() -> None:
    sandbox = begun()
    verdicts = comes_with(sandbox, A, first=True, second=True, third=False)
    assert [verdict for verdict, _ in verdicts.values()] == [Verdict.UPLOAD, Verdict.UPLOAD, Verdict.CONTINUE]
    for name in ("third", "first", "second"):
        sandbox.fold(uploaded(sandbox, A, name))
    assert sandbox.aggregating == 1
    sandbox.publish()
    assert sorted(sandbox.told) == ["first", "second", "third"]
    assert sandbox.federation.standing.num_published == 1


def test_a_newer_model_may_be_fetched_for_any_task_that_a_learner_holds() -> None:
    sandbox = begun(num_learners=2)
    comes_with(sandbox, A, first=True, second=False)
    comes_with(sandbox, B, a=True, b=True, c=True)
    for name in "abc":
        sandbox.fold(uploaded(sandbox, B, name))
    sandbox.publish()
    sandbox.served(A, 1)
    second, first = (
        sandbox.admit(A, TaskId(name), trained_from) for name, trained_from in (("second", 1), ("first", 0))
    )
    assert isinstance(second, Task)
    assert isinstance(first, Task)
    assert (second.model_version, first.model_version) == (1, 0)


def test_what_a_learner_does_not_hold_any_more_is_given_up_all_of_it() -> None:
    sandbox = begun(num_learners=2)
    comes_with(sandbox, A, first=True, second=False)
    tasks = sandbox.federation.ledger.open_of(A)
    sandbox.disconnect(A)
    comes_with(sandbox, A, first=True)
    assert [task.state for task in tasks] == [TaskState.ACCEPTED, TaskState.LOST]
    comes_with(sandbox, A, first=True, third=False)
    tasks = sandbox.federation.ledger.open_of(A)
    sandbox.leave(A)
    assert [task.state for task in tasks] == [TaskState.LOST, TaskState.LOST]


def test_an_update_that_comes_while_learners_gather_is_in_the_record_of_its_model() -> None:
    sandbox = begun(num_learners=2)
    comes_with(sandbox, A, first=True)
    sandbox.fold(uploaded(sandbox, A, "first"))
    assert sandbox.phase() is Phase.GATHERING
    comes_with(sandbox, B, second=True, third=True)
    sandbox.fold(uploaded(sandbox, B, "second"))
    sandbox.fold(uploaded(sandbox, B, "third"))
    sandbox.publish()
    assert sandbox.records[0].participants == [A, B, B]


def test_no_model_is_made_while_an_update_may_be_on_its_way_into_the_sum() -> None:
    sandbox = begun(num_learners=2)
    comes_with(sandbox, A, a=True, b=True, c=True, d=True)
    for name in "abc":
        sandbox.fold(uploaded(sandbox, A, name))
    on_its_way = uploaded(sandbox, A, "d")
    sandbox.join(B)  # now they are enough
    assert sandbox.aggregating is None
    sandbox.fold(on_its_way)
    assert sandbox.aggregating == 1
    assert sorted(Standing.from_json(sandbox.to_save).counted[A]) == ["a", "b", "c", "d"]


def test_what_counted_is_known_until_its_learner_has_accepted_another_task_since() -> None:
    sandbox = begun()
    names = comes_with(sandbox, A, a=True, b=True, c=True)
    for name in names:
        sandbox.fold(uploaded(sandbox, A, name))
    sandbox.wait(1.0)
    sandbox.publish()
    sandbox.disconnect(A)  # before it heard of any
    assert {verdict for verdict, _ in comes_with(sandbox, A, a=True, b=True, c=True).values()} == {Verdict.COUNTED}
    task = next(task for task in sandbox.federation.ledger.open_of(A) if task.kind is TaskKind.TRAIN)
    sandbox.accepted(A, task.id)
    assert sandbox.federation.ledger.find(A, TaskId("a")) is None
    assert sandbox.federation.ledger.find(A, STRANGE) is None


def test_the_record_of_a_model_that_is_being_measured_keeps_its_participants() -> None:
    sandbox = Sandbox(ControllerConfig(), durable_every=1)
    sandbox.give_model()
    sandbox.join(A)
    sandbox.start()
    sandbox.save()
    sandbox.train(A)
    sandbox.publish()
    (of,) = Standing.from_json(sandbox.federation._written()).rounds
    assert of.record.participants == [A]
