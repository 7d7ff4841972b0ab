"""The user's choices at work: asks rule, scheduler, selector and hook, and looks at what they answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar, cast

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.errors import MetisError
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json, checked_json
from metisfl_async.core.params import SharedValues, check_size
from metisfl_async.core.strategies.durable import check_kept
from metisfl_async.core.strategies.scheduling import Scheduler, Synchronous, Timing
from metisfl_async.core.strategies.selection import Selector

__all__ = ["Strategies"]

T = TypeVar("T")


class Strategies:
    """One federation's own rule, scheduler and selector. What they do wrong raises an error that is not one of ours."""

    def __init__(self, config: ControllerConfig) -> None:
        self.rule = config.new_rule()
        self._config = config
        self._scheduler, self._selector = config.new_scheduler(), config.new_selector()
        self._random = random.Random()
        self._shared = SharedValues(config.train_params, config.eval_params)
        self.in_rounds = self._scheduler.in_rounds
        #: whether a round waits for everybody: nothing hangs on the order in which they report
        self.waits_for_all = type(self._scheduler).is_due is Synchronous.is_due
        #: whether each learner's latest update is wanted again later
        self.keeps_updates = self.rule.needs_previous or (self.rule.starts_afresh and self._selector.needs_updates)

    def seed(self, seed: int) -> None:
        """Make what follows repeatable."""
        self._random = random.Random(seed)

    def state(self) -> dict[str, Json]:
        """Say what must survive of the generator, the scheduler and the selector."""
        version, numbers, gauss = self._random.getstate()
        return {
            "random": [version, list(numbers), gauss],
            "scheduler": _kept("scheduler", self._scheduler),
            "selector": _kept("selector", self._selector),
        }

    def restore(self, state: Mapping[str, Json]) -> None:
        """Take what `state` gave."""
        version, numbers, gauss = cast("tuple[int, list[int], float | None]", state["random"])
        self._random.setstate((version, tuple(numbers), gauss))
        _ask("scheduler", self._scheduler.restore, state["scheduler"])
        _ask("selector", self._selector.restore, state["selector"])

    def draw(self, learners: Sequence[LearnerId]) -> LearnerId:
        """Choose the one that gives the first weights."""
        return self._random.choice(learners)

    def select(self, candidates: Sequence[LearnerId], num_busy: int) -> list[LearnerId]:
        """Choose who trains."""
        chosen = list(_ask("selector", self._selector.select, candidates, num_busy, self._random))
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(candidates) or not (chosen or num_busy):
            raise RuntimeError(f"the selector chose {chosen}; allowed: some of {list(candidates)}, each once")
        return chosen

    def plan(
        self, cohort: Sequence[LearnerId], timings: Mapping[LearnerId, Timing]
    ) -> Mapping[LearnerId, Mapping[str, Json]]:
        """Give the training parameters of each learner of a cohort."""
        plans = _ask("scheduler", self._scheduler.train_params, cohort, self._config.train_params, timings)
        if not isinstance(plans, Mapping) or not set(cohort) <= plans.keys():
            raise RuntimeError(f"the scheduler gave {plans!r} as train_params; allowed: a dict for each of {cohort}")
        return plans

    def params(
        self, kind: TaskKind, round_number: int, learner: LearnerId, params: Mapping[str, Json]
    ) -> dict[str, Json]:
        """Let the user's hook change the parameters of one task."""
        hook = self._config.params_hook
        if hook is None and isinstance(params, Mapping):
            return _ask("the scheduler", self._shared.checked, params, "what the scheduler gave")
        checked = _checked("the scheduler", params)  # a copy, which the hook may change
        assert hook is not None
        return _checked("params_hook", _ask("params_hook", hook, kind.value, round_number, learner, checked))

    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        """Whether to make a global model."""
        return bool(_ask("scheduler", self._scheduler.is_due, reported, awaited))

    def others(self, scheduled: Collection[LearnerId], active: Collection[LearnerId]) -> tuple[LearnerId, ...]:
        """Say whose latest updates join the mean."""
        if not self.rule.starts_afresh:
            return ()
        others = tuple(sorted(_ask("selector", self._selector.others, scheduled, active)))
        allowed = set(active).difference(scheduled) if self._selector.needs_updates else set()
        if len(set(others)) < len(others) or not allowed.issuperset(others):
            raise RuntimeError(f"the selector named {others} as others; allowed: some of {sorted(allowed)}, each once")
        return others


def _kept(field: str, strategy: Scheduler | Selector) -> Json:
    kept = _ask(field, strategy.state)
    check_kept(field, strategy, kept)
    return kept


def _checked(who: str, params: object) -> dict[str, Json]:
    """Copy the parameters of a task, which must be what a message can carry."""
    checked = _ask(who, checked_json, params, f"what {who} gave")
    if not isinstance(checked, dict):
        raise RuntimeError(f"{who} gave {checked!r}; allowed: a dict")
    _ask(who, check_size, checked, f"what {who} gave")
    return checked


def _ask(what: str, function: Callable[..., T], *args: object) -> T:
    """Call the user's code; an error of ours that it raises is still its bug, not a caller's mistake.

    So is what would end the event loop, or look as if it were cancelled.
    """
    try:
        return function(*args)
    except MetisError as error:
        raise RuntimeError(f"{what} failed: {error}") from error
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise RuntimeError(f"{what} failed: {type(error).__name__}: {error}") from error
