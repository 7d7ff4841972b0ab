"""Checks of numbers and names, for everything that users configure."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from ipaddress import IPv6Address

from metisfl_async.core.errors import ConfigError

__all__ = ["heartbeats", "hostname", "integer", "number", "one_of", "positive"]

MIN_HEARTBEAT_S = 0.01  #: more often, it would be work
MAX_LEASE_S = 30 * 86_400  #: 30 days


def one_of(field: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(field, value, ", ".join(allowed))


def integer(field: str, value: object, least: int, most: int | None = None) -> None:
    if type(value) is not int or value < least or (most is not None and value > most):
        raise ConfigError(field, value, f"an integer >= {least}" + (f" and <= {most}" if most is not None else ""))


def number(field: str, value: object, least: float | None = None, below: float | None = None) -> None:
    """Check for a finite number, in [least, below) where they are given."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if is_number and (least is None or value >= least) and (below is None or value < below):  # type: ignore[operator]
        return
    limits = [f">= {least:g}" for least in (least,) if least is not None]
    limits += [f"< {below:g}" for below in (below,) if below is not None]
    raise ConfigError(field, value, " ".join(["a finite number", " and ".join(limits)]).strip())


def positive(field: str, value: object, most: int | None = None) -> None:
    limit = sys.float_info.max if most is None else most
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= limit:
        raise ConfigError(field, value, "a finite number > 0" + (f" and <= {most}" if most is not None else ""))


def heartbeats(heartbeat_secs: float, lease_secs: float) -> None:
    """Check how often a learner shows that it lives, and after how long a silence it is taken out."""
    number("heartbeat_secs", heartbeat_secs, least=MIN_HEARTBEAT_S, below=MAX_LEASE_S)
    number("lease_secs", lease_secs, least=0, below=MAX_LEASE_S)
    if lease_secs < 2 * heartbeat_secs:
        raise ConfigError("lease_secs", lease_secs, f"at least 2 * heartbeat_secs = {2 * heartbeat_secs}")


def hostname(field: str, value: object) -> None:
    if not isinstance(value, str) or not (re.fullmatch(r"[^\s/:\[\]]+", value) or _is_ipv6(value)):
        raise ConfigError(field, value, "a host name or an IP address, nothing else")


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        return False
    return True
