"""What a federation gives back."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.model import Array
from metisfl_async.driver.plot import plot_rounds
from metisfl_async.driver.weights import load_into, packed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FederationResult"]


@dataclass(frozen=True, slots=True)
class FederationResult:
    """The final model, a record of every round, and why it ended."""

    final_model: list[Array] | None = field(repr=False)  #: None if no learner ever gave the first weights
    model_version: int | None  #: how many aggregations made the final model
    rounds: list[RoundRecord] = field(repr=False)
    reason: str  #: the termination signal that was reached, or who stopped it
    first_weights: str = ""  #: where training started: "given", "of site-2, as made", or "of site-2, trained before"
    tensor_names: list[str] = field(default_factory=list, repr=False)  #: of the final model's arrays, in their order
    untrained_names: list[str] = field(default_factory=list, repr=False)  #: those that no gradient steps

    def __repr__(self) -> str:
        published = [record for record in self.rounds if record.is_published]
        last = next((record.evaluation_metrics for record in reversed(published) if record.evaluation_metrics), {})
        scores = "".join(f", {name}={value:.4g}" for name, value in last.items())
        unit = "rounds" if all(record.in_rounds for record in self.rounds) else "models"
        return f"<FederationResult: {len(published)} {unit}{scores}, {self.reason!r}>"

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the model as JSON-like data."""
        return {
            "reason": self.reason,
            "model_version": self.model_version,
            "first_weights": self.first_weights,
            "rounds": [record.to_dict() for record in self.rounds],
        }

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON; numbers that JSON does not have (NaN, infinity) become null."""
        write_whole(Path(path), json.dumps(_plain(self.to_dict()), indent=2).encode() + b"\n")

    def named_arrays(self) -> dict[str, Array]:
        """Give the final model by the names of its tensors; those of a learner that names none are "0", "1", ..."""
        if self.final_model is None:
            raise ConfigError("final_model", None, "a federation that had a model")
        names = self.tensor_names or [str(index) for index in range(len(self.final_model))]
        return dict(zip(names, self.final_model, strict=True))

    def load_into(self, model: Any) -> None:
        """Put the final model into a PyTorch module or a Keras model; see `metisfl_async.load_into`."""
        load_into(model, self.named_arrays())

    def save_model(self, path: str | Path) -> None:
        """Write the final model as a safetensors file, under the names of its tensors."""
        write_whole(Path(path), packed(self.named_arrays(), self.untrained_names))

    def plot(self, path: str | Path | None = None, *, x: Literal["number", "time"] = "number") -> Figure:
        """Draw loss and accuracy, or whatever was measured.

        Needs matplotlib: ``pip install "metisfl-async[plot]"``.

        Parameters
        ----------
        path : str or Path, optional
            Where to save it.
        x : {"number", "time"}
            What is along the x axis: rounds, or model versions where there are no rounds; or seconds since the
            federation started, to compare schedulers with. Each record stands where it was complete.
        """
        return plot_rounds(self.rounds, path, x)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
