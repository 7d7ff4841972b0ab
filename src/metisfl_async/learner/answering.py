"""Answers what a learner is asked beside its tasks, one question after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from metisfl_async.core.errors import TooLarge
from metisfl_async.core.messages import Answer, Question
from metisfl_async.learner.failing import FailureLog
from metisfl_async.learner.outcome import text_of
from metisfl_async.learner.works import AnswersBelow, Works

__all__ = ["Answering"]

MOST_KEPT_BYTES = 4 * 2**20  #: of answers to one question that a relay passed on, and may have to say again
LOST = "the connection of its relay may have broken before its answer was there; too much was said to keep it"


class Answering:
    """Waits with each question until the learner is free; `say` takes the answer."""

    def __init__(self, worker: Works, failures: FailureLog, say: Callable[[Answer], None]) -> None:
        self._worker, self._failures, self._say = worker, failures, say
        # Not bounded by itself: a controller has a few questions open at one time. Those that its drivers gave up
        # wait here until they are due.
        self._questions: asyncio.Queue[tuple[Question, float]] = asyncio.Queue()
        self._open: dict[str, list[Answer]] = {}  # those that are waiting, or are being answered; what was passed on

    def take(self, question: Question) -> None:
        """Take a question in; one that comes again after a broken connection is answered once.

        What was passed on of it is said again: it may have been lost.
        """
        if (passed_on := self._open.get(question.id)) is not None:
            for answer in passed_on:
                self._say(answer)
        else:
            self._open[question.id] = []
            self._questions.put_nowait((question, asyncio.get_running_loop().time() + question.timeout_secs))

    async def run(self) -> None:
        """Answer until cancelled; one question after another, but for a relay."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._worker.questions_at_once):
                group.create_task(self._answer_them())

    async def _answer_them(self) -> None:
        while True:
            question, due_at = await self._questions.get()
            try:
                if (answer := await self._answer(question, due_at)) is not None:
                    self._say(answer)
            finally:
                self._open.pop(question.id, None)

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

    async def _pass_on(self, question_id: str, of_those_below: AnswersBelow) -> Answer:
        """Say what each of those below a relay answers, and then that there is no more."""
        passed_on, kept_bytes = self._open[question_id], 0
        async with aclosing(of_those_below) as answers:
            async for learner, answer in answers:
                said = replace(answer, question_id=question_id, learner=learner)
                self._say(said)
                kept_bytes += len(said.json)
                if kept_bytes > MOST_KEPT_BYTES:
                    said = Answer(question_id, "", TooLarge.__name__, LOST, learner)
                passed_on.append(said)
        return Answer(question_id)
