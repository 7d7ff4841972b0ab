"""Who took part, and whose updates seldom counted: a site that never counts should not go unmentioned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from metisfl_async.core.federation.records import RoundRecord

__all__ = ["Participation", "participation_of", "seldom"]

FEW = 0.5  #: a learner that counted in a smaller share of the models is named
NEARLY_ALL = 0.9  #: where half of the learners counted in so many of the models, everybody was asked


@dataclass(frozen=True, slots=True)
class Participation:
    """In how many of the published models one learner was asked, and counted."""

    asked: int
    counted: int

    def to_dict(self) -> dict[str, Any]:
        """Give JSON-like data."""
        return asdict(self)


def participation_of(records: Sequence[RoundRecord]) -> dict[str, Participation]:
    """Count for each learner the published models that it was asked for, and those that its updates are in.

    Of those below a relay it is known when they counted, and not when they were asked in vain.
    """
    asked: dict[str, int] = {}
    counted: dict[str, int] = {}
    for record in records:
        if record.is_published:
            contributors = record.contributors
            for learner in {*record.learners, *contributors}:
                asked[learner] = asked.get(learner, 0) + 1
            for learner in {*record.participants, *contributors}:
                counted[learner] = counted.get(learner, 0) + 1
    return {learner: Participation(asked[learner], counted.get(learner, 0)) for learner in sorted(asked)}


def seldom(records: Sequence[RoundRecord]) -> list[str]:
    """Name the learners whose updates are in less than half of the models that they could be in.

    Those are the models that they were asked for; in rounds for which everybody is asked, all since the first one.
    """
    took_part = participation_of(records)
    in_rounds = [record for record in records if record.is_published and record.in_rounds]
    usual = median(part.counted for part in took_part.values()) if took_part else 0.0
    possible = len(in_rounds) if usual >= NEARLY_ALL * len(in_rounds) else 0
    return [name for name, part in took_part.items() if part.counted < FEW * max(part.asked, possible)]
