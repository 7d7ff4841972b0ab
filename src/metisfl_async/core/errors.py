"""Everything this library raises; the branches say who can act.

Facts are positional attributes and ``__str__`` makes the sentence, so that errors pickle, travel over the wire by name,
and tests need not compare prose.
"""

from __future__ import annotations

import reprlib
from pathlib import PurePath

__all__ = [
    "AccessDenied",
    "CodecError",
    "ConfigError",
    "ConnectionLost",
    "Damaged",
    "MetisError",
    "ModelLost",
    "NoModel",
    "PeerTimeout",
    "ProtocolError",
    "QuorumLost",
    "RoundError",
    "StoreError",
    "Superseded",
    "TlsFailure",
    "TooLarge",
    "TransportError",
    "Truncated",
    "UnexpectedMessage",
    "UnknownDtype",
    "UnknownFederation",
    "UnknownLearner",
    "WrongProtocol",
    "brief",
]

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 100


def brief(value: object) -> str:
    """Show a value in an error text: a peer's may be megabytes long, or nested so deep that ``repr`` fails."""
    return _BRIEF.repr(str(value) if isinstance(value, PurePath) else value)


class MetisError(Exception):
    """The root of this library's errors."""


class ConfigError(MetisError, ValueError):
    """The caller passed something wrong."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.field, self.value, self.allowed = field, value, allowed

    def __str__(self) -> str:
        return f"{self.field} is {brief(self.value)}; allowed: {self.allowed}"


class CodecError(MetisError, ValueError):
    """The bytes are wrong: `where` names the part of the message, `what` says what is wrong with it."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(where, what)
        self.where, self.what = where, what

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Damaged(CodecError):
    """The content contradicts itself, its digest or the rules of the format."""


class Truncated(CodecError):
    """The bytes end before the message does."""


class TooLarge(CodecError):
    """The message claims or holds more than the receiver takes."""


class UnknownDtype(CodecError):
    """A tensor has a dtype that is not carried."""


class ProtocolError(MetisError):
    """The peer broke the rules."""


class AccessDenied(ProtocolError):
    """The caller may not do this. Why is in the controller's log only: a stranger learns nothing from it."""

    def __str__(self) -> str:
        return (
            "access is denied: there is no certificate or token, or it is unknown or revoked, or it is another role's "
            "or another learner's"
        )


class UnknownLearner(ProtocolError):
    """Nobody has joined with this token, or not any more."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.token = token

    def __str__(self) -> str:
        return f"no learner has joined with token {self.token!r}, or it has joined again since, or its lease ended"


class Superseded(ProtocolError):
    """A newer connection of the same learner has taken over."""

    def __init__(self, learner: str) -> None:
        super().__init__(learner)
        self.learner = learner

    def __str__(self) -> str:
        return f"learner {self.learner!r} is connected elsewhere; two learners need two ids"


class UnknownFederation(ProtocolError):
    """The controller runs another federation than the one that is meant, or none."""

    def __init__(self, meant: str, running: str) -> None:
        super().__init__(meant, running)
        self.meant, self.running = meant, running

    def __str__(self) -> str:
        runs = f"federation {self.running}" if self.running else "none"
        return (
            f"federation {brief(self.meant)} is meant, but this controller runs {runs}: was it started again meanwhile?"
        )


class WrongProtocol(ProtocolError):
    """The peer speaks another version of the protocol."""

    def __init__(self, peer: str, theirs: int, ours: int) -> None:
        super().__init__(peer, theirs, ours)
        self.peer, self.theirs, self.ours = peer, theirs, ours

    def __str__(self) -> str:
        theirs = f"version {self.theirs}" if self.theirs else "a version without a number"
        return f"{self.peer} speaks {theirs} of the protocol, this side version {self.ours}; install the same release"


class UnexpectedMessage(ProtocolError):
    """The message is not allowed now; the text says why and what would be."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return self.what


class TransportError(MetisError, OSError):
    """The connection failed."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(address, reason)
        self.address, self.reason = address, reason

    def __str__(self) -> str:
        return f"{self.address}: {self.reason}"


class ConnectionLost(TransportError):
    """The peer could not be reached, or went away."""


class TlsFailure(ConnectionLost):
    """The peer is there, but the certificates, of one side or the other, do not allow to speak with it."""


class PeerTimeout(TransportError):
    """The peer did not answer in time."""


class RoundError(MetisError):
    """Training cannot go on."""


class QuorumLost(RoundError):
    """Too few learners are there, or report, for the federation to go on."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return self.why


class NoModel(RoundError):
    """An aggregation rule made no model that can be published; with `keeps_updates`, more updates may help."""

    def __init__(self, why: str, keeps_updates: bool = False) -> None:
        super().__init__(why, keeps_updates)
        self.why, self.keeps_updates = why, keeps_updates

    def __str__(self) -> str:
        return self.why


class StoreError(MetisError):
    """A model could not be kept or read: `where` names the directory, file or server, `why` what it said."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(where, why)
        self.where, self.why = where, why

    def __str__(self) -> str:
        return f"{self.where}: {self.why}"


class ModelLost(StoreError):
    """What was kept is damaged or gone; trying again changes nothing."""
