"""What does a learner's tasks: a `Worker` with the user's learner, or a relay with the learners below it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol, TypeAlias

from metisfl_async.core.ids import LearnerId, TaskId
from metisfl_async.core.messages import Afterwards, Answer, JoinReply, TaskOffer
from metisfl_async.core.model import Model
from metisfl_async.learner.learner import Config
from metisfl_async.learner.outcome import Measured, Trained

__all__ = ["AnswersBelow", "Works"]

#: What those below a relay answer, by their names.
AnswersBelow: TypeAlias = AsyncGenerator[tuple[LearnerId, Answer], None]


class Works(Protocol):
    """Does one task after another; models are not its own, and change once the task is done."""

    name: str
    questions_at_once: int  #: how many it answers beside one another

    @property
    def was_trained(self) -> bool: ...

    @property
    def is_given_up(self) -> bool: ...

    def joined(self, reply: JoinReply) -> None:
        """Take note of whom its tasks come from; may refuse it."""

    def begin(self, offer: TaskOffer) -> None:
        """Take note of the task that is done next."""

    async def get_weights(self) -> Model: ...

    async def set_weights(self, model: Model) -> None: ...

    async def train(self, model: Model, config: Config) -> Trained: ...

    def settled(self, task_id: TaskId, refusal: str | None) -> None:
        """Take note that a task is over: its update, if it has one, counts, or why it does not."""

    def recycle(self, update: Model) -> None: ...

    async def evaluate(self, model: Model, config: Config) -> Measured: ...

    async def take_final(self, model: Model, then: Afterwards) -> None: ...

    async def ask(self, method: str, params: Config, due_at: float) -> str | AnswersBelow | None:
        """Answer a question, as JSON; or tell what those below answer; None if nobody waits any more."""

    async def close(self) -> None: ...
