"""Who takes part in a session: how its controller is reached, and its learners, checked and told apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from metisfl_async.controller.controller import Controller
from metisfl_async.core.config import ClientParams, ServerParams, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.driver.central import Evaluate
from metisfl_async.learner.learner import Learner
from metisfl_async.simulation.simulation import Simulation
from metisfl_async.transport.base import ControllerLink
from metisfl_async.transport.grpc_link import GrpcLink

__all__ = [
    "LearnersGiven",
    "RemoteOptions",
    "check_options",
    "check_remote",
    "checked_learners",
    "link_to",
    "told_apart",
]

KINDS = (Learner, ServerParams, ClientParams)
LearnersGiven: TypeAlias = (
    Sequence[Learner | ServerParams | ClientParams] | Mapping[str, Learner] | Simulation | int
)  #: what users give


class RemoteOptions(TypedDict, total=False):
    """Options of a session whose controller and learners run elsewhere."""

    initial_weights: Any
    evaluate: Evaluate | None
    seed: int
    join_timeout_secs: float | None
    keep_running: bool
    lost_secs: float | None


def link_to(controller: Controller | ClientParams | ServerParams) -> ControllerLink:
    """Make a link to a live controller, or to a remote one."""
    match controller:
        case Controller():
            return controller.connect()
        case ServerParams():
            return GrpcLink(controller.client_params())
        case ClientParams():
            return GrpcLink(controller)


def check_options(
    controller: object,
    termination_signals: object,
    evaluate: object,
    join_timeout_secs: float | None,
    lost_secs: float | None,
) -> None:
    """Refuse what cannot be, and signals that a live controller's configuration cannot reach."""
    if not isinstance(controller, Controller | ClientParams | ServerParams):
        raise ConfigError("controller", controller, "a Controller, or the ClientParams or ServerParams of one")
    if not isinstance(termination_signals, TerminationSignals):
        raise ConfigError("termination_signals", termination_signals, "a TerminationSignals")
    if evaluate is not None and not (callable(evaluate) and _takes_two(evaluate)):
        raise ConfigError("evaluate", evaluate, "a function (parameters, round_number) -> metrics, or None")
    if isinstance(controller, Controller):
        controller.controller_config.check_signals(termination_signals, evaluates=evaluate is not None)
    for name, secs in (("join_timeout_secs", join_timeout_secs), ("lost_secs", lost_secs)):
        if secs is not None and not secs > 0:
            raise ConfigError(name, secs, "a number > 0, or None")


def _takes_two(function: Callable[..., object]) -> bool:
    """Whether a function can be called with two arguments; some that are written in C do not say it."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def check_remote(controller: object, wait_for: object) -> None:
    """Refuse what is in this process."""
    if not isinstance(controller, ClientParams | ServerParams):
        allowed = "the ClientParams of a controller elsewhere; one of this process is given to DriverSession itself"
        raise ConfigError("controller", controller, allowed)
    if not isinstance(wait_for, int) and not (
        isinstance(wait_for, Sequence)
        and wait_for
        and all(isinstance(x, ServerParams | ClientParams) for x in wait_for)
    ):
        allowed = "how many learners to wait for, or a list of the addresses of those that listen"
        raise ConfigError("wait_for", wait_for, allowed)


Parties: TypeAlias = tuple[dict[str, Learner], list[ServerParams | ClientParams], int]
"""The live ones by name, the addresses of those that listen, and how many learners there are in all."""


def checked_learners(controller: Controller | ClientParams | ServerParams, learners: LearnersGiven) -> Parties:
    """Tell learners apart, and refuse those that this controller cannot reach."""
    live, named, count = told_apart(learners)
    _check_fit(controller, learners, count - (count if isinstance(learners, Simulation) else len(live)))
    return live, named, count


def told_apart(learners: LearnersGiven) -> Parties:
    """Say which learners are given."""
    if isinstance(learners, Simulation):
        return {}, [], len(learners)
    if isinstance(learners, Mapping):
        if not all(isinstance(name, str) and name and isinstance(x, Learner) for name, x in learners.items()):
            raise ConfigError("learners", learners, "ids that are not empty, each with a live Learner object")
        names, learners = list(learners), list(learners.values())
    else:
        names = []
    if isinstance(learners, int):
        if isinstance(learners, bool) or learners < 1:
            raise ConfigError("learners", learners, "at least 1")
        return {}, [], learners
    if not isinstance(learners, Sequence) or not learners or not all(isinstance(x, KINDS) for x in learners):
        allowed = "a list of live Learner objects, or of the ServerParams of remote ones, or the number of remote ones"
        raise ConfigError("learners", learners, allowed)
    live = [x for x in learners if isinstance(x, Learner)]
    if len(set(map(id, live))) < len(live):
        raise ConfigError("learners", learners, "a list in which no Learner object stands twice")
    names = names or [f"learner-{index}" for index in range(len(live))]
    named = dict(zip(names, live, strict=True))
    _check_apart(named)
    return named, [x for x in learners if not isinstance(x, Learner)], len(learners)


def _check_fit(controller: Controller | ClientParams | ServerParams, learners: LearnersGiven, num_remote: int) -> None:
    """Refuse learners that this controller cannot reach; so many of them do not run in this process."""
    if not isinstance(controller, Controller):
        if isinstance(learners, Simulation):
            raise ConfigError("controller", controller, "a Controller of this process, for learners that are simulated")
        return
    if isinstance(learners, Simulation):
        learners.check(controller.controller_config.scaling_factor)
    if controller.server_params is None:
        if isinstance(learners, int) or num_remote:
            allowed = "live Learner objects; to wait for others, give the controller server_params"
            raise ConfigError("learners", learners, allowed)
        count, least = len(learners), controller.controller_config.min_learners
        if least > count:
            allowed = f"at most the {count} learners of this session: the controller has no port for others"
            raise ConfigError("min_learners", least, allowed)


def _check_apart(learners: Mapping[str, Learner]) -> None:
    """Refuse what two learners would train at the same time."""
    owners: dict[Hashable, tuple[str, str]] = {}
    for name, learner in learners.items():
        for key, what in learner.belongings().items():
            owner, before = owners.setdefault(key, (name, what))
            if owner != name:
                shared = f"{before} of {owner} is {what} of {name}"
                raise ConfigError("learners", shared, "a model for each, such as copy.deepcopy(model)")
