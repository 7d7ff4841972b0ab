"""Who has joined: tokens, incarnations, and when each learner was last heard."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from metisfl_async.codec.pace import Pace
from metisfl_async.controller.connection import Connection
from metisfl_async.core.access import LOCAL, Caller
from metisfl_async.core.allowance import Allowance
from metisfl_async.core.errors import AccessDenied, ConfigError, Superseded, UnknownLearner
from metisfl_async.core.ids import LearnerId, Token, new_token

__all__ = ["Member", "Registry"]

logger = logging.getLogger(__name__)

MAX_ID_LENGTH = 128
UNASKED, UNASKED_PER_S = 20, 10.0  #: what a learner may say of itself at once, and per second after that
HEARTBEATS = 4  #: times as many as were agreed on
OFTEN, OFTEN_S = 5, 60.0  #: so many times within so many seconds, no learner joins again


@dataclass(slots=True)
class Member:
    """A learner of this federation."""

    id: LearnerId
    token: Token
    incarnation: int
    heard_at: float  #: seconds on the monotonic clock
    assured_at: float  #: when it was last sent a heartbeat that answers none of its own
    unasked: Allowance = field(repr=False)  #: for what it says without being asked
    address: str = ""  #: where it is dialled, if it listens
    pace: Pace = field(default_factory=Pace, repr=False)  #: of what is sent to it
    longest_silence_s: float = 0.0  #: while connected
    is_simulated: bool = False  #: whether it is one of a crowd of this process; nobody can take its place
    connection: Connection | None = field(default=None, repr=False)
    joined_at: deque[float] = field(default_factory=lambda: deque(maxlen=OFTEN), repr=False)  #: the latest times

    def heard(self, now: float) -> None:
        """Renew the lease: the learner lives."""
        if self.connection is not None:
            self.longest_silence_s = max(self.longest_silence_s, now - self.heard_at)
        self.heard_at = max(self.heard_at, now)  # infinite, where nothing has to be heard

    def warn_if_too_often(self, now: float) -> None:
        """Take note of one more incarnation; two learners that use one id take it from each other again and again."""
        self.joined_at.append(now)
        if len(self.joined_at) == OFTEN and now - self.joined_at[0] < OFTEN_S:
            logger.warning("%s has joined %d times within %.0f s: do two learners use its id?", self.id, OFTEN, OFTEN_S)
            self.joined_at.clear()


class Registry:
    """All members, by id and by the token of their latest incarnation."""

    def __init__(self, clock: Callable[[], float], heartbeat_s: float = 1.0, *, has_relays: bool = False) -> None:
        self._clock, self._has_relays = clock, has_relays
        self._unasked_per_s = max(UNASKED_PER_S, HEARTBEATS / heartbeat_s)
        self._by_id: dict[LearnerId, Member] = {}
        self._by_token: dict[Token, Member] = {}
        self._named = 0

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def join(self, learner_id: LearnerId, token: Token, caller: Caller = LOCAL, address: str = "") -> Member:
        """Take in a new incarnation of a learner; without an id, a new learner.

        `address` is where it listens, if it does. It must be known to listen there: then whoever was there before it is
        gone, and can be replaced without its token. So can one whose identity was proved.

        Raises
        ------
        AccessDenied
            If the id is not that of the caller's identity.
        Superseded
            If a learner of that id is connected, and nothing shows that it is the same one.
        ConfigError
            If the id is none, or that of a simulated learner.
        """
        identity = caller.identity
        if identity is not None and learner_id not in ("", identity.name):
            raise AccessDenied
        learner_id = learner_id or (self._new_id() if identity is None else LearnerId(identity.name))
        if len(learner_id) > MAX_ID_LENGTH or not learner_id.isprintable():
            raise ConfigError("learner_id", learner_id, f"1 to {MAX_ID_LENGTH} printable characters")
        if self._has_relays and "/" in learner_id:
            allowed = "one without '/': where relays are allowed, that is the name of a learner below one"
            raise ConfigError("learner_id", learner_id, allowed)
        earlier = self._by_id.get(learner_id)
        incarnation, pace, unasked = 1, Pace(), Allowance(self._unasked_per_s, UNASKED)
        if earlier is not None and earlier.is_simulated:
            raise ConfigError(
                "learner_id", learner_id, "an id that no simulated learner of the controller's process has"
            )
        if earlier is not None:
            is_the_same = token == earlier.token or (address != "" and address == earlier.address)
            is_the_same = is_the_same or identity is not None
            if earlier.connection is not None and not is_the_same:
                raise Superseded(learner_id)
            del self._by_token[earlier.token]
            incarnation, pace, unasked = earlier.incarnation + 1, earlier.pace, earlier.unasked
            if earlier.connection is not None:
                earlier.connection.close()
        now = self._clock()
        member = Member(learner_id, new_token(), incarnation, now, now, unasked, address, pace)
        if earlier is not None:
            member.joined_at.extend(earlier.joined_at)
            member.warn_if_too_often(now)
        self._by_id[learner_id] = member
        self._by_token[member.token] = member
        return member

    def heard(self, token: Token, caller: Caller = LOCAL) -> Member:
        """Find who sends this, and renew its lease.

        Raises
        ------
        UnknownLearner
            If nobody has joined with this token, or not any more: a newer incarnation has, or the lease has ended; or
            another than the caller has.
        """
        member = self._by_token.get(token)
        if member is None or (caller.identity is not None and caller.identity.name != member.id):
            raise UnknownLearner(token[:6] + "...")
        member.heard(self._clock())
        return member

    def get(self, learner_id: LearnerId) -> Member | None:
        return self._by_id.get(learner_id)

    def remove(self, member: Member) -> None:
        """Forget a member and end its connection; it may join again."""
        if self._by_id.get(member.id) is member:
            del self._by_id[member.id]
            del self._by_token[member.token]
        if member.connection is not None:
            member.connection.close()

    def forgive(self, seconds: float) -> None:
        """Let every lease last longer: for so long, nobody could be heard."""
        for member in self._by_id.values():
            member.heard_at += seconds

    def silent(self, lease_s: float) -> list[Member]:
        """List those who were not heard for so long."""
        limit = self._clock() - lease_s
        return [member for member in self._by_id.values() if member.heard_at < limit]

    def _new_id(self) -> LearnerId:
        while True:
            self._named += 1
            learner_id = LearnerId(f"learner-{self._named}")
            if learner_id not in self._by_id:
                return learner_id
