"""Runs the cases."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from metisfl_async.conformance.cases import CASES, Case
from metisfl_async.conformance.ground import Ground, Unfit
from metisfl_async.conformance.link import link_at
from metisfl_async.core.errors import MetisError
from metisfl_async.core.metrics import Json

__all__ = ["Verdict", "check_learner"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one case."""

    case: Case
    why: str  #: it failed; empty: it did not
    is_late: bool = False  #: whether it was not over in time: the learner is gone, or stuck


async def check_learner(
    host: str,
    port: int,
    *,
    train_params: Mapping[str, Json] | None = None,
    case_timeout_secs: float = 60.0,
    on_listening: Callable[[int], None] = lambda port: None,
    on_verdict: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Wait for a learner that dials, and put it through the cases.

    Parameters
    ----------
    host, port : str, int
        Where to wait for it, without TLS; 0 asks for a free port.
    train_params : dict, optional
        What its tasks say to it.
    case_timeout_secs : float
        How long a case may take, and how long the learner is waited for at first.
    on_listening, on_verdict : callable
        Told the port, and then each verdict.

    Returns
    -------
    list of Verdict
        In order. None follow where the learner does not take part at all, or a case was not over in time.
    """
    verdicts: list[Verdict] = []
    with TemporaryDirectory() as directory:
        async with link_at(host, port) as (link, listening):
            on_listening(listening)
            ground = Ground(link, Path(directory), train_params or {}, case_timeout_secs)
            try:
                for case in CASES:
                    verdicts.append(await _verdict(case, ground, case_timeout_secs))
                    on_verdict(verdicts[-1])
                    if verdicts[0].why or verdicts[-1].is_late:
                        break
                    if verdicts[-1].why:
                        await ground.open()  # what failed may still be under way
            finally:
                await ground.close()
    return verdicts


async def _verdict(case: Case, ground: Ground, timeout_s: float) -> Verdict:
    try:
        async with asyncio.timeout(timeout_s):
            await case.run(ground)
    except TimeoutError:
        return Verdict(case, f"it was not over within {timeout_s:g} s", is_late=True)
    except Unfit as error:
        return Verdict(case, str(error))
    except MetisError as error:
        return Verdict(case, f"{type(error).__name__}: {error}")
    return Verdict(case, "")
