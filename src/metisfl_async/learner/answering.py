"""Answers what a learner is asked beside its tasks, one question after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from metisfl_async.core.messages import Answer, Question
from metisfl_async.learner.failing import FailureLog
from metisfl_async.learner.outcome import text_of
from metisfl_async.learner.works import Works

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
        """Call the method, unless nobody waits for it any more; whatever goes wrong becomes the answer."""
        try:
            text = await self._worker.ask(question.method, question.params, due_at)
        except Exception as error:  # noqa: BLE001 - it is the user's code
            self._failures.tell(self._worker.name, f"answer {question.method!r}", "", error, text_of(error))
            return Answer(question.id, error_type=type(error).__name__, message=text_of(error))
        return None if text is None else Answer(question.id, text)
