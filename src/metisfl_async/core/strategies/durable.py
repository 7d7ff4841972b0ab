"""Whether what users configured can be taken up again after the controller died."""

from __future__ import annotations

from metisfl_async.core.config import ControllerConfig, ModelStoreConfig
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.strategies.aggregation.wrapper import Wrapper

__all__ = ["check_durable", "check_kept"]

OURS = __name__.partition(".")[0]


def check_durable(config: ControllerConfig, store: ModelStoreConfig) -> None:
    """Refuse what cannot be taken up again, where a federation must outlive its controller.

    Strategies of the user's say what they keep. With rounds, each global model is saved: a round is, when it opens.

    Raises
    ------
    ConfigError
        It names the class, and the two methods that it lacks; or the field.
    """
    if store.durable_every > 1 and config.new_scheduler().in_rounds:
        allowed = "1 with a scheduler that has rounds: each round goes on from a model that is saved"
        raise ConfigError("durable_every", store.durable_every, allowed)
    rule = config.new_rule()
    while isinstance(rule, Wrapper):
        _check("aggregation_rule", rule, must_say=True)
        rule = rule.rule
    _check("aggregation_rule", rule, must_say=True)
    for field, strategy in (("scheduler", config.new_scheduler()), ("selector", config.new_selector())):
        _check(field, strategy, must_say=bool(vars(strategy)))  # without attributes there is nothing to keep


def _check(field: str, strategy: object, *, must_say: bool) -> None:
    kind = type(strategy)
    says = next(each for each in kind.__mro__ if "state" in vars(each))
    if must_say and not _is_ours(kind) and _is_ours(says):
        allowed = (
            "a class with methods state() and restore() of its own, which say what it keeps from call to call: the "
            "model store outlives the controller. With model_store='InMemory', any class will do"
        )
        raise ConfigError(field, kind.__name__, allowed)


def check_kept(field: str, strategy: object, kept: object) -> None:
    """Refuse a state that nothing would ever take up again."""
    kind = type(strategy)
    if kept and _is_ours(next(each for each in kind.__mro__ if "restore" in vars(each))) and not _is_ours(kind):
        raise RuntimeError(f"the {field} {kind.__name__} has a state(), but no restore() of its own that takes it up")


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == OURS
