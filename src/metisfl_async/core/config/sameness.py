"""What of a configuration must stay the same when a federation goes on under another controller process."""

from __future__ import annotations

from collections.abc import Mapping

from metisfl_async.core.config.controller import ControllerConfig
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json

__all__ = ["check_same", "facts_of"]

#: They decide what is computed. The others (limits, times, addresses) may differ.
MUST_STAY = (
    "aggregation_rule",
    "rule_params",
    "scheduler",
    "scaling_factor",
    "selector",
    "stride_length",
    "semi_sync_lambda",
    "semi_sync_recompute_num_updates",
    "semi_sync_max_slowness",
    "train_params",
    "eval_params",
    "params_hook",
    "participation_ratio",
    "best_metric",
    "best_mode",
    "update_codec",
    "download_codec",
)


MADE = ("aggregation_rule", "scheduler", "selector")  #: they are compared as the objects that are made of them


def facts_of(config: ControllerConfig) -> dict[str, Json]:
    """Describe what must stay the same, as JSON-like data that can be compared."""
    made = {
        "aggregation_rule": config.new_rule(),  # by name or as an object, it is the same
        "scheduler": config.new_scheduler(),
        "selector": config.new_selector(),
    }
    return {name: _plain(made.get(name, getattr(config, name))) for name in MUST_STAY}


def check_same(before: Mapping[str, Json], now: Mapping[str, Json]) -> None:
    """Refuse a configuration that differs in what must stay.

    Raises
    ------
    ConfigError
        It names the fields that differ, and which may.
    """
    differing = [name for name in MUST_STAY if name in before and not _is_same(name, before[name], now[name])]
    if differing:
        values = "; ".join(f"{name} was {before.get(name)!r}, and is {now[name]!r}" for name in differing)
        must_stay = ", ".join(MUST_STAY)
        allowed = f"as it was before: {values}. Everything may differ but {must_stay}"
        raise ConfigError(", ".join(differing), "different", allowed)


def _is_same(name: str, before: Json, now: Json) -> bool:
    """Compare; what an earlier version did not know of its strategies, it did not say, and is off."""
    if name in MADE and isinstance(now, dict) and now:
        (kind, options), *_ = now.items()
        said = before.get(kind) if isinstance(before, dict) else {} if before == kind else None
        if isinstance(options, dict) and isinstance(said, dict):
            new = options.keys() - said.keys()
            return not any(options[key] for key in new) and all(
                _is_same(name, value, options.get(key)) for key, value in said.items()
            )
    return before == now


def _plain(value: object) -> Json:
    """Give plain values as they are, functions by name, and objects by their class and what they were made with."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    public = {key: item for key, item in getattr(value, "__dict__", {}).items() if not key.startswith("_")}
    return {name: {key: _plain(item) for key, item in public.items()}} if public and not callable(value) else name
