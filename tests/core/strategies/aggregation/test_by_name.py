"""Rules by name, with parameters, as a file gives them."""

from __future__ import annotations

from typing import Any

import pytest

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.config.sameness import check_same, facts_of
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json
from metisfl_async.core.strategies.aggregation.by_name import RULES, rule_by_name
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg
from metisfl_async.core.strategies.aggregation.median import Median
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdam
from metisfl_async.core.strategies.aggregation.trimmed_mean import TrimmedMean

NEEDED: dict[str, dict[str, Any]] = {
    "CenteredClipping": {"tau": 1.0},
    "NormBound": {"tau": 1.0},
    "PrivateAverage": {"clip": 1.0, "noise_multiplier": 1.0, "denominator": 2, "delta": 1e-5},
}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_its_name_and_is_made_of_what_it_needs(name: str) -> None:
    assert type(rule_by_name(name, NEEDED.get(name, {}))).__name__ == name


def test_parameters_are_those_of_the_class() -> None:
    rule = ControllerConfig(aggregation_rule="TrimmedMean", rule_params={"f": 2}, min_learners=5).new_rule()
    assert isinstance(rule, TrimmedMean)
    assert (rule.f, rule.min_updates) == (2, 5)
    mixed = ControllerConfig(
        scheduler="Asynchronous", aggregation_rule="FedAsync", rule_params={"mixing": 0.3, "staleness": "constant"}
    ).new_rule()
    assert isinstance(mixed, FedAsync)
    assert (mixed.mixing, mixed.staleness) == (0.3, "constant")


def test_a_rule_that_is_wrapped_is_a_name_too() -> None:
    bound = rule_by_name("NormBound", {"tau": 2.0, "rule": "Median"})
    assert isinstance(bound, NormBound)
    assert isinstance(bound.rule, Median)
    deep = rule_by_name("FedAdam", {"rule": {"NormBound": {"tau": 2.0, "rule": {"TrimmedMean": {"f": 3}}}}})
    assert isinstance(deep, FedAdam)
    assert isinstance(deep.rule, NormBound)
    assert isinstance(deep.rule.rule, TrimmedMean)
    assert deep.min_updates == 7
    plain = rule_by_name("FedAdam", {"rule": None})
    assert isinstance(plain, FedAdam)
    assert isinstance(plain.rule, FedAvg)


@pytest.mark.parametrize(
    ("options", "field", "allowed"),
    [
        (
            {"aggregation_rule": "TrimmedMean", "rule_params": {"g": 1}},
            "rule_params",
            f"what TrimmedMean takes: f=1, max_bytes={2 * 2**30} (got an unexpected keyword argument 'g')",
        ),
        (
            {"aggregation_rule": "NormBound"},
            "rule_params",
            "what NormBound takes: tau, rule=None (missing a required argument: 'tau')",
        ),
        (
            {"aggregation_rule": "FedRec", "rule_params": {"f": 1}},
            "rule_params",
            "what FedRec takes: nothing (got an unexpected keyword argument 'f')",
        ),
        ({"aggregation_rule": "TrimmedMean", "rule_params": {"f": 0}}, "f", "an integer >= 1"),
        ({"rule_params": 3}, "rule_params", "a dict"),
        (
            {"aggregation_rule": Median(), "rule_params": {"max_bytes": 3}},
            "rule_params",
            "{}, except with a rule that is given by name",
        ),
        (
            {"aggregation_rule": "NormBound", "rule_params": {"tau": 1.0, "rule": "Mode"}},
            "rule_params['rule']",
            f"one of {', '.join(RULES)}, or {{name: its parameters}}",
        ),
        (
            {"aggregation_rule": "NormBound", "rule_params": {"tau": 1.0, "rule": {"Krum": {"m": 1}}}},
            "rule_params['rule']['Krum']",
            f"what Krum takes: f=1, max_bytes={2 * 2**30} (got an unexpected keyword argument 'm')",
        ),
        (
            {"aggregation_rule": "Krum", "min_learners": 4},
            "min_learners",
            "at least 5, which Krum needs to keep what it promises",
        ),
        (
            {"aggregation_rule": NormBound(1.0, Median())},
            "min_learners",
            "at least 3, which NormBound needs to keep what it promises",
        ),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], field: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        ControllerConfig(**options)
    assert (error.value.field, error.value.allowed) == (field, allowed)


def test_a_federation_goes_on_with_the_same_parameters_only() -> None:
    def config(f: int, **more: int) -> ControllerConfig:
        return ControllerConfig(aggregation_rule="TrimmedMean", rule_params={"f": f, **more}, min_learners=5)

    check_same(facts_of(config(1)), facts_of(config(1)))
    with pytest.raises(ConfigError, match=r"rule_params was \{'f': 1\}, and is \{'f': 2\}"):
        check_same(facts_of(config(1)), facts_of(config(2)))
    one, other = (ControllerConfig(aggregation_rule=Median(max_bytes=most), min_learners=3) for most in (9, 10))
    check_same(facts_of(one), facts_of(other))  # a limit, which changes nothing that is computed


def test_what_an_earlier_version_did_not_know_of_a_rule_is_not_compared() -> None:
    plain, exact = (facts_of(ControllerConfig(aggregation_rule=FedAvg(reproducible=yes))) for yes in (False, True))
    check_same(plain | {"aggregation_rule": "FedAvg"}, plain)
    with pytest.raises(ConfigError, match=r"aggregation_rule was .*True.* and is .*False"):
        check_same(exact, plain)
    with pytest.raises(ConfigError, match=r"aggregation_rule was 'FedAvg', and is .*True"):
        check_same(plain | {"aggregation_rule": "FedAvg"}, exact)
    with pytest.raises(ConfigError, match="aggregation_rule was 'FedRec'"):
        check_same(plain | {"aggregation_rule": "FedRec"}, plain)
    wrapped = facts_of(ControllerConfig(aggregation_rule=NormBound(1.0)))

    made = wrapped["aggregation_rule"]
    assert isinstance(made, dict)
    options = made["NormBound"]
    assert isinstance(options, dict)

    def before(**changed: Json) -> dict[str, Json]:
        known = {name: value for name, value in options.items() if name != "is_private"}
        return wrapped | {"aggregation_rule": {"NormBound": known | {"rule": "FedAvg"} | changed}}

    check_same(before(), wrapped)
    for other in (before(tau=2.0), before(rule="FedStride"), wrapped | {"aggregation_rule": {"FedAvg": {}}}):
        with pytest.raises(ConfigError, match="aggregation_rule was"):
            check_same(other, wrapped)


def test_lists_among_the_parameters_are_compared_too() -> None:
    one, other = (facts_of(ControllerConfig(train_params={"layers": layers})) for layers in ([64, 10], [64, 32]))
    check_same(one, one)
    with pytest.raises(ConfigError, match=r"train_params was .*64, 10.* and is .*64, 32"):
        check_same(one, other)
