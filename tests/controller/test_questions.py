"""Who is asked what, and what is told of those that do not answer."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import TypeAlias

import pytest

from metisfl_async.controller import questions
from metisfl_async.controller.connection import Connection
from metisfl_async.controller.questions import MAX_OPEN, Questions
from metisfl_async.controller.registry import Member, Registry
from metisfl_async.core.errors import QuorumLost, UnexpectedMessage
from metisfl_async.core.ids import LearnerId, Token
from metisfl_async.core.messages import Answer, AskRequest, ControllerMessage, Question

HOUR_S = 3600.0
Asking: TypeAlias = "asyncio.Task[dict[str, Answer]]"


class Wire(Connection):
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[ControllerMessage] = []

    def send(self, message: ControllerMessage) -> None:
        self.sent.append(message)

    def close(self) -> None:
        """Nothing is open."""


class Ground:
    def __init__(self) -> None:
        self.registry = Registry(lambda: 0.0)
        self.questions = Questions(self.registry, max_relayed_learners=2)

    def connect(self, name: str) -> Member:
        earlier = self.registry.get(LearnerId(name))
        member = self.registry.join(LearnerId(name), Token("") if earlier is None else earlier.token)
        member.connection = Wire()
        self.questions.joined(member)
        return member

    def ask(self, *, timeout_s: float = HOUR_S, count: int = 0, join_s: float | None = None) -> Asking:
        request = AskRequest("describe", {"bins": 3}, timeout_s, count, join_s)

        async def collect() -> dict[str, Answer]:
            async with aclosing(self.questions.ask(request)) as answers:
                return {learner: answer async for learner, answer in answers}

        return asyncio.create_task(collect())


def question_to(member: Member) -> Question:
    assert isinstance(member.connection, Wire)
    question = member.connection.sent[-1]
    assert isinstance(question, Question)
    return question


async def turn() -> None:
    """Let tasks that can go on go on."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_all_who_are_connected_are_asked_and_answer_once() -> None:
    ground = Ground()
    a, b = ground.connect("a"), ground.connect("b")
    ground.connect("away").connection = None
    asking = ground.ask()
    await turn()
    question = question_to(a)
    assert question_to(b) == question
    assert (question.method, question.params, question.timeout_secs) == ("describe", {"bins": 3}, HOUR_S)
    late = ground.connect("late")
    for text in ("1", "2"):
        ground.questions.answered(a.id, Answer(question.id, text))
    ground.questions.answered(late.id, Answer(question.id, "3"))
    ground.questions.answered(b.id, Answer("another", "4"))
    ground.questions.answered(b.id, Answer(question.id, error_type="Value\nError", message="no\x1b[0m data"))
    assert await asking == {
        "a": Answer(question.id, "1"),
        "b": Answer(question.id, "", "Value\\nError", "no\\x1b[0m data"),
    }
    ground.questions.answered(a.id, Answer(question.id, "5"))  # nobody waits any more


async def test_at_the_deadline_those_that_did_not_answer_are_told() -> None:
    ground = Ground()
    member = ground.connect("a")
    ground.connect("b")
    asking = ground.ask(timeout_s=0.01)
    await turn()
    ground.questions.answered(member.id, Answer(question_to(member).id, "1"))
    answers = await asking
    assert answers["a"].json == "1"
    assert (answers["b"].error_type, answers["b"].message) == (
        "PeerTimeout",
        "no answer came within timeout_secs=0.01",
    )


async def test_one_that_comes_back_is_asked_again_and_one_that_leaves_is_not_waited_for() -> None:
    ground = Ground()
    a, b = ground.connect("a"), ground.connect("b")
    asking = ground.ask()
    await turn()
    question = question_to(a)
    again = ground.connect("a")
    assert question_to(again) == question
    ground.questions.answered(again.id, Answer(question.id, "1"))
    ground.questions.left(b.id, "it left")
    assert await asking == {"a": Answer(question.id, "1"), "b": Answer(question.id, "", "UnknownLearner", "it left")}


async def test_a_relay_passes_on_answers_and_ends_them() -> None:
    ground = Ground()
    relay, own = ground.connect("north"), ground.connect("own")
    asking = ground.ask()
    await turn()
    question_id = question_to(relay).id
    for name, text in (("a", "1"), ("a", "2"), ("b\n", "3")):
        ground.questions.answered(relay.id, Answer(question_id, text, learner=name))
    ground.questions.answered(own.id, Answer(question_id, "4"))
    await turn()
    assert not asking.done()
    ground.questions.answered(relay.id, Answer(question_id))
    ground.questions.answered(relay.id, Answer(question_id, "5", learner="c"))  # nobody waits for it any more
    assert await asking == {
        "north/a": Answer(question_id, "1"),
        "north/b\\n": Answer(question_id, "3"),
        "own": Answer(question_id, "4"),
    }


async def test_a_relay_passes_on_as_many_answers_as_it_may_and_no_more() -> None:
    ground = Ground()
    relay = ground.connect("north")
    asking = ground.ask()
    await turn()
    question_id = question_to(relay).id
    for name in "abcd":
        ground.questions.answered(relay.id, Answer(question_id, "1", learner=name))
    answers = await asking
    assert [*answers] == ["north/a", "north/b", "north"]
    assert answers["north"].message == (
        "it passes on answers of 3 learners; allowed: at most max_relayed_learners=2 of a relay"
    )


async def test_long_names_below_a_relay_are_told_apart() -> None:
    ground = Ground()
    relay = ground.connect("north")
    asking = ground.ask()
    await turn()
    question_id, name = question_to(relay).id, "x" * 200
    for end in "ab":
        ground.questions.answered(relay.id, Answer(question_id, "1", learner=name + end))
    ground.questions.answered(relay.id, Answer(question_id))
    assert [*await asking] == [f"north/{name}{end}" for end in "ab"]


async def test_an_answer_that_is_too_long_is_not_passed_on() -> None:
    ground = Ground()
    member = ground.connect("a")
    asking = ground.ask()
    await turn()
    ground.questions.answered(member.id, Answer(question_to(member).id, "\u00e9" * 49_153))
    message = "its answer has 98306 bytes; allowed: at most 98304"
    assert await asking == {"a": Answer(question_to(member).id, "", "TooLarge", message)}


async def test_what_a_question_allows_is_taken_back_with_it() -> None:
    ground = Ground()
    ignores = ground.connect("ignores")
    for _ in range(20):
        await ground.ask(timeout_s=0.001)
    asking = ground.ask(timeout_s=0.001)
    for _ in range(20):  # it joins again and again while the question is open
        await turn()
        ignores = ground.connect("ignores")
    await asking
    assert ignores.unasked.spend(0.0, 21.0) == pytest.approx(0.1)


async def test_an_answer_that_says_nothing_is_no_end_of_others() -> None:
    ground = Ground()
    member = ground.connect("a")
    asking = ground.ask()
    await turn()
    ground.questions.answered(member.id, Answer(question_to(member).id))
    assert await asking == {"a": Answer(question_to(member).id)}


async def test_as_many_are_waited_for_as_are_to_be_asked() -> None:
    ground = Ground()
    asking = ground.ask(count=2)
    a = ground.connect("a")
    await turn()
    b = ground.connect("b")
    await turn()
    for member in (a, b):
        ground.questions.answered(member.id, Answer(question_to(member).id, "1"))
    answers = await asking
    assert answers.keys() == {"a", "b"}


async def test_too_few_are_an_error() -> None:
    ground = Ground()
    with pytest.raises(QuorumLost, match=r"0 of 1 learners are connected after 0.01 s \(nobody\)"):
        await ground.ask(count=1, join_s=0.01)
    ground.connect("a")
    with pytest.raises(QuorumLost, match=r"1 of 2 learners are connected after 0.01 s \(a\)"):
        await ground.ask(count=2, join_s=0.01)


async def test_so_many_questions_at_one_time_are_enough() -> None:
    ground = Ground()
    ground.connect("a")
    asked = [ground.ask() for _ in range(MAX_OPEN)]
    await turn()
    with pytest.raises(UnexpectedMessage, match=f"{MAX_OPEN} questions are open"):
        await ground.ask()
    asked[0].cancel()
    await asyncio.wait(asked[:1])
    asked[0] = ground.ask()
    await turn()
    assert not asked[0].done()
    for asking in asked:
        asking.cancel()
    await asyncio.wait(asked)


async def test_unread_answers_are_bounded_and_who_reads_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "SHARED_BYTES", 40_000)
    monkeypatch.setattr(questions, "OWN_BYTES", 12_000)
    ground = Ground()
    members = [ground.connect(f"site-{number}") for number in range(10)]
    large = "x" * 10_000
    async with aclosing(ground.questions.ask(AskRequest("describe", {}, HOUR_S))) as unread:
        reading = asyncio.ensure_future(anext(unread))
        await turn()
        first = question_to(members[0])
        for member in members:
            ground.questions.answered(member.id, Answer(first.id, large))
        asking = ground.ask()
        await turn()
        second = question_to(members[0])
        for member in members:
            ground.questions.answered(member.id, Answer(second.id, large))
            await turn()
        assert await asking == {member.id: Answer(second.id, large) for member in members}
        answers = dict([await reading, *[answer async for answer in unread]])
    dropped = [learner for learner, answer in answers.items() if answer.error_type == "TooLarge"]
    assert dropped == [f"site-{number}" for number in range(3, 10)]
    assert re.match(r"its answer was dropped: 3\d{4} bytes of answers wait", answers[members[9].id].message)
    assert all(answers[member.id].json == large for member in members[:3])
    asking = ground.ask()  # what was read, or given up, does not count any more
    await turn()
    for member in members[:4]:
        ground.questions.answered(member.id, Answer(question_to(member).id, large[:9_000]))
    for member in members[4:]:
        ground.questions.answered(member.id, Answer(question_to(member).id, "1"))
    assert {answer.error_type for answer in (await asking).values()} == {""}
