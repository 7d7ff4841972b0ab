"""A learner's process ends when ours does. When it has ended, we know at once, even if what it has forked goes on.

A pool sees that its process is gone when nobody holds a certain pipe any more. What a learner forks, such as the
workers of a data loader, would hold all pipes of the learner's process, and the pool would wait for those as well.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

__all__ = ["end_with_ours", "leave_to_us", "pipes_of"]

Pipe = tuple[int, int]  #: the device and the inode, which are those of both ends


def end_with_ours() -> None:
    """End the process that calls this with the one that has spawned it, though that is killed."""
    ours = multiprocessing.parent_process()
    assert ours is not None

    def watch() -> None:
        ours.join()
        os._exit(1)  # whoever wanted what it does is gone

    threading.Thread(target=watch, name="metisfl-parent", daemon=True).start()


def pipes_of(pool: ProcessPoolExecutor, process_id: int) -> set[Pipe]:
    """Name the pipes between us and a process of a pool."""
    if not hasattr(os, "register_at_fork"):
        return set()
    queues = pool._call_queue, pool._result_queue  # type: ignore[attr-defined]
    ends = [pool._processes[process_id].sentinel, *(queue._reader.fileno() for queue in queues)]  # type: ignore[union-attr]
    return set(map(_pipe, ends))


def leave_to_us(pipes: set[Pipe]) -> None:
    """Keep these pipes, in the process that calls this, from what it forks or starts from now on."""
    if not pipes:
        return
    ends = []
    for end in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # what has listed them is closed by now
            if _pipe(end) in pipes:
                os.set_inheritable(end, False)
                ends.append(end)

    def let_go() -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for end in ends:
            os.dup2(nowhere, end, inheritable=False)  # the number stays taken: somebody may close it
        os.close(nowhere)

    os.register_at_fork(after_in_child=let_go)


def _pipe(end: int) -> Pipe:
    facts = os.fstat(end)
    return facts.st_dev, facts.st_ino
