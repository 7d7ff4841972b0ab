"""Answers what a learner is asked beside its tasks, one question after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.messages import Answer, Question
from metisfl_async.learner.failing import FailureLog
from metisfl_async.learner.outcome import text_of
from metisfl_async.learner.works import Below, Works

__all__ = ["Answering"]


class Answering:
    """Waits with each question until the learner is free; `say` takes the answer."""

    def __init__(self, worker: Works, failures: FailureLog, say: Callable[[Answer], None]) -> None:
        self._worker, self._failures, self._say = worker, failures, say
        # Not bounded by itself: the controller has a few questions open at one time.
        self._questions: asyncio.Queue[tuple[Question, float]] = asyncio.Queue()
        self._open: set[str] = set()  # the ids of those that are waiting, or are being answered

    def take(self, question: Question) -> None:
        """Take a question in; one that comes again after a broken connection is answered once."""
        if question.id not in self._open:
            self._open.add(question.id)
            self._questions.put_nowait((question, asyncio.get_running_loop().time() + question.timeout_secs))

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            question, due_at = await self._questions.get()
            try:
                if (answer := await self._answer(question, due_at)) is not None:
                    self._say(answer)
            finally:
                self._open.discard(question.id)

    async def _answer(self, question: Question, due_at: float) -> Answer | None:
        """Call the method, as long as somebody waits for it; whatever goes wrong becomes the answer.

        One that goes on after that keeps the learner from its tasks: it is told to end, like a task that is withdrawn.
        """
        patience = asyncio.timeout_at(due_at)
        try:
            async with patience:
                text = await self._worker.ask(question.method, question.params, due_at)
                if isinstance(text, AsyncGenerator):
                    return await self._pass_on(question.id, text)
        except Exception as error:  # noqa: BLE001 - it is the user's code
            if patience.expired():
                return None
            self._failures.tell(self._worker.name, f"answer {question.method!r}", "", error, text_of(error))
            return Answer(question.id, error_type=type(error).__name__, message=text_of(error))
        return None if text is None else Answer(question.id, text)

    async def _pass_on(self, question_id: str, of_those_below: Below) -> Answer:
        """Say what each of those below a relay answers, and then that there is no more.

        Raises
        ------
        UnexpectedMessage
            If there is nobody.
        """
        count = 0
        async with aclosing(of_those_below) as answers:
            async for learner, answer in answers:
                self._say(replace(answer, question_id=question_id, learner=learner))
                count += 1
        if not count:
            raise UnexpectedMessage("nobody is there below the relay")
        return Answer(question_id)
