"""Who is behind what a relay says: the learners in its sum, and those that evaluated; believed as far as it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from metisfl_async.core.checks import integer, number
from metisfl_async.core.errors import ConfigError, UnexpectedMessage, brief
from metisfl_async.core.metrics import NUM_EXAMPLES, Json, Metrics, checked_metrics
from metisfl_async.core.strategies.scaling import MIN_WEIGHT

__all__ = [
    "MOST_CONTRIBUTORS",
    "Contributor",
    "check_evaluators",
    "contributors_of",
    "counts_of",
    "entries_of",
    "evaluators_in",
    "num_learners_of",
    "said_of",
    "without_metrics",
]

MOST_CONTRIBUTORS = 500  #: in one update, or one evaluation: what says so is read in one step
MAX_NAME_LENGTH = 1024  #: of one of them, with the names of the relays above it
MOST_LEARNERS = 2**31  #: that one of them can stand for
CONTRIBUTORS, SCALING = "contributors", "scaling_factor"  #: the keys in the metadata


@dataclass(frozen=True, slots=True)
class Contributor:
    """A learner whose update is in a sum, or that evaluated; or a relay with those below it."""

    weight: float  #: the scaling factor ``s_k``; of a relay, the sum of those below it; 0 if an evaluator has none yet
    num_learners: int = 1  #: that it stands for
    metrics: Metrics = field(default_factory=dict)  #: of its training, or its evaluation


def said_of(contributors: Mapping[str, Contributor], scaling_factor: str) -> dict[str, Json]:
    """Say who is in a sum, as metadata."""
    return {SCALING: scaling_factor, **entries_of(contributors)}


def entries_of(contributors: Mapping[str, Contributor]) -> dict[str, Json]:
    """Write contributors as metadata."""
    entries: dict[str, Json] = {
        name: {"weight": each.weight, "num_learners": each.num_learners, "metrics": {**each.metrics}}
        for name, each in contributors.items()
    }
    return {CONTRIBUTORS: entries}


def evaluators_in(metadata: Mapping[str, Json]) -> dict[str, Contributor]:
    """Read those that `entries_of` wrote; none if there are none."""
    entries: Any = metadata.get(CONTRIBUTORS, {})
    return {name: Contributor(**entry) for name, entry in entries.items()}


def without_metrics(contributors: Mapping[str, Contributor]) -> dict[str, Contributor]:
    """Leave out what each of them measured while it trained."""
    return {name: replace(each, metrics={}) for name, each in contributors.items()}


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
    if not isinstance(entries, dict):
        raise _not_so_many("sum", brief(entries))
    _check_number(entries, "sum")
    try:
        contributors = {name: _contributor(name, entry) for name, entry in entries.items()}
    except ConfigError as error:
        raise _cannot_be("sum", error) from error
    _check_all(contributors, "sum", scaling_factor, max_weight, max_learners)
    return contributors


def check_evaluators(
    evaluators: Mapping[str, Contributor], scaling_factor: str, max_weight: float, max_learners: int
) -> None:
    """Look at who evaluated, of at most `max_learners`; `max_weight` bounds each one's weight, and its examples.

    Raises
    ------
    UnexpectedMessage
        If no relays are allowed, or what one says cannot be.
    """
    if not max_learners:
        raise UnexpectedMessage("evaluations of others came; allowed only from relays, with max_relayed_learners > 0")
    _check_number(evaluators, "evaluation")
    _check_all(evaluators, "evaluation", scaling_factor, max_weight, max_learners)


def num_learners_of(metadata: Mapping[str, Json]) -> int:
    """Count the learners in a sum whose metadata were looked at before."""
    return sum(counts_of(metadata).values())


def counts_of(metadata: Mapping[str, Json]) -> dict[str, int]:
    """Say for how many learners each one in a sum stands, whose metadata were looked at before."""
    entries: Any = metadata[CONTRIBUTORS]
    return {name: entry.get("num_learners", 1) for name, entry in entries.items()}


def _check_number(entries: Mapping[str, object], of: str) -> None:
    if not 1 <= len(entries) <= MOST_CONTRIBUTORS:
        raise _not_so_many(of, f"{len(entries)} of them")


def _check_all(
    contributors: Mapping[str, Contributor], of: str, scaling_factor: str, max_weight: float, max_learners: int
) -> None:
    weighs = 1.0 if scaling_factor == "NumParticipants" else max_weight  # each weighs 1, whatever it says
    try:
        for name, each in contributors.items():
            if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
                raise ConfigError("a name of contributors", name, f"1 to {MAX_NAME_LENGTH} printable characters")
            # Bounded, so that its weight is a float.
            integer(f"{_place(name)}.num_learners", each.num_learners, 1, MOST_LEARNERS)
            if of == "sum" or each.weight:
                _check_bounds(f"{_place(name)}.weight", each.weight, MIN_WEIGHT, each.num_learners * weighs)
            if of == "evaluation":
                _check_evaluation(name, each, each.num_learners * max_weight)
    except ConfigError as error:
        raise _cannot_be(of, error) from error
    if (count := sum(each.num_learners for each in contributors.values())) > max_learners:
        most = f"at most max_relayed_learners={max_learners}"
        raise UnexpectedMessage(f"the {of} is of {count} learners; allowed: {most}")


def _check_evaluation(name: str, said: Contributor, most: float) -> None:
    if not said.metrics:
        raise ConfigError(f"{_place(name)}.metrics", said.metrics, "at least one")
    _check_bounds(f"{_place(name)}.metrics[{NUM_EXAMPLES!r}]", said.metrics.get(NUM_EXAMPLES, 0.0), 0, most)


def _check_bounds(place: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        at_least = "2**-53" if least == MIN_WEIGHT else f"{least:g}"
        allowed = f"a number >= {at_least} and <= {most:.16g}, max_weight for each of its learners"
        raise ConfigError(place, value, allowed)


def _contributor(name: str, entry: Json) -> Contributor:
    where = _place(name)
    if not isinstance(entry, dict):
        raise ConfigError(where, entry, "a map with weight, num_learners and metrics")
    count, weight = entry.get("num_learners", 1), entry.get("weight")
    number(f"{where}.weight", weight)
    integer(f"{where}.num_learners", count, 1)
    assert isinstance(weight, int | float)
    assert isinstance(count, int)
    return Contributor(float(weight), count, checked_metrics(entry.get("metrics", {}), f"{where}.metrics"))


def _place(name: str) -> str:
    return f"contributors[{brief(name)}]"


def _not_so_many(of: str, what: str) -> UnexpectedMessage:
    allowed = f"a map of 1 to {MOST_CONTRIBUTORS}; a relay with more learners needs relays below it"
    return UnexpectedMessage(f"the contributors of the {of} are {what}; allowed: {allowed}")


def _cannot_be(of: str, error: ConfigError) -> UnexpectedMessage:
    return UnexpectedMessage(f"a contributor of the {of} cannot be: {error}")
