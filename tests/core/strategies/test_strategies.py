"""Rules, schedulers, selectors, scaling factors and hooks, given by name and as the user's own objects."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
from rules import of
from sandbox import A, B, C, training

from metisfl_async.core.config import ControllerConfig, EncryptionConfig, TerminationSignals, TerminationSingals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.course import Phase
from metisfl_async.core.federation.tasks import TaskKind, TaskState
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Json
from metisfl_async.core.strategies.aggregation.by_name import RULES, rule_by_name
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.scheduling import Asynchronous, Scheduler, SemiSynchronous, Synchronous
from metisfl_async.core.strategies.selection import Scheduled, ScheduledCardinality, Selector

# --- by name -------------------------------------------------------------------------------------------------------

NEEDED: dict[str, dict[str, Json]] = {  #: parameters without a default
    "CenteredClipping": {"tau": 1.0},
    "NormBound": {"tau": 1.0},
    "PrivateAverage": {"clip": 1.0, "noise_multiplier": 1.0, "denominator": 7, "delta": 1e-5},
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_has_a_name(name: str) -> None:
    params = NEEDED.get(name, {})
    scheduler = "Asynchronous" if rule_by_name(name, params).in_rounds is False else "Synchronous"
    config = ControllerConfig(
        aggregation_rule=name,
        rule_params=params,
        scheduler=scheduler,
        min_learners=7,
        scaling_factor="NumParticipants",
    )
    assert type(config.new_rule()).__name__ == name


def test_stride_length_is_fedstrides() -> None:
    rule = ControllerConfig(aggregation_rule="FedStride", stride_length=4).new_rule()
    assert isinstance(rule, FedStride)
    assert rule.stride_length == 4
    assert ControllerConfig(aggregation_rule="FedStride").new_rule().stride_length is None


def test_each_scheduler_has_a_name() -> None:
    assert type(ControllerConfig().new_scheduler()) is Synchronous
    assert type(ControllerConfig(scheduler="Asynchronous").new_scheduler()) is Asynchronous
    fitted = ControllerConfig(scheduler="SemiSynchronous", semi_sync_lambda=1.5).new_scheduler()
    assert isinstance(fitted, SemiSynchronous)
    assert (fitted.semi_sync_lambda, fitted.recompute_num_updates) == (1.5, False)
    anew = ControllerConfig(scheduler="SemiSynchronous", semi_sync_lambda=2, semi_sync_recompute_num_updates=True)
    assert isinstance(scheduler := anew.new_scheduler(), SemiSynchronous)
    assert scheduler.recompute_num_updates


def test_each_selector_has_a_name_and_a_default_that_fits() -> None:
    assert type(ControllerConfig().new_selector()) is Scheduled
    assert type(ControllerConfig(scheduler="Asynchronous").new_selector()) is ScheduledCardinality
    assert type(ControllerConfig(selector="ScheduledCardinality").new_selector()) is ScheduledCardinality
    recent = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec", selector="Scheduled")
    assert type(recent.new_selector()) is Scheduled


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"aggregation_rule": "FedBuff"},
            "scheduler is 'Synchronous'; allowed: Asynchronous, which the rule FedBuff needs",
        ),
        ({"aggregation_rule": "FedAsync", "scheduler": "SemiSynchronous", "semi_sync_lambda": 1.0}, "Asynchronous, wh"),
        ({"scheduler": "SemiSynchronous"}, "semi_sync_lambda is None; allowed: a finite number > 0, which scheduler"),
        ({"scheduler": "SemiSynchronous", "semi_sync_lambda": 0.0}, "semi_sync_lambda is 0.0; allowed: a finite"),
        (
            {"scheduler": "SemiSynchronous", "semi_sync_lambda": 1.0, "semi_sync_recompute_num_updates": 1},
            "semi_sync_recompute_num_updates is 1; allowed: True or False",
        ),
        ({"aggregation_rule": "FedStride", "stride_length": 0}, "stride_length is 0; allowed: an integer >= 1"),
        ({"scheduler": "Asynchronous", "selector": "Scheduled"}, "selector is 'Scheduled'; allowed: 'ScheduledCard"),
        ({"scaling_factor": 3}, "scaling_factor is 3; allowed: NumTrainingExamples, NumCompletedBatches, NumPart"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        ControllerConfig(**options)
    assert str(error.value).startswith(message) or message in str(error.value)


def test_a_rule_may_be_for_rounds_only() -> None:
    class OnlyRounds(FedAvg):
        in_rounds = True

    ControllerConfig(aggregation_rule=OnlyRounds())
    with pytest.raises(ConfigError, match="scheduler is 'Asynchronous'; allowed: Synchronous or SemiSynchronous"):
        ControllerConfig(aggregation_rule=OnlyRounds(), scheduler="Asynchronous")


def test_secure_aggregation_is_refused_by_name() -> None:
    for options in ({}, {"he_scheme": "CKKS", "public_key": "key.pem"}):
        with pytest.raises(ConfigError, match="EncryptionConfig is 'CKKS'; allowed: None: secure aggregation"):
            EncryptionConfig(**options)  # type: ignore[arg-type]
    assert TerminationSingals is TerminationSignals


def test_a_configuration_can_be_copied_with_changes() -> None:
    config = ControllerConfig(min_learners=2, aggregation_rule="FedRec")
    changed = dataclasses.replace(config, min_learners=3)
    assert (changed.min_learners, changed.aggregation_rule) == (3, "FedRec")


# --- as objects ----------------------------------------------------------------------------------------------------


def test_objects_are_copied_so_that_controllers_share_nothing() -> None:
    rule, scheduler, selector = FedBuff(2), Asynchronous(), ScheduledCardinality(1.0, 1)
    config = ControllerConfig(aggregation_rule=rule, scheduler=scheduler, selector=selector)
    first, second = config.new_rule(), config.new_rule()
    first.start(of(1.0))
    assert isinstance(first, FedBuff)
    assert first.updates_per_version == 2
    assert len({id(rule), id(first), id(second)}) == 3
    assert config.new_scheduler() is not scheduler
    assert config.new_selector() is not selector


class MostOfThem(Scheduler):
    """Does not wait for the last ones."""

    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        return len(reported) >= 2


def test_a_scheduler_of_the_users_own_may_close_a_round_early() -> None:
    sandbox = training(A, B, C, config=ControllerConfig(scheduler=MostOfThem(), evaluate_every=0))
    sandbox.train(A)
    late, whole = sandbox.begin_upload(B), sandbox.upload(C)
    assert sandbox.phase() is Phase.TRAINING
    sandbox.fold(whole)
    assert late.state is TaskState.LATE
    assert late.reason == "round 1 was closed without it by its scheduler"
    assert sandbox.withdrawn == [late]
    sandbox.publish()
    assert sandbox.records[0].participants == [A, C]


def test_an_update_that_is_whole_counts_though_the_round_was_closed_without_it() -> None:
    sandbox = training(A, B, C, config=ControllerConfig(scheduler=MostOfThem(), evaluate_every=0))
    whole = sandbox.upload(C)
    sandbox.train(A, B)
    assert sandbox.aggregating is None
    sandbox.fold(whole)
    sandbox.publish()
    assert sandbox.records[0].participants == [A, B, C]


class Chooses(Selector):
    def __init__(self, *chosen: str) -> None:
        self.chosen = [LearnerId(name) for name in chosen]

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        return self.chosen


def test_a_selector_of_the_users_own_decides_who_is_asked() -> None:
    sandbox = training(A, B, C, config=ControllerConfig(selector=Chooses("c", "a")))
    assert [task.learner for task in sandbox.offers] == [C, A]
    assert list(Chooses("a").others({A}, {A, B})) == []
    with pytest.raises(ConfigError, match=r"participation_ratio is 0.5; allowed: 1.0: your selector decides"):
        ControllerConfig(selector=Chooses("a"), participation_ratio=0.5)


@pytest.mark.parametrize("chosen", ["", "aa", "az"])
def test_a_selector_that_chooses_what_is_not_there_is_a_bug(chosen: str) -> None:
    with pytest.raises(RuntimeError, match=r"the selector chose \[.*; allowed: some of \['a', 'b'\], each once"):
        training(A, B, config=ControllerConfig(selector=Chooses(*chosen)))


class Breaks(Synchronous):
    def is_due(self, reported: Sequence[LearnerId], awaited: Collection[LearnerId]) -> bool:
        raise ConfigError("something", 1, "2")


def test_an_error_of_ours_from_the_users_code_does_not_pass_for_a_callers_mistake() -> None:
    with pytest.raises(RuntimeError, match="scheduler failed: something is 1; allowed: 2"):
        training(A, B, config=ControllerConfig(scheduler=Breaks())).train(A)


def test_a_scaling_factor_of_the_users_own_is_taken_as_it_is() -> None:
    def alike(learner: LearnerId, metadata: object, metrics: object) -> float:
        return 1.0

    assert ControllerConfig(scaling_factor=alike).scaling_factor is alike


# --- scheduled cardinality -----------------------------------------------------------------------------------------


def test_a_cohort_of_one_is_joined_by_everybodys_latest() -> None:
    config = ControllerConfig(selector="ScheduledCardinality", participation_ratio=0.3, evaluate_every=0)
    sandbox = training(A, B, C, config=config)
    assert sandbox.strategies.keeps_updates
    seen: list[LearnerId] = []
    for _ in range(12):
        (learner,) = {task.learner for task in sandbox.offers if not task.state.is_final}
        sandbox.train(learner)
        assert list(sandbox.others) == sorted(set(seen) - {learner})
        seen.append(learner)
        sandbox.publish()
    assert set(seen) == {A, B, C}


def test_a_cohort_of_two_stands_alone() -> None:
    sandbox = training(A, B, config=ControllerConfig(selector="ScheduledCardinality", evaluate_every=0))
    sandbox.train(A, B)
    sandbox.publish()
    sandbox.train(A)
    sandbox.fail(B)  # was scheduled all the same
    assert list(sandbox.others) == []


def test_who_needs_no_updates_kept_keeps_none() -> None:
    assert not training(A).strategies.keeps_updates
    assert training(A, config=ControllerConfig(aggregation_rule=FedRec())).strategies.keeps_updates


# --- parameters ----------------------------------------------------------------------------------------------------


def test_a_hook_changes_the_parameters_of_single_tasks() -> None:
    def hook(kind: str, round_number: int, learner: str, params: dict[str, Json]) -> dict[str, Json]:
        params["seen"] = [kind, round_number, learner]
        return params

    config = ControllerConfig(train_params={"epochs": 1}, eval_params={"steps": [2]}, params_hook=hook)
    sandbox = training(A, B, config=config)
    assert [task.config for task in sandbox.offers] == [
        {"epochs": 1, "seen": ["train", 1, "a"]},
        {"epochs": 1, "seen": ["train", 1, "b"]},
    ]
    sandbox.train(A, B)
    sandbox.publish()
    assert [task.config for task in sandbox.offers if task.kind is TaskKind.EVALUATE] == [
        {"steps": [2], "seen": ["evaluate", 1, "a"]},
        {"steps": [2], "seen": ["evaluate", 1, "b"]},
    ]
    assert config.train_params == {"epochs": 1}


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda *_: None, "params_hook gave None; allowed: a dict"),
        (lambda *_: {"rate": object()}, r"params_hook failed: what params_hook gave\['rate'\] is <object"),
    ],
)
def test_what_a_hook_gives_is_checked(hook: Callable[..., Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        training(A, config=ControllerConfig(params_hook=hook))


@pytest.mark.parametrize(
    ("raised", "seen", "message"),
    [
        (SystemExit(3), RuntimeError, "params_hook failed: SystemExit: 3"),
        (asyncio.CancelledError("mine"), RuntimeError, "params_hook failed: CancelledError: mine"),
        (ValueError("wrong"), ValueError, "wrong"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
)
def test_a_hook_ends_no_event_loop(raised: BaseException, seen: type[BaseException], message: str) -> None:
    def hook(*_: object) -> dict[str, Json]:
        raise raised

    with pytest.raises(seen, match=message):
        training(A, config=ControllerConfig(params_hook=hook))


# --- semi-synchronous rounds ---------------------------------------------------------------------------------------


def test_from_the_second_round_on_batches_fit_the_slowest_learners_time() -> None:
    config = ControllerConfig(scheduler="SemiSynchronous", semi_sync_lambda=2.0, train_params={"epochs": 1})
    sandbox = training(A, B, config=config)
    assert [task.config for task in sandbox.offers] == [{"epochs": 1}] * 2  # the first round measures
    for learner, per_batch in ((A, 10.0), (B, 50.0)):
        sandbox.accept(learner)
        timing = {"processing_ms_per_batch": per_batch, "processing_ms_per_epoch": per_batch * 10}
        sandbox.fold(sandbox.upload(learner), 1.0, dict(timing))
    sandbox.publish()
    sandbox.evaluate(A, B)
    assert sandbox.task(A).config == {"epochs": 1, "num_local_updates": 100}
    assert sandbox.task(B).config == {"epochs": 1, "num_local_updates": 20}
    sandbox.leave(A)
    sandbox.train(B)
    sandbox.publish()
    sandbox.evaluate(B)
    sandbox.join(A)
    assert sandbox.records[-1].participants == [B]


class PlansForNobody(Synchronous):
    def train_params(self, *_: object) -> dict[LearnerId, dict[str, Json]]:
        return {}


def test_a_scheduler_that_forgets_a_learners_parameters_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="allowed: a dict for each of"):
        training(A, B, config=ControllerConfig(scheduler=PlansForNobody()))


class NamesStrangers(Selector):
    needs_updates = True

    def select(self, candidates: Sequence[LearnerId], num_busy: int, rng: random.Random) -> Sequence[LearnerId]:
        return candidates

    def others(self, scheduled: Collection[LearnerId], active: Collection[LearnerId]) -> Collection[LearnerId]:
        return [LearnerId("nobody")]


def test_a_selector_that_names_others_that_are_not_there_is_a_bug() -> None:
    sandbox = training(A, B, config=ControllerConfig(selector=NamesStrangers()))
    sandbox.train(A)
    with pytest.raises(RuntimeError, match=r"named \('nobody',\) as others; allowed: some of \[\], each once"):
        sandbox.train(B)
