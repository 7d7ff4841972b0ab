"""The audit: a line of JSON for whoever was let in or not, and who started or ended something."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from urllib.parse import unquote

from metisfl_async.core.access import Caller
from metisfl_async.core.texts import plain

__all__ = ["AUDIT", "Audit", "in_words"]

AUDIT = "metisfl_async.audit"  #: the logger

logger = logging.getLogger(AUDIT)

QUIET_S = 60.0  #: a line that was written is only counted for so long
MOST = 1024  #: different lines that are remembered


class Audit:
    """Writes who did what, when and why; the same of the same peer is counted, not repeated.

    No secret is in it, and no control character: JSON escapes them. Without a port, nobody else is there, and
    nothing is written.
    """

    def __init__(self, *, has_port: bool = True) -> None:
        self._has_port = has_port
        self._written: OrderedDict[tuple[str, str, str], tuple[float, int]] = OrderedDict()

    def note(self, what: str, caller: Caller, **facts: object) -> None:
        """Write a line, unless it was written a moment ago."""
        if not self._has_port:
            return
        who = "" if caller.identity is None else str(caller.identity)
        host = caller.peer.rpartition(":")[0] or caller.peer  # each call may come from another port
        key, now = (what, who or host, json.dumps(facts, default=str)), asyncio.get_running_loop().time()
        written_at, left_out = self._written.pop(key, (-QUIET_S, 0))
        is_quiet = what == "refused" and now - written_at < QUIET_S
        self._written[key] = (written_at, left_out + 1) if is_quiet else (now, 0)
        while len(self._written) > MOST:
            self._written.popitem(last=False)
        if not is_quiet:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = {"at": at, "what": what, "who": who, "peer": unquote(caller.peer), **facts}  # ipv6:[::1]:5
            if left_out:
                line["left_out"] = left_out  # so many of the same since the last
            logger.info("%s", json.dumps(line, default=str))


def in_words(line: str) -> str:
    """Write a line of the audit for people, without its time, which their logs have anyway."""
    facts = json.loads(line)
    del facts["at"]
    what, who, peer = facts.pop("what"), facts.pop("who"), facts.pop("peer")
    details = "".join(f", {name}={json.dumps(value)}" for name, value in facts.items())
    return plain(f"audit: {what}: {who or 'somebody'} at {peer}{details}")
