"""Learners of this process that have no connections of their own: joined one by one, spoken to together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import aclosing, suppress

from metisfl_async.codec.frame import Header
from metisfl_async.controller.connection import Connection
from metisfl_async.controller.farewell import Farewells
from metisfl_async.controller.job import Job
from metisfl_async.controller.jobs import Jobs
from metisfl_async.controller.questions import Questions
from metisfl_async.controller.registry import Member, Registry
from metisfl_async.core.errors import ConnectionLost, UnexpectedMessage, UnknownFederation
from metisfl_async.core.federation.inputs import Accepted, Joined, Left
from metisfl_async.core.ids import FederationId, LearnerId, TaskId, Token
from metisfl_async.core.messages import (
    NO_ANSWERS,
    Answer,
    ControllerMessage,
    Farewell,
    Question,
    TaskOffer,
    UpdateReply,
    Withdrawn,
)
from metisfl_async.core.model import Model
from metisfl_async.transport.memory import frames_in_memory, go_ahead

__all__ = ["Crowd"]

AT_ONCE = 100  #: learners that join, or leave, before others have their turn


class _Seat(Connection):
    """What the controller says to one of them."""

    __slots__ = ("_crowd", "_learner")

    def __init__(self, crowd: Crowd, learner: LearnerId) -> None:
        self._crowd, self._learner = crowd, learner

    def send(self, message: ControllerMessage) -> None:
        self._crowd._hear(self._learner, message)

    def close(self) -> None:
        """Be over for all of them: only the controller's end closes a seat."""
        self._crowd.dismiss()


class Crowd:
    """Many learners with one connection, in the controller's process. Their leases do not end."""

    def __init__(self, registry: Registry, jobs: Jobs, farewells: Farewells, questions: Questions) -> None:
        self.is_dismissed = False  #: whether the federation is over for them
        self._registry, self._jobs, self._farewells, self._questions = registry, jobs, farewells, questions
        self._members: list[Member] = []
        self._offers: list[tuple[LearnerId, TaskOffer]] = []
        self._withdrawn: set[TaskId] = set()
        self._has_heard = asyncio.Event()

    async def join(self, learners: Sequence[LearnerId]) -> None:
        """Join with all of them."""
        for number, learner in enumerate(learners):
            member = self._registry.join(learner, Token(""))
            member.heard_at, member.is_simulated = math.inf, True
            member.connection = _Seat(self, learner)
            self._members.append(member)
            self._jobs.post(Joined(learner))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        self._farewells.changed()
        if self._farewells.message is not None:
            self.dismiss()

    async def heard(self) -> tuple[list[tuple[LearnerId, TaskOffer]], set[TaskId]]:
        """Wait for news: tasks, each accepted, and the ids of those that are not wanted any more."""
        await self._has_heard.wait()
        self._has_heard.clear()
        offers, self._offers = self._offers, []
        withdrawn, self._withdrawn = self._withdrawn, set()
        for learner, offer in offers:
            self._jobs.post(Accepted(learner, offer.task_id))
        return offers, withdrawn

    def job(self, federation_id: FederationId) -> Job | None:
        """Find the federation of a task; None if it is not there any more."""
        with suppress(UnknownFederation):
            return self._jobs.of(federation_id)
        return None

    async def send(self, job: Job, learner: LearnerId, header: Header, update: Model) -> UpdateReply:
        """Send one learner's update, as it would itself."""
        member = self._registry.get(learner)
        if member is None:
            raise ConnectionLost("controller", f"{learner} has left")
        async with aclosing(frames_in_memory(header, update)) as frames:
            await anext(frames)
            return await job.updates.receive(member, header, frames, go_ahead)

    def dismiss(self) -> None:
        """Let it be over for all of them."""
        self.is_dismissed = True
        self._has_heard.set()

    async def leave(self) -> None:
        """Say goodbye for all of them."""
        members, self._members = self._members, []
        for number, member in enumerate(members):
            member.connection = None
            self._registry.remove(member)
            self._jobs.post(Left(member.id, "it left"))
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        self._farewells.changed()

    def _hear(self, learner: LearnerId, message: ControllerMessage) -> None:
        match message:
            case TaskOffer():
                self._offers.append((learner, message))
            case Withdrawn(task_id):
                self._withdrawn.add(task_id)
            case Farewell():
                self.is_dismissed = True
            case Question(question_id):
                refused = Answer(question_id, error_type=UnexpectedMessage.__name__, message=NO_ANSWERS)
                self._questions.answered(learner, refused)
                return
            case _:
                return  # what counted and what is settled changes nothing: nothing is kept here
        self._has_heard.set()
