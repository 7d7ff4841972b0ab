"""Who may do what: one table from methods to roles, and one place that looks into it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from metisfl_async.core.errors import AccessDenied, ConfigError

__all__ = ["LOCAL", "MAY_CALL", "Caller", "Identity", "Role", "authorise", "identity_from_uri", "parsed_identity"]

SCHEME = "metisfl://"
MAX_NAME = 128


class Role(StrEnum):
    LEARNER = "learner"
    DRIVER = "driver"
    OBSERVER = "observer"
    CONTROLLER = "controller"  #: as it dials a learner that listens


_LEARNERS = frozenset({Role.LEARNER})
_DRIVERS = frozenset({Role.DRIVER})
_WATCHERS = frozenset({Role.DRIVER, Role.OBSERVER})
_CONTROLLERS = frozenset({Role.CONTROLLER})
_ALL = frozenset(Role)

#: Whatever is not in it, nobody may call; by the service's name, and the method's.
MAY_CALL: dict[str, dict[str, frozenset[Role]]] = {
    "metisfl_async.v1.Controller": {
        "JoinFederation": _LEARNERS,
        "Tasks": _LEARNERS,
        "Report": _LEARNERS,
        "FetchModel": _LEARNERS,
        "TrainDone": _LEARNERS,
        "LeaveFederation": _LEARNERS,
        "SetInitialModel": _DRIVERS,
        "StartTraining": _DRIVERS,
        "ReportEvaluation": _DRIVERS,
        "Ask": _DRIVERS,
        "StopTraining": _DRIVERS,
        "ShutDown": _DRIVERS,
        "GetStatus": _WATCHERS,
        "WatchEvents": _WATCHERS,
        "GetLogs": _WATCHERS,
        "GetModel": _WATCHERS,
    },
    "metisfl_async.v1.Learner": {
        "ConfirmJoin": _CONTROLLERS,
        "Train": _CONTROLLERS,
        "Evaluate": _CONTROLLERS,
        "ShutDown": _CONTROLLERS,
        "Tell": _CONTROLLERS,
        "GetModel": _CONTROLLERS,
        "SetInitialModel": _CONTROLLERS,
    },
    "grpc.health.v1.Health": {"Check": _ALL, "Watch": _ALL, "List": _ALL},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _ALL},
}


class Identity(NamedTuple):
    """A person or a machine, as its credential says."""

    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.role}/{self.name}"

    @property
    def uri(self) -> str:
        """What stands in a certificate, as an alternative name."""
        return f"{SCHEME}{self}"


def identity_from_uri(uri: str) -> Identity | None:
    """Read what `Identity.uri` wrote; None if it is something else."""
    try:
        return parsed_identity("uri", uri.removeprefix(SCHEME)) if uri.startswith(SCHEME) else None
    except ConfigError:
        return None


def parsed_identity(field: str, text: str) -> Identity:
    """Read ``role/name``.

    Raises
    ------
    ConfigError
        It names `field`.
    """
    role, _, name = text.partition("/")
    is_name = 0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()
    if role not in tuple(Role) or not is_name:
        raise ConfigError(field, text, f"a role ({', '.join(Role)}), '/', and 1 to {MAX_NAME} printable characters")
    return Identity(Role(role), name)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Without an identity, at a server that asks for none, anybody may do everything."""

    peer: str  #: the address, as far as it is known
    identity: Identity | None = None

    def __str__(self) -> str:
        return f"{self.identity or 'somebody'} at {self.peer}"


LOCAL = Caller("this process")


def authorise(service: str, method: str, caller: Caller) -> None:
    """Look into the table.

    Raises
    ------
    AccessDenied
        If the table does not have the method, or not for the caller's role.
    """
    roles = MAY_CALL.get(service, {}).get(method, frozenset())
    if not roles or (caller.identity is not None and caller.identity.role not in roles):
        raise AccessDenied
