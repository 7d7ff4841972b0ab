"""What drivers ask the learners, beside training: who is asked, and what they answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from metisfl_async.controller.registry import Member, Registry
from metisfl_async.core.errors import PeerTimeout, QuorumLost, TooLarge, UnexpectedMessage, UnknownLearner
from metisfl_async.core.ids import LearnerId, new_task_id
from metisfl_async.core.messages import Answer, AskRequest, Question
from metisfl_async.core.texts import MAX_NAME, plain

__all__ = ["Questions"]

MAX_OPEN = 16  #: questions at one time, of all drivers
# Answers that no driver has read yet, of all questions; beyond that, each question has a little of its own, so that who
# does not read takes nothing from who does.
SHARED_BYTES = 128 * 2**20
OWN_BYTES = 8 * 2**20


@dataclass(slots=True)
class _Asked:
    """A question that is open: who has still to answer it, and what nobody has read. Each learner answers once."""

    question: Question
    awaited: set[LearnerId]
    answers: asyncio.Queue[tuple[LearnerId, Answer]] = field(default_factory=asyncio.Queue)
    unread_bytes: int = 0

    def put(self, learner: LearnerId, answer: Answer) -> None:
        self.awaited.remove(learner)
        self.unread_bytes += _size_of(answer)
        self.answers.put_nowait((learner, answer))

    async def get(self) -> tuple[LearnerId, Answer]:
        learner, answer = await self.answers.get()
        self.unread_bytes -= _size_of(answer)
        return learner, answer


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
                        answer = await asked.get()
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
            self._put(asked, learner, Answer(answer.question_id, answer.json, error_type, message))

    def joined(self, member: Member) -> None:
        """Take note that a learner has connected."""
        self._changed.set()
        for asked in self._open.values():
            if member.id in asked.awaited:
                _tell(member, asked.question)

    def left(self, learner: LearnerId, reason: str) -> None:
        """Take note that a learner will not answer."""
        for asked in self._open.values():
            gone = Answer(asked.question.id, error_type=UnknownLearner.__name__, message=plain(reason))
            self._put(asked, learner, gone)

    def _put(self, asked: _Asked, learner: LearnerId, answer: Answer) -> None:
        """Keep an answer until its driver reads it; where too much waits, only say that there was one."""
        if learner not in asked.awaited:
            return
        size = _size_of(answer)
        unread_bytes = sum(each.unread_bytes for each in self._open.values())
        if unread_bytes + size > SHARED_BYTES and asked.unread_bytes + size > OWN_BYTES:
            why = f"its answer was dropped: {unread_bytes} bytes of answers wait at the controller for their drivers"
            answer = Answer(answer.question_id, error_type=TooLarge.__name__, message=why)
        asked.put(learner, answer)

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


def _size_of(answer: Answer) -> int:
    return sys.getsizeof(answer.json) + sys.getsizeof(answer.message)


def _tell(member: Member, question: Question) -> None:
    if member.connection is not None:
        member.connection.send(question)
