"""What drivers ask the learners, beside training: who is asked, and what they answer."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass, field

from metisfl_async.controller.registry import Member, Registry
from metisfl_async.core.errors import MetisError, PeerTimeout, QuorumLost, TooLarge, UnexpectedMessage, UnknownLearner
from metisfl_async.core.ids import LearnerId, new_task_id
from metisfl_async.core.messages import MAX_ANSWER_BYTES, Answer, AskRequest, Question
from metisfl_async.core.strategies.aggregation.contributors import MAX_NAME_LENGTH
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
    answers: asyncio.Queue[tuple[LearnerId, Answer] | None] = field(default_factory=asyncio.Queue)
    allowed: Counter[LearnerId] = field(default_factory=Counter)  #: messages of a relay that have not come
    below: dict[LearnerId, set[str]] = field(default_factory=dict)  #: for whom a relay has answered
    unread_bytes: int = 0

    def put(self, learner: LearnerId, answer: Answer) -> None:
        self.unread_bytes += _size_of(answer)
        self.answers.put_nowait((learner, answer))

    def end(self, learner: LearnerId) -> None:
        """Wait no longer for a learner."""
        self.awaited.discard(learner)
        self.answers.put_nowait(None)

    async def get(self) -> tuple[LearnerId, Answer] | None:
        if (found := await self.answers.get()) is not None:
            self.unread_bytes -= _size_of(found[1])
        return found


class Questions:
    """Asks those who are connected; one that comes back before the deadline is asked again."""

    def __init__(self, registry: Registry, max_relayed_learners: int = 0) -> None:
        self._registry, self._max_relayed = registry, max_relayed_learners
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
                self._tell(member, asked)
            while asked.awaited or not asked.answers.empty():
                try:
                    async with asyncio.timeout_at(due_at):
                        answer = await asked.get()
                except TimeoutError:
                    break
                if answer is not None:
                    yield answer
            late = f"no answer came within timeout_secs={request.timeout_secs:g}"
            for learner in sorted(asked.awaited):
                yield learner, _refused(asked, PeerTimeout, late)
        finally:
            del self._open[question.id]
            self._take_back(asked)

    def answered(self, learner: LearnerId, answer: Answer) -> None:
        """Take an answer in; one that nobody waits for goes."""
        if (asked := self._open.get(answer.question_id)) is None or learner not in asked.awaited:
            return
        error_type, message = plain(answer.error_type, MAX_NAME), plain(answer.message)
        own = Answer(answer.question_id, answer.json, error_type, message)
        if (size := len(answer.json.encode())) > MAX_ANSWER_BYTES:
            own = _refused(asked, TooLarge, f"its answer has {size} bytes; allowed: at most {MAX_ANSWER_BYTES}")
        if answer.learner:
            self._put_below(asked, learner, plain(answer.learner, MAX_NAME_LENGTH), own)
            return
        if own.json or own.error_type or learner not in asked.below:
            self._put(asked, learner, own)
        asked.end(learner)

    def joined(self, member: Member) -> None:
        """Take note that a learner has connected."""
        self._changed.set()
        for asked in self._open.values():
            if member.id in asked.awaited:
                self._tell(member, asked)

    def left(self, learner: LearnerId, reason: str) -> None:
        """Take note that a learner will not answer."""
        for asked in self._open.values():
            if learner in asked.awaited:
                self._put(asked, learner, _refused(asked, UnknownLearner, plain(reason)))
                asked.end(learner)

    def _put_below(self, asked: _Asked, relay: LearnerId, name: str, answer: Answer) -> None:
        """Take in what somebody below a relay answers; once."""
        asked.allowed[relay] -= 1
        names = asked.below.setdefault(relay, set())
        if name in names:
            return
        if len(names) >= self._max_relayed:
            allowed = f"at most max_relayed_learners={self._max_relayed} of a relay"
            why = f"it passes on answers of {len(names) + 1} learners; allowed: {allowed}"
            self._put(asked, relay, _refused(asked, UnexpectedMessage, why))
            asked.end(relay)
            return
        names.add(name)
        self._put(asked, LearnerId(f"{relay}/{name}"), answer)

    def _put(self, asked: _Asked, learner: LearnerId, answer: Answer) -> None:
        """Keep an answer until its driver reads it; where too much waits, only say that there was one."""
        size = _size_of(answer)
        unread_bytes = sum(each.unread_bytes for each in self._open.values())
        if unread_bytes + size > SHARED_BYTES and asked.unread_bytes + size > OWN_BYTES:
            why = f"its answer was dropped: {unread_bytes} bytes of answers wait at the controller for their drivers"
            answer = _refused(asked, TooLarge, why)
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

    def _tell(self, member: Member, asked: _Asked) -> None:
        if member.connection is not None:
            most = self._max_relayed  # if it is a relay, it passes on so many answers, and after a reconnection again
            asked.allowed[member.id] += most
            member.unasked.earn(most, MAX_OPEN * most)
            member.connection.send(asked.question)

    def _take_back(self, asked: _Asked) -> None:
        """Allow no messages for answers that nobody takes any more."""
        for learner, left in asked.allowed.items():
            if (member := self._registry.get(learner)) is not None:
                member.unasked.forfeit(left)


def _size_of(answer: Answer) -> int:
    return sys.getsizeof(answer.json) + sys.getsizeof(answer.message)


def _refused(asked: _Asked, error: type[MetisError], why: str) -> Answer:
    return Answer(asked.question.id, error_type=error.__name__, message=why)
