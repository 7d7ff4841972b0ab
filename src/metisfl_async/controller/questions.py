"""What drivers ask the learners, beside training: who is asked, and what they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from metisfl_async.controller.registry import Member, Registry
from metisfl_async.core.errors import PeerTimeout, QuorumLost, UnexpectedMessage, UnknownLearner
from metisfl_async.core.ids import LearnerId, new_task_id
from metisfl_async.core.messages import Answer, AskRequest, Question
from metisfl_async.core.texts import MAX_NAME, plain

__all__ = ["Questions"]

MAX_OPEN = 16  #: questions at one time, of all drivers


@dataclass(slots=True)
class _Asked:
    """A question that is open: who has still to answer it. Each learner answers once, so the queue needs no bound."""

    question: Question
    awaited: set[LearnerId]
    answers: asyncio.Queue[tuple[LearnerId, Answer]] = field(default_factory=asyncio.Queue)

    def answer(self, learner: LearnerId, answer: Answer) -> None:
        if learner in self.awaited:
            self.awaited.remove(learner)
            self.answers.put_nowait((learner, answer))


class Questions:
    """Asks those who are connected; one that comes back before the deadline is asked again."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._open: dict[str, _Asked] = {}
        self._changed = asyncio.Event()

    async def ask(self, request: AskRequest) -> AsyncGenerator[tuple[LearnerId, Answer], None]:
        """Give one answer for each learner that is asked, as they come; at the deadline, of those that gave none.

        Raises
        ------
        QuorumLost
            If so many learners as are to be asked did not come in time.
        UnexpectedMessage
            If too much is asked at one time.
        """
        connected = await self._until_there(request)
        if len(self._open) >= MAX_OPEN:
            raise UnexpectedMessage(f"{MAX_OPEN} questions are open at this controller; ask again when one is answered")
        question = Question(new_task_id(), request.method, request.params, request.timeout_secs)
        asked = self._open[question.id] = _Asked(question, {member.id for member in connected})
        due_at = asyncio.get_running_loop().time() + request.timeout_secs
        try:
            for member in connected:
                _tell(member, question)
            while asked.awaited or not asked.answers.empty():
                try:
                    async with asyncio.timeout_at(due_at):
                        answer = await asked.answers.get()
                except TimeoutError:
                    break
                yield answer
            late = f"no answer came within timeout_secs={request.timeout_secs:g}"
            for learner in sorted(asked.awaited):
                yield learner, Answer(question.id, error_type=PeerTimeout.__name__, message=late)
        finally:
            del self._open[question.id]

    def answered(self, learner: LearnerId, answer: Answer) -> None:
        """Take an answer in; one that nobody waits for goes."""
        if (asked := self._open.get(answer.question_id)) is not None:
            error_type, message = plain(answer.error_type, MAX_NAME), plain(answer.message)
            asked.answer(learner, Answer(answer.question_id, answer.json, error_type, message))

    def joined(self, member: Member) -> None:
        """Take note that a learner has connected."""
        self._changed.set()
        for asked in self._open.values():
            if member.id in asked.awaited:
                _tell(member, asked.question)

    def left(self, learner: LearnerId, reason: str) -> None:
        """Take note that a learner will not answer."""
        for asked in self._open.values():
            asked.answer(learner, Answer(asked.question.id, error_type=UnknownLearner.__name__, message=plain(reason)))

    async def _until_there(self, request: AskRequest) -> list[Member]:
        """Wait until as many are connected as are to be asked."""
        with suppress(TimeoutError):
            async with asyncio.timeout(request.join_timeout_secs):
                while len(connected := self._connected()) < request.num_learners:
                    self._changed.clear()
                    await self._changed.wait()
                return connected
        who = ", ".join(member.id for member in self._connected()) or "nobody"
        raise QuorumLost(
            f"{len(self._connected())} of {request.num_learners} learners are connected after "
            f"{request.join_timeout_secs:g} s ({who})"
        )

    def _connected(self) -> list[Member]:
        return [member for member in self._registry if member.connection is not None]


def _tell(member: Member, question: Question) -> None:
    if member.connection is not None:
        member.connection.send(question)
