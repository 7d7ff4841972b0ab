"""Names what blocks the event loop, and tells when it could not run: blocked, or with a process that was stopped."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from dataclasses import dataclass
from types import FrameType, TracebackType

from metisfl_async.core.repeats import Repeats

__all__ = ["Gap", "Watchdog"]

logger = logging.getLogger(__name__)

BLOCKED_S = 1.0  #: a loop that is late by more stood still
BEAT_S = 0.25  #: between two beats of the loop, and between two looks of the thread
SURE = 3  #: looks in a row without a beat between them, until the loop is what is late and not the whole process
PLUMBING = sys.stdlib_module_names | {__name__.partition(".")[0]}
STOPPED = "the process was stopped, or a call in C held Python's lock (the GIL)"
NO_PYTHON = "a callback that is not written in Python"


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which the loop did not run."""

    ended_at: float  #: as `loop.time()`
    length_s: float


class Watchdog:
    """Watches the running event loop while the block runs; each is used once.

    The loop beats, and a thread looks whether it does. When it does not, the thread sees in the stack of the loop's
    thread where it is. A process that is stopped (SIGSTOP, a closed laptop), or a C call that keeps the interpreter's
    lock, holds up the thread as well: then nobody is blamed. The thread is a daemon, so that a loop that is never
    closed does not keep the interpreter from ending.
    """

    def __init__(self) -> None:
        self._repeats = Repeats()
        self._last_gap: Gap | None = None
        self._beaten_at = 0.0  # as time.monotonic(), which is finer than uvloop's time and the same in each thread
        self._depth = 0  # of the stack below each callback
        self._may_end = threading.Event()

    async def __aenter__(self) -> Watchdog:
        self._loop = asyncio.get_running_loop()
        self._beaten_at = time.monotonic()
        arguments = (threading.get_ident(),)
        self._thread = threading.Thread(target=self._watch, args=arguments, name="metisfl-watchdog", daemon=True)
        self._thread.start()
        self._next_beat: asyncio.Handle = self._loop.call_soon(self._beat_again)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next_beat.cancel()
        self._beat()  # so that the thread tells the end of what blocked us until now
        self._may_end.set()
        self._thread.join()

    @property
    def last_gap(self) -> Gap | None:
        """The last time of more than a second in which the loop did not run; to be asked on the loop."""
        self._beat()  # we run: if it stood still until now, this is the end of it
        return self._last_gap

    # --- on the loop -----------------------------------------------------------------------------------------------

    def _beat_again(self) -> None:
        self._depth = len(_outwards(sys._getframe().f_back))
        self._beat()
        self._next_beat = self._loop.call_later(BEAT_S, self._beat_again)

    def _beat(self) -> None:
        now = time.monotonic()
        if (late_s := now - self._beaten_at - BEAT_S) > BLOCKED_S:
            self._last_gap = Gap(self._loop.time(), late_s)
        self._beaten_at = now  # after the gap: the thread looks at this first

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _watch(self, thread_id: int) -> None:
        beaten_at, gap = self._beaten_at, self._last_gap
        looks, place = 0, ""
        is_told: bool | None = None  # whether the line was worth it, once that is known
        may_end = False
        while not may_end and not self._loop.is_closed():
            may_end = self._may_end.wait(BEAT_S)
            if self._beaten_at == beaten_at:
                looks += 1
                late_s = time.monotonic() - beaten_at - BEAT_S
                if looks >= SURE and not place:
                    place = self._place(thread_id)
                if place and late_s > BLOCKED_S and is_told is None:
                    is_told = self._warn(place, f"the event loop is blocked, for {late_s:.1f} s by now, by {place}")
                continue
            beaten_at = self._beaten_at
            if self._last_gap is not gap:
                gap = self._last_gap
                assert gap is not None
                line = f"the event loop runs again after {gap.length_s:.1f} s; "
                line += f"it was blocked by {place}" if place else STOPPED
                if is_told is None:
                    self._warn(place, line)
                elif is_told:
                    logger.warning("%s", line)
            looks, place, is_told = 0, "", None

    def _warn(self, place: str, line: str) -> bool:
        """Say it, if it is the 1st, 2nd, 4th, ... time for this place."""
        times = self._repeats.count(place)
        if times is not None:
            logger.warning("%s%s", line, f" ({times} times so far)" if times > 1 else "")
        return times is not None

    def _place(self, thread_id: int) -> str:
        """Say where the loop's thread is: the innermost code that is neither Python's nor ours, if there is any."""
        frames = _outwards(sys._current_frames().get(thread_id))
        frames = frames[: max(len(frames) - self._depth, 0)]
        users = [frame for frame in frames if _package(frame) not in PLUMBING]
        for frame in (users or frames)[:1]:
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        return NO_PYTHON


def _outwards(frame: FrameType | None) -> list[FrameType]:
    """List a stack from a frame on, the innermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]
