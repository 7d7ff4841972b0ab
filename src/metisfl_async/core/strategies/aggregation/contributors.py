"""Who contributed to a sum that comes in one update: said in the update's metadata, believed as far as it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metisfl_async.core.checks import integer
from metisfl_async.core.errors import ConfigError, UnexpectedMessage, brief
from metisfl_async.core.metrics import Json, Metrics, checked_metrics
from metisfl_async.core.strategies.scaling import MIN_WEIGHT

__all__ = ["MOST_CONTRIBUTORS", "Contributor", "contributors_of", "counts_of", "num_learners_of", "said_of"]

MOST_CONTRIBUTORS = 500  #: in one update: its header is read in one step
MOST_LEARNERS = 2**31  #: that one of them can stand for
CONTRIBUTORS, SCALING = "contributors", "scaling_factor"  #: the keys in the metadata


@dataclass(frozen=True, slots=True)
class Contributor:
    """A learner whose update is in a sum, or a relay with those below it."""

    weight: float  #: the scaling factor ``s_k``; of a relay, the sum of those below it
    num_learners: int = 1  #: that it stands for
    metrics: Metrics = field(default_factory=dict)  #: of its training


def said_of(contributors: Mapping[str, Contributor], scaling_factor: str) -> dict[str, Json]:
    """Say it as metadata."""
    entries: dict[str, Json] = {
        name: {"weight": each.weight, "num_learners": each.num_learners, "metrics": {**each.metrics}}
        for name, each in contributors.items()
    }
    return {SCALING: scaling_factor, CONTRIBUTORS: entries}


def contributors_of(
    metadata: Mapping[str, Json], scaling_factor: str, max_weight: float, max_learners: int
) -> dict[str, Contributor]:
    """Read it from the metadata of a sum of at most `max_learners`; `max_weight` bounds each one's weight.

    Raises
    ------
    UnexpectedMessage
        If nobody contributed, too many did, or somebody too much; or their weights mean something else.
    """
    if (factor := metadata.get(SCALING)) != scaling_factor:
        allowed = f"that of this controller, {scaling_factor!r}"
        raise UnexpectedMessage(f"the sum is weighted by scaling_factor {brief(factor)}; allowed: {allowed}")
    entries = metadata.get(CONTRIBUTORS)
    if not isinstance(entries, dict) or not 1 <= len(entries) <= MOST_CONTRIBUTORS:
        what = f"{len(entries)} of them" if isinstance(entries, dict) else brief(entries)
        allowed = f"a map of 1 to {MOST_CONTRIBUTORS}; a relay with more learners needs relays below it"
        raise UnexpectedMessage(f"the contributors of a sum are {what}; allowed: {allowed}")
    if scaling_factor == "NumParticipants":  # each learner weighs 1, whatever it says
        max_weight = 1.0
    try:
        contributors = {name: _contributor(name, entry, max_weight) for name, entry in entries.items()}
    except ConfigError as error:
        raise UnexpectedMessage(f"a contributor of the sum cannot be: {error}") from error
    if (count := sum(each.num_learners for each in contributors.values())) > max_learners:
        raise UnexpectedMessage(f"the sum is of {count} learners; allowed: at most max_relayed_learners={max_learners}")
    return contributors


def num_learners_of(metadata: Mapping[str, Json]) -> int:
    """Count the learners in a sum whose metadata were looked at before."""
    return sum(counts_of(metadata).values())


def counts_of(metadata: Mapping[str, Json]) -> dict[str, int]:
    """Say for how many learners each one in a sum stands, whose metadata were looked at before."""
    entries: Any = metadata[CONTRIBUTORS]
    return {name: entry.get("num_learners", 1) for name, entry in entries.items()}


def _contributor(name: str, entry: Json, max_weight: float) -> Contributor:
    where = f"contributors[{brief(name)}]"
    if not isinstance(entry, dict):
        raise ConfigError(where, entry, "a map with weight, num_learners and metrics")
    count, weight = entry.get("num_learners", 1), entry.get("weight")
    integer(f"{where}.num_learners", count, 1, MOST_LEARNERS)  # so that its weight is a float
    assert isinstance(count, int)
    most = count * max_weight
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not MIN_WEIGHT <= weight <= most:
        allowed = f"a number >= 2**-53 and <= {most:.16g}, max_weight for each of its learners"
        raise ConfigError(f"{where}.weight", weight, allowed)
    return Contributor(float(weight), count, checked_metrics(entry.get("metrics", {}), f"{where}.metrics"))
