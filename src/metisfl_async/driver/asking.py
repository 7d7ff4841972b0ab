"""Asks the learners of a controller, and collects what they answer."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TypeAlias

from metisfl_async.core.checks import positive
from metisfl_async.core.errors import ConfigError, Damaged
from metisfl_async.core.federation.records import Failure
from metisfl_async.core.messages import MAX_QUESTION_BYTES, Answer, AskRequest
from metisfl_async.core.metrics import Json, checked_json
from metisfl_async.driver.following import WHO, Watch
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.concurrency import first_of
from metisfl_async.transport.retry import insisting

__all__ = ["Answers", "ask", "checked_question"]

Answers: TypeAlias = "dict[str, Json | Failure]"
"""What each learner answered, by its name; or why it did not."""


def checked_question(method: str, params: object, timeout_secs: float) -> AskRequest:
    """Take what users ask.

    Raises
    ------
    ConfigError
        It names what cannot be asked.
    """
    if not isinstance(method, str) or not method.isidentifier():
        raise ConfigError("method", method, "the name of a method that the learners mark with @askable")
    checked = checked_json({} if params is None else params, "params")
    if not isinstance(checked, dict):
        raise ConfigError("params", params, "a dict")
    if (size := len(json.dumps(checked))) > MAX_QUESTION_BYTES:
        raise ConfigError("params", f"JSON of {size} bytes", f"at most {MAX_QUESTION_BYTES} bytes")
    positive("timeout_secs", timeout_secs)
    return AskRequest(method, checked, timeout_secs)


async def ask(link: ControllerLink, request: AskRequest, lost_s: float | None) -> Answers:
    """Ask once the controller is there; each learner that was connected then is in the answers."""
    waits_s = lost_s if request.join_timeout_secs is None else request.join_timeout_secs
    await insisting(WHO, link.address, waits_s, link.status)
    watch = Watch(link, lost_s)
    found: Answers = {}

    async def collect() -> None:
        async with aclosing(link.ask(request)) as answers:
            async for learner, answer in answers:
                watch.heard()
                found[learner] = _value(request.method, answer)

    await first_of(asyncio.create_task(collect(), name="ask"), watch.until_silent())
    return dict(sorted(found.items()))


def _value(method: str, answer: Answer) -> Json | Failure:
    """Read an answer; one that is no JSON is a failure of its learner."""
    if answer.error_type:
        return Failure(method, answer.error_type, answer.message)
    try:
        value: Json = json.loads(answer.json)
    except (ValueError, RecursionError) as error:
        return Failure(method, Damaged.__name__, f"the answer is no JSON: {error}")
    return value
