"""Which of a model's tensors are the federation's; the others stay in their learner."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import NUM_EXAMPLES, Metrics
from metisfl_async.core.model import DTYPES

__all__ = ["Federated", "check_federated", "chosen", "not_carried", "personal_metrics"]

PERSONAL = "personal/"  #: before the name of what a learner's own model is measured by

Federated: TypeAlias = str | Sequence[str] | Callable[[str], bool]

ALLOWED = "'all', 'trainable', a list of names or patterns such as ['body.*'], or a function from a name to a bool"


def check_federated(federated: object) -> None:
    """Refuse what says nothing, before there is a model."""
    is_list = isinstance(federated, Sequence) and not isinstance(federated, str)
    if is_list and federated and all(isinstance(pattern, str) for pattern in federated):  # type: ignore[attr-defined]
        return
    if federated not in ("all", "trainable") and not callable(federated):
        raise ConfigError("federated", federated, ALLOWED)


def chosen(federated: Federated, names: Sequence[str], trained: Collection[str]) -> list[str]:
    """Give the names of the federation's tensors, in the order that they have in the model.

    Raises
    ------
    ConfigError
        If a pattern matches nothing, or nothing is chosen.
    """
    check_federated(federated)
    if federated == "all":
        found = list(names)
    elif federated == "trainable":
        found = [name for name in names if name in trained]
    elif callable(federated):
        found = [name for name in names if federated(name)]
    else:
        for pattern in federated:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError("federated", pattern, f"what is in the model: {_listed(names)}")
        found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in federated)]
    if not found:
        raise ConfigError("federated", federated, f"at least one tensor of the model: {_listed(names)}")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f", and {len(names) - 20} more" if len(names) > 20 else "")


def personal_metrics(measured: Metrics) -> Metrics:
    """Name what was measured of a learner's own model, after its training, among the metrics of that."""
    return {f"{PERSONAL}{name}": value for name, value in measured.items() if name != NUM_EXAMPLES}


def not_carried(name: str) -> str:
    """Say what to do with a tensor that has no form on the wire."""
    return (
        f"a dense tensor of {', '.join(DTYPES)}. Let it stay in the learner, with federated='trainable' or "
        f"federated=lambda name: name != {name!r}, or convert it"
    )
