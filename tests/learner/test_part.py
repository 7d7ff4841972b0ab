"""A learner's decisions, without a learner: anything may be told in any order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metisfl_async.core import messages as m
from metisfl_async.core.federation.tasks import HeldTask, TaskKind, Verdict
from metisfl_async.core.ids import NO_FEDERATION, FederationId, LearnerId, ModelRef, TaskId, Token
from metisfl_async.learner.part import Begin, Drop, End, Forget, Part, Push, Say, Step

F, G = FederationId("f"), FederationId("g")
A, B = TaskId("a"), TaskId("b")
OFFER = m.TaskOffer(A, TaskKind.TRAIN, 1, ModelRef(F, 0), {})
FAILED = m.Failed(A, "ValueError", "no data")


def joined(federation_id: FederationId) -> m.JoinReply:
    return m.JoinReply(LearnerId("me"), Token("t"), 1, 1.0, 6.0, 2**30, federation_id)


def welcome(verdict: Verdict, task_id: TaskId = A) -> m.Welcome:
    return m.Welcome({task_id: (verdict, "why")})


def folded() -> Part:
    """A part whose one update is folded."""
    part = Part()
    assert part.joined(joined(F)) == []
    assert part.told(OFFER) == [Begin(OFFER), Say(m.Accept(A))]
    assert part.trained(A) == [Push(A)]
    assert part.answered(A, m.UpdateReply(m.Outcome.FOLDED)) == []
    return part


@pytest.mark.parametrize(
    ("message", "steps", "is_held"),
    [
        (m.Counted((A, B)), [Forget(A)], False),
        (m.Withdrawn(A, "late"), [Drop(A, "late")], False),
        (welcome(Verdict.KEEP), [], True),
        (welcome(Verdict.CONTINUE), [], True),
        (welcome(Verdict.COUNTED), [Forget(A)], False),
        (welcome(Verdict.DISCARD), [Drop(A, "why")], False),
        (welcome(Verdict.UPLOAD), [Push(A)], True),
        (welcome(Verdict.UPLOAD, B), [], True),
        (OFFER, [Say(m.Accept(A))], True),
        (m.Heartbeat(), [], True),
        (m.Unknown("a message of tomorrow"), [], True),
        (m.Unknown("a task", B), [Say(m.Failed(B, "UnexpectedMessage", "it is not known: a task"))], True),
    ],
    ids=repr,
)
def test_an_update_that_is_folded_is_kept_until_it_counts_or_is_not_wanted(
    message: m.ControllerMessage, steps: list[Step], is_held: bool
) -> None:
    part = folded()
    assert part.told(message) == steps
    assert part.holds(A) is is_held
    assert part.hello() == ([HeldTask(A, True, "train", ModelRef(F, 0))] if is_held else [])


@pytest.mark.parametrize(
    ("outcome", "steps"),
    [
        (m.Outcome.FOLDED, []),
        (m.Outcome.DAMAGED, [Push(A)]),
        (m.Outcome.COUNTED, [Forget(A)]),
        (m.Outcome.REFUSED, [Forget(A, "why")]),
        (m.Outcome.CANCELLED, [Forget(A, "why")]),
    ],
)
def test_each_answer_has_its_consequence(outcome: m.Outcome, steps: list[Step]) -> None:
    part = Part()
    part.told(OFFER)
    part.trained(A)
    assert part.answered(A, m.UpdateReply(outcome, "why")) == steps
    part.told(m.Counted((A,)))
    assert part.answered(A, m.UpdateReply(outcome)) == []  # it may come after the word that it counts


def test_an_update_that_is_on_its_way_is_not_sent_twice_for_a_verdict() -> None:
    part = Part()
    part.told(OFFER)
    part.trained(A)
    assert part.told(welcome(Verdict.UPLOAD)) == []


def test_another_federation_leaves_nothing_of_the_one_before() -> None:
    reason = "the controller runs another federation now"
    part = folded()
    assert part.joined(joined(F)) == part.joined(joined(NO_FEDERATION)) == []
    assert part.joined(joined(G)) == [Drop(A, reason)]
    part = folded()
    other = m.TaskOffer(B, TaskKind.TRAIN, 1, ModelRef(G, 0), {})
    assert part.told(other) == [Drop(A, reason), Begin(other), Say(m.Accept(B))]
    farewell = m.Farewell("over", ModelRef(G, 1))
    assert part.told(farewell) == [Drop(B, "over"), End(farewell)]


def test_what_is_held_is_kept_for_a_controller_that_comes_back() -> None:
    part = folded()
    farewell = m.Farewell("back soon", None, m.Afterwards.RETURN)
    assert part.told(farewell) == [End(farewell)]
    assert part.holds(A)


def test_an_outcome_is_said_after_every_welcome_until_it_is_settled() -> None:
    part = Part()
    part.told(OFFER)
    assert part.reported(FAILED) == [Say(FAILED)]
    assert part.told(welcome(Verdict.UPLOAD)) == [Say(FAILED)]
    assert part.told(m.Settled(A)) == [Forget(A, "no data")]
    assert part.told(m.Welcome({})) == []
    assert part.reported(FAILED) == []


def test_an_update_that_is_ready_after_its_task_was_dropped_is_forgotten() -> None:
    part = Part()
    assert part.trained(A) == [Forget(A)]


def test_a_task_of_before_is_done_again_and_sent_unless_the_controller_has_its_update() -> None:
    part = Part()
    assert part.take_up(OFFER, is_done=False) == [Begin(OFFER)]
    assert part.hello() == [HeldTask(A, False, "train", ModelRef(F, 0))]
    assert part.told(welcome(Verdict.CONTINUE)) == []
    assert part.trained(A) == [Push(A)]
    part = Part()
    part.take_up(OFFER, is_done=False)
    assert part.told(welcome(Verdict.KEEP)) == part.trained(A) == []
    assert part.told(welcome(Verdict.UPLOAD)) == [Push(A)]  # the controller has lost it
    part = Part()
    part.take_up(OFFER, is_done=False)
    assert part.told(welcome(Verdict.COUNTED)) == [Forget(A)]


tasks = st.sampled_from([TaskId(name) for name in "abcd"])
federations = st.sampled_from([F, G])


class AnyOrder(RuleBasedStateMachine):
    """Keeps books beside a `Part`: which tasks it should hold, and where each update is."""

    @initialize()
    def begin(self) -> None:
        self.part = Part()
        self.held: dict[TaskId, m.TaskOffer] = {}
        self.folded: set[TaskId] = set()
        self.outcomes: dict[TaskId, m.Evaluated | m.Failed] = {}
        self.sent: set[TaskId] = set()

    def ended(self, steps: list[Step]) -> None:
        """Each task that is held ends once; none ends that is not held."""
        ends = Counter(step.task_id for step in steps if isinstance(step, Drop | Forget))
        assert set(ends.values()) <= {1}
        for task_id in ends:
            del self.held[task_id]
            self.folded.discard(task_id)
            self.sent.discard(task_id)
            self.outcomes.pop(task_id, None)

    def pushes(self, steps: list[Step], expected: set[TaskId]) -> None:
        pushed = [step.task_id for step in steps if isinstance(step, Push)]
        assert sorted(pushed) == sorted(expected)

    @rule(federation_id=st.sampled_from([NO_FEDERATION, F, G]))
    def join(self, federation_id: FederationId) -> None:
        steps = self.part.joined(joined(federation_id))
        assert all(isinstance(step, Drop) for step in steps)
        self.ended(steps)

    @rule(task_id=tasks, federation_id=federations, kind=st.sampled_from(TaskKind))
    def offer(self, task_id: TaskId, federation_id: FederationId, kind: TaskKind) -> None:
        offer = m.TaskOffer(task_id, kind, 1, ModelRef(federation_id, 0), {})
        steps = self.part.told(offer)
        self.ended(steps)
        assert steps[-1] == Say(m.Accept(task_id))
        assert (Begin(offer) in steps) == (task_id not in self.held)
        self.held.setdefault(task_id, offer)
        self.pushes(steps, set())

    @rule(verdicts=st.dictionaries(tasks, st.sampled_from(Verdict)))
    def welcome(self, verdicts: dict[TaskId, Verdict]) -> None:
        again = {task_id for task_id, verdict in verdicts.items() if verdict is Verdict.UPLOAD} & self.folded
        steps = self.part.told(m.Welcome({task_id: (verdict, "why") for task_id, verdict in verdicts.items()}))
        self.ended(steps)
        self.pushes(steps, again)
        self.folded -= again
        kept = {task_id for task_id, verdict in verdicts.items() if verdict is Verdict.KEEP} & set(self.held)
        self.folded |= kept - self.sent - set(self.outcomes)  # updates of before
        over = {task_id for task_id, verdict in verdicts.items() if verdict in (Verdict.COUNTED, Verdict.DISCARD)}
        assert not over & set(self.held)
        assert [step.message for step in steps if isinstance(step, Say)] == [
            self.outcomes[task_id] for task_id in self.held if task_id in self.outcomes
        ]

    @rule(ids=st.lists(tasks), how=st.sampled_from(["counted", "settled", "withdrawn", "farewell"]))
    def end(self, ids: list[TaskId], how: str) -> None:
        steps: list[Step] = []
        match how:
            case "counted":
                steps = self.part.told(m.Counted(tuple(ids)))
            case "farewell":
                steps = self.part.told(m.Farewell("over", None, m.Afterwards.STAY))
                ids = list(self.held)
                assert isinstance(steps.pop(), End)
            case _:
                for task_id in ids:
                    steps += self.part.told(m.Settled(task_id) if how == "settled" else m.Withdrawn(task_id, "late"))
        self.pushes(steps, set())
        self.ended(steps)
        assert not set(ids) & set(self.held)

    @rule(task_id=tasks)
    def train(self, task_id: TaskId) -> None:
        if task_id in self.sent:
            return
        steps = self.part.trained(task_id)
        if task_id in self.held:
            assert steps == ([] if task_id in self.folded else [Push(task_id)])
        else:
            assert steps == [Forget(task_id)]
        self.sent |= {task_id} & set(self.held)

    @rule(task_id=tasks, fails=st.booleans())
    def report(self, task_id: TaskId, fails: bool) -> None:
        outcome = m.Failed(task_id, "ValueError", "no data") if fails else m.Evaluated(task_id, {})
        assert self.part.reported(outcome) == ([Say(outcome)] if task_id in self.held else [])
        if task_id in self.held:
            self.outcomes[task_id] = outcome

    @rule(task_id=tasks, outcome=st.sampled_from(m.Outcome))
    def answer(self, task_id: TaskId, outcome: m.Outcome) -> None:
        is_held = task_id in self.held
        if is_held and task_id not in self.sent:
            return
        steps = self.part.answered(task_id, m.UpdateReply(outcome))
        self.pushes(steps, {task_id} if is_held and outcome is m.Outcome.DAMAGED else set())
        if is_held and outcome is m.Outcome.FOLDED:
            self.folded.add(task_id)
        self.ended(steps)

    @rule(task_id=st.none() | tasks)
    def unknown(self, task_id: TaskId | None) -> None:
        steps = self.part.told(m.Unknown("of tomorrow", task_id))
        assert [type(step) for step in steps] == ([] if task_id is None else [Say])

    @invariant()
    def what_it_holds_is_of_its_federation(self) -> None:
        if not hasattr(self, "part"):
            return
        hello = self.part.hello()
        assert [task.task_id for task in hello] == list(self.held)
        assert {task.model.federation_id for task in hello} <= {self.part.federation_id}
        for task in hello:
            assert self.part.holds(task.task_id)
            assert self.part.offer_of(task.task_id) == self.held[task.task_id]
            assert task.is_done == (task.task_id in {*self.sent, *self.outcomes})


TestAnyOrder = pytest.mark.slow(AnyOrder.TestCase)
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
