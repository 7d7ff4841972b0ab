"""How the controller trains, as users decide it; names are MetisFL's where MetisFL has the option."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

from metisfl_async.core.checks import heartbeats, integer, number, one_of, positive
from metisfl_async.core.codecs import DOWNLOAD_CODECS, RAW, UPDATE_CODECS, is_update_codec
from metisfl_async.core.config.endpoints import ClientParams, ServerParams, named_learners
from metisfl_async.core.config.signals import CENTRAL, TerminationSignals
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json, checked_json, requested_names
from metisfl_async.core.params import check_size
from metisfl_async.core.spelling import spelled
from metisfl_async.core.strategies.aggregation.by_name import RULES, rule_by_name
from metisfl_async.core.strategies.aggregation.fedavg import FedStride
from metisfl_async.core.strategies.aggregation.reproducible_sum import MOST_ADDED, ReproducibleSum
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.core.strategies.scaling import SCALING_FACTORS, ScalingFactor, name_of
from metisfl_async.core.strategies.scheduling import Asynchronous, Scheduler, SemiSynchronous, Synchronous
from metisfl_async.core.strategies.selection import Scheduled, ScheduledCardinality, Selector

__all__ = ["ControllerConfig", "EncryptionConfig", "ParamsHook"]

ParamsHook: TypeAlias = Callable[[str, int, str, dict[str, Json]], dict[str, Json]]
"""Called for each task with its kind ("train" or "evaluate"), round, learner and parameters; gives the parameters."""

MOST_RELAYED = MOST_ADDED // 16  #: so that one that lies does not take the place of all others
SCHEDULERS = ("Synchronous", "SemiSynchronous", "Asynchronous")
SELECTORS = {"Scheduled": Scheduled, "ScheduledCardinality": ScheduledCardinality}
NO_ENCRYPTION = "None: secure aggregation (SecAgg) is not implemented yet; the controller sees every update"


@spelled
@dataclass(frozen=True, kw_only=True, slots=True)
class ControllerConfig:
    """How the controller trains: what is averaged, when a round ends, and what its peers may use.

    Rule, scheduler, selector and scaling factor are given by name or as your own object. `crypto_context`, `batch_size`
    and `scaling_factor_bits` are MetisFL's options for SecAgg, which is refused so far.
    """

    aggregation_rule: str | AggregationRule = "FedAvg"  #: how updates become a global model
    rule_params: dict[str, Any] = field(default_factory=dict)  #: of a rule that is given by name; {} = its defaults
    scheduler: str | Scheduler = "Synchronous"  #: when one is made: "Synchronous", "SemiSynchronous", "Asynchronous"
    scaling_factor: str | ScalingFactor = "NumTrainingExamples"  #: the weight of an update in the mean
    max_weight: float = 1e9  #: an update that claims more is refused; bounds what a learner makes of itself
    max_relayed_learners: int = 0  #: how many may be behind one relay, whose updates come as one sum; 0 = no relays
    selector: str | Selector | None = None  #: None = "Scheduled" with rounds, "ScheduledCardinality" without
    stride_length: int | None = None  #: for FedStride; None = all learners of a round
    semi_sync_lambda: float | None = None  #: for SemiSynchronous: a round is so many epochs of its slowest learner
    semi_sync_recompute_num_updates: bool | None = None  #: for SemiSynchronous: fit the batches anew in every round
    semi_sync_max_slowness: float | None = None  #: for SemiSynchronous: the slowest is so many medians slow; None = 10
    train_params: dict[str, Any] = field(default_factory=dict)  #: given to every `Learner.train` as its `config`
    eval_params: dict[str, Any] = field(default_factory=dict)  #: given to every `Learner.evaluate`
    params_hook: ParamsHook | None = None  #: changes them for a task: ``hook(kind, round_number, learner, params)``
    cutoff_score: Literal["mean", "median", "quorum"] = "mean"  #: which of the learners' scores ends it
    best_metric: str | None = None  #: keep the model that scores best, too: "accuracy", or "central/..." of the session
    best_mode: Literal["max", "min"] = "max"  #: whether high scores are good (accuracy), or low ones (loss)
    evaluate_every: int = 1  #: evaluate the global model of every k-th round on its cohort; 0 = never
    participation_ratio: float = 1.0  #: share of the connected learners at work, drawn with the session's seed
    min_learners: int = 1  #: how many must report for a round to count
    round_timeout_secs: float | None = None  #: for training, and again for evaluation; None = as long as learners live
    quorum_timeout_secs: float | None = 600.0  #: how long to wait for `min_learners` to be there again; None = for ever
    max_failed_rounds: int = 3  #: rounds in a row without `min_learners` updates, or without a model, before giving up
    update_codec: str = RAW  #: how updates travel: "raw", or in fewer bytes: "bf16", "int8", "topk:0.01"
    download_codec: str = RAW  #: how global models travel to learners: "raw", "bf16", "int8"; the final one: raw
    max_model_bytes: int = 4 * 2**30  #: a larger update is refused on its header
    max_inflight_bytes: int = 128 * 2**20  #: updates being received at one time; at least one always is
    max_downloads: int = 64  #: learners that fetch a model at one time; each may take 2 MiB of buffers
    heartbeat_secs: float = 10.0  #: how often a learner shows that it lives
    lease_secs: float = 60.0  #: a learner that was silent for so long is taken out
    on_driver_lost: Literal["finish", "stop"] = "finish"  #: without a driver: go on to the end, or stop at once ...
    driver_lost_secs: float | None = 600.0  #: ... once none was there for so long; then end, too. None = wait for ever
    farewell_timeout_secs: float = 600.0  #: for learners to fetch the final model and leave, in all
    upload_idle_secs: float = 60.0  #: an update is dropped when no byte came for so long; its learner sends it again
    min_upload_bytes_per_sec: float = 1000.0  #: or when less than this came, over `upload_idle_secs`; 0 = no limit
    #: Those that listen and may be dialled; a driver may name more.
    learners: Sequence[ClientParams | ServerParams] = ()
    crypto_context: InitVar[None] = None
    batch_size: InitVar[None] = None
    scaling_factor_bits: InitVar[None] = None

    def __post_init__(self, crypto_context: None, batch_size: None, scaling_factor_bits: None) -> None:
        if batch_size is not None:
            raise ConfigError(
                "batch_size", batch_size, f"{NO_ENCRYPTION}; for training, train_params={{'batch_size': ...}}"
            )
        _refuse_encryption({"crypto_context": crypto_context, "scaling_factor_bits": scaling_factor_bits})
        for name in ("train_params", "eval_params"):
            params = checked_json(getattr(self, name), name)
            if not isinstance(params, dict):
                raise ConfigError(name, params, "a dict")
            check_size(params, name)
            for key in ("metrics", "metadata") if name == "train_params" else ("metrics",):
                requested_names(params, key, name)
            object.__setattr__(self, name, params)
        if self.params_hook is not None and not callable(self.params_hook):
            raise ConfigError(
                "params_hook", self.params_hook, "a function (kind, round_number, learner, params) -> params, or None"
            )
        one_of("cutoff_score", self.cutoff_score, ("mean", "median", "quorum"))
        params = checked_json(self.rule_params, "rule_params")
        if not isinstance(params, dict):
            raise ConfigError("rule_params", params, "a dict")
        object.__setattr__(self, "rule_params", params)
        integer("evaluate_every", self.evaluate_every, 0)
        one_of("best_mode", self.best_mode, ("max", "min"))
        if self.best_metric is not None and (not isinstance(self.best_metric, str) or not self.best_metric):
            raise ConfigError("best_metric", self.best_metric, "the name of a metric, such as 'accuracy', or None")
        if self.best_metric is not None and not self.evaluate_every and not self.best_metric.startswith(CENTRAL):
            allowed = f"None, or '{CENTRAL}...', with evaluate_every=0: learners evaluate nothing"
            raise ConfigError("best_metric", self.best_metric, allowed)
        positive("participation_ratio", self.participation_ratio, most=1)
        integer("min_learners", self.min_learners, 1)
        integer("max_failed_rounds", self.max_failed_rounds, 1)
        integer("max_model_bytes", self.max_model_bytes, 1)
        integer("max_inflight_bytes", self.max_inflight_bytes, 1)
        integer("max_downloads", self.max_downloads, 1)
        integer("max_relayed_learners", self.max_relayed_learners, 0)
        one_of("on_driver_lost", self.on_driver_lost, ("finish", "stop"))
        for name in ("round_timeout_secs", "quorum_timeout_secs", "driver_lost_secs"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        heartbeats(self.heartbeat_secs, self.lease_secs)
        positive("upload_idle_secs", self.upload_idle_secs)
        positive("farewell_timeout_secs", self.farewell_timeout_secs)
        number("min_upload_bytes_per_sec", self.min_upload_bytes_per_sec, least=0)
        object.__setattr__(self, "learners", named_learners("learners", self.learners))
        positive("max_weight", self.max_weight, most=2**53)
        if not is_update_codec(self.update_codec):
            raise ConfigError("update_codec", self.update_codec, UPDATE_CODECS)
        one_of("download_codec", self.download_codec, DOWNLOAD_CODECS)
        if not callable(self.scaling_factor):
            one_of("scaling_factor", self.scaling_factor, tuple(SCALING_FACTORS))
        self._check_strategies()

    def _check_strategies(self) -> None:
        """Make each once, and see whether they go together."""
        rule, scheduler, selector = self.new_rule(), self.new_scheduler(), self.new_selector()
        if rule.in_rounds is not None and rule.in_rounds is not scheduler.in_rounds:
            allowed = "Synchronous or SemiSynchronous" if rule.in_rounds else "Asynchronous"
            raise ConfigError("scheduler", self.scheduler, f"{allowed}, which the rule {type(rule).__name__} needs")
        if self.max_relayed_learners and not (rule.is_mean and scheduler.in_rounds):
            allowed = f"0 with {type(rule).__name__} and {type(scheduler).__name__}: only a mean in rounds takes sums"
            raise ConfigError("max_relayed_learners", self.max_relayed_learners, allowed)
        if rule.sum_form is ReproducibleSum and self.max_relayed_learners > MOST_RELAYED:
            allowed = f"at most {MOST_RELAYED:,} with reproducible=True, where {MOST_ADDED:,} updates can make a model"
            raise ConfigError("max_relayed_learners", self.max_relayed_learners, allowed)
        if self.update_codec != RAW and not scheduler.in_rounds:
            allowed = f"{RAW!r} without rounds: a change says nothing where the model that it changes may be gone"
            raise ConfigError("update_codec", self.update_codec, allowed)
        if self.update_codec != RAW and not rule.takes_rounded:
            allowed = f"{RAW!r} with {type(rule).__name__}, which needs the numbers as they are"
            raise ConfigError("update_codec", self.update_codec, allowed)
        if self.min_learners < rule.min_updates:
            allowed = f"at least {rule.min_updates}, which {type(rule).__name__} needs to keep what it promises"
            raise ConfigError("min_learners", self.min_learners, allowed)
        if rule.is_private and self.scaling_factor != "NumParticipants":
            allowed = f"'NumParticipants' with {type(rule).__name__}: every learner weighs the same"
            raise ConfigError("scaling_factor", name_of(self.scaling_factor), allowed)
        if rule.is_private and isinstance(scheduler, SemiSynchronous):
            allowed = f"'Synchronous' with {type(rule).__name__}: else each learner's speed shows in what others train"
            raise ConfigError("scheduler", self.scheduler, allowed)
        if rule.is_private and selector.needs_updates:
            allowed = f"'Scheduled' with {type(rule).__name__}: each round has its own learners' updates, and no others"
            raise ConfigError("selector", self.selector, allowed)
        if not scheduler.in_rounds and rule.starts_afresh and self.selector is not None and not selector.needs_updates:
            allowed = (
                f"'ScheduledCardinality' (or None), since {type(rule).__name__} without rounds would be the latest "
                "update alone; or the rule FedRec, FedAsync or FedBuff"
            )
            raise ConfigError("selector", self.selector, allowed)
        if self.best_metric is not None and not scheduler.in_rounds:
            allowed = "None with Asynchronous: a model is replaced before it is known how good it was"
            raise ConfigError("best_metric", self.best_metric, allowed)
        if isinstance(self.selector, Selector) and self.participation_ratio != 1.0:
            raise ConfigError(
                "participation_ratio", self.participation_ratio, "1.0: your selector decides who is asked"
            )

    def check_signals(self, signals: TerminationSignals, *, evaluates: bool = False) -> None:
        """Refuse what is never measured when it trains like this; `evaluates`: whether the session does."""
        in_rounds, every = self.new_scheduler().in_rounds, self.evaluate_every
        signals.check(in_rounds=in_rounds, evaluate_every=every, evaluates=evaluates)
        if self.best_metric is not None and self.best_metric.startswith(CENTRAL) and not evaluates:
            allowed = f"a metric of the learners; a session measures {CENTRAL}... if it is given `evaluate`"
            raise ConfigError("best_metric", self.best_metric, allowed)

    def new_rule(self) -> AggregationRule:
        """Make the aggregation rule; an object of the user's is copied."""
        rule, stride_length = self.aggregation_rule, self.stride_length
        if stride_length is not None and rule != "FedStride":
            raise ConfigError("stride_length", stride_length, "None, except with aggregation_rule 'FedStride'")
        if isinstance(rule, AggregationRule):
            if self.rule_params:
                raise ConfigError("rule_params", self.rule_params, "{}, except with a rule that is given by name")
            return copy.deepcopy(rule)
        if rule == "SecAgg":
            raise ConfigError("aggregation_rule", rule, f"{', '.join(RULES)}; SecAgg is not implemented yet")
        if not isinstance(rule, str) or rule not in RULES:
            raise ConfigError("aggregation_rule", rule, f"{', '.join(RULES)}, or an AggregationRule object")
        return FedStride(stride_length) if stride_length is not None else rule_by_name(rule, self.rule_params)

    def new_scheduler(self) -> Scheduler:
        """Make the scheduler; an object of the user's is copied."""
        scheduler, semi_sync_lambda = self.scheduler, self.semi_sync_lambda
        if scheduler != "SemiSynchronous":
            for name in ("semi_sync_lambda", "semi_sync_recompute_num_updates", "semi_sync_max_slowness"):
                if getattr(self, name) is not None:
                    raise ConfigError(name, getattr(self, name), "None, except with scheduler 'SemiSynchronous'")
        match scheduler:
            case Scheduler():
                return copy.deepcopy(scheduler)
            case "Synchronous":
                return Synchronous()
            case "Asynchronous":
                return Asynchronous()
            case "SemiSynchronous":
                if semi_sync_lambda is None:
                    allowed = "a finite number > 0, which scheduler 'SemiSynchronous' needs"
                    raise ConfigError("semi_sync_lambda", semi_sync_lambda, allowed)
                recompute, slowness = self.semi_sync_recompute_num_updates, self.semi_sync_max_slowness
                return SemiSynchronous(
                    semi_sync_lambda,
                    recompute_num_updates=False if recompute is None else recompute,
                    max_slowness=10.0 if slowness is None else slowness,
                )
            case _:
                raise ConfigError("scheduler", scheduler, f"{', '.join(SCHEDULERS)}, or a Scheduler object")

    def new_selector(self) -> Selector:
        """Make the selector; an object of the user's is copied."""
        selector = self.selector
        if isinstance(selector, Selector):
            return copy.deepcopy(selector)
        if selector is None:
            selector = "Scheduled" if self.new_scheduler().in_rounds else "ScheduledCardinality"
        if not isinstance(selector, str) or selector not in SELECTORS:
            raise ConfigError("selector", selector, f"{', '.join(SELECTORS)}, a Selector object, or None")
        return SELECTORS[selector](self.participation_ratio, self.min_learners)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncryptionConfig:
    """MetisFL's options for SecAgg; refused so far."""

    he_scheme: InitVar[str] = "CKKS"
    batch_size: InitVar[int | None] = None
    scaling_factor_bits: InitVar[int | None] = None
    crypto_context: InitVar[str | Path | None] = None
    public_key: InitVar[str | Path | None] = None
    private_key: InitVar[str | Path | None] = None

    def __post_init__(self, he_scheme: str, *_: object) -> NoReturn:
        raise ConfigError("EncryptionConfig", he_scheme, NO_ENCRYPTION)


def _refuse_encryption(options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigError(name, value, NO_ENCRYPTION)
