"""The aggregation rules by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json
from metisfl_async.core.strategies.aggregation.bulyan import Bulyan
from metisfl_async.core.strategies.aggregation.centered_clipping import CenteredClipping
from metisfl_async.core.strategies.aggregation.fedasync import FedAsync
from metisfl_async.core.strategies.aggregation.fedavg import FedAvg, FedStride
from metisfl_async.core.strategies.aggregation.fedbuff import FedBuff
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.geometric_median import GeometricMedian
from metisfl_async.core.strategies.aggregation.krum import Krum, MultiKrum
from metisfl_async.core.strategies.aggregation.lora_stacked import LoRAStacked
from metisfl_async.core.strategies.aggregation.median import Median
from metisfl_async.core.strategies.aggregation.norm_bound import NormBound
from metisfl_async.core.strategies.aggregation.private_average import PrivateAverage
from metisfl_async.core.strategies.aggregation.rule import AggregationRule
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdagrad, FedAdam, FedAvgM, FedYogi
from metisfl_async.core.strategies.aggregation.tree_bagging import TreeBagging
from metisfl_async.core.strategies.aggregation.trimmed_mean import TrimmedMean

__all__ = ["RULES", "rule_by_name"]

RULES: Mapping[str, Callable[..., AggregationRule]] = {
    rule.__name__: rule
    for rule in (
        *(FedAvg, FedStride, FedRec, FedAsync, FedBuff),
        *(FedAvgM, FedAdagrad, FedYogi, FedAdam),
        *(LoRAStacked, TreeBagging, PrivateAverage),
        *(Median, TrimmedMean, Krum, MultiKrum, GeometricMedian, CenteredClipping, Bulyan, NormBound),
    )
}


def rule_by_name(name: str, params: Mapping[str, Json], field: str = "rule_params") -> AggregationRule:
    """Make a rule of its name and parameters.

    Where one of them is a rule that is wrapped, it is a name, too, or ``{name: parameters}``.

    Raises
    ------
    ConfigError
        If the rule does not take these parameters; it says which it takes.
    """
    make, options = RULES[name], dict[str, object](params)
    signature = inspect.signature(make)
    try:
        signature.bind(**options)
    except TypeError as error:
        taken = [str(parameter).partition(":")[0] + _default(parameter) for parameter in signature.parameters.values()]
        raise ConfigError(
            field, dict(params), f"what {name} takes: {', '.join(taken) or 'nothing'} ({error})"
        ) from None
    if "rule" in options:
        options["rule"] = _wrapped(options["rule"], f"{field}['rule']")
    return make(**options)


def _wrapped(rule: object, field: str) -> AggregationRule | None:
    """Read a rule within the parameters of another one."""
    if rule is None:
        return None
    name, params = next(iter(rule.items())) if isinstance(rule, dict) and len(rule) == 1 else (rule, {})
    if not isinstance(name, str) or name not in RULES or not isinstance(params, dict):
        raise ConfigError(field, rule, f"one of {', '.join(RULES)}, or {{name: its parameters}}")
    return rule_by_name(name, params, f"{field}[{name!r}]")


def _default(parameter: inspect.Parameter) -> str:
    return "" if parameter.default is parameter.empty else f"={parameter.default!r}"
