"""What a federation gives back."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.records import BestScore, RoundRecord
from metisfl_async.core.model import Array
from metisfl_async.core.texts import plain
from metisfl_async.driver.frames import By, arrow_table, data_frame
from metisfl_async.driver.participation import participation_of, seldom
from metisfl_async.driver.plot import plot_rounds
from metisfl_async.driver.screens import table_of_rounds
from metisfl_async.driver.weights import load_into, packed, read
from metisfl_async.web.saved import saved_page

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

__all__ = ["FederationResult", "as_json", "write_whole"]

NAMED = 3  #: learners, in a result's text, of whom few updates counted


@dataclass(frozen=True, slots=True)
class FederationResult:
    """The final model, and the best one if one was kept; a record of every round, and why it ended."""

    final_model: list[Array] | None = field(repr=False)  #: None if no learner ever gave the first weights
    model_version: int | None  #: how many aggregations made the final model
    rounds: list[RoundRecord] = field(repr=False)
    reason: str  #: the termination signal that was reached, or who stopped it
    first_weights: str = ""  #: where training started: "given", "of site-2, as made", or "of site-2, trained before"
    tensor_names: list[str] = field(default_factory=list, repr=False)  #: of the final model's arrays, in their order
    untrained_names: list[str] = field(default_factory=list, repr=False)  #: those that no gradient steps
    started_at: float = field(default=0.0, repr=False)  #: seconds since the epoch; 0.0 if nobody was told
    best: BestScore | None = None  #: how good `best_model` is, its version, and in which round it was made
    best_model: list[Array] | None = field(default=None, repr=False)  #: None without `ControllerConfig.best_metric`
    ending: Ending | None = None  #: `reason` as a code; None if the federation was not seen to end

    def __repr__(self) -> str:
        published = [record for record in self.rounds if record.is_published]
        last = next((record.evaluation_metrics for record in reversed(published) if record.evaluation_metrics), {})
        scores = "".join(f", {name}={value:.4g}" for name, value in last.items())
        if self.best is not None:
            scores += f", best {self.best.metric}={self.best.score:.4g} in round {self.best.round_number}"
        if published and published[-1].privacy:
            scores += f", privacy epsilon={published[-1].privacy['epsilon']:.4g}"
        unit = "rounds" if all(record.in_rounds for record in self.rounds) else "models"
        named = seldom(self.rounds)
        took_part = participation_of(self.rounds)
        texts = [f"{name} ({took_part[name].counted} of {len(published)})" for name in named[:NAMED]]
        texts += [f"{len(named) - NAMED} more"] if len(named) > NAMED else []
        few = f", few updates of {plain(', '.join(texts))}" if named else ""
        return f"<FederationResult: {len(published)} {unit}{scores}{few}, {self.reason!r}>"

    def _repr_html_(self) -> str:
        """Show a row for each round, in notebooks."""
        return table_of_rounds(repr(self).strip("<>"), self.rounds)

    def to_dict(self) -> dict[str, Any]:
        """Give everything but the model as JSON-like data."""
        return {
            "reason": self.reason,
            "ending": self.ending,
            "started_at": self.started_at,
            "model_version": self.model_version,
            "first_weights": self.first_weights,
            "best": None if self.best is None else asdict(self.best),
            "participation": {name: part.to_dict() for name, part in participation_of(self.rounds).items()},
            "seldom": seldom(self.rounds),
            "rounds": [record.to_dict() for record in self.rounds],
        }

    def save(self, path: str | Path) -> None:
        """Write `to_dict` as JSON; numbers that JSON does not have (NaN, infinity) become null."""
        write_whole(Path(path), json.dumps(as_json(self.to_dict()), indent=2).encode() + b"\n")

    def named_arrays(self, *, best: bool = False) -> dict[str, Array]:
        """Give the final model, or the best, by the names of its tensors; those without names are "0", "1", ..."""
        arrays = self.best_model if best else self.final_model
        if arrays is None and best:
            raise ConfigError("best_model", None, "a federation that measured its ControllerConfig.best_metric")
        if arrays is None:
            raise ConfigError("final_model", None, "a federation that had a model")
        names = self.tensor_names or [str(index) for index in range(len(arrays))]
        return dict(zip(names, arrays, strict=True))

    def load_into(self, model: Any, *, best: bool = False) -> None:
        """Put the final model, or the best, into a PyTorch module or a Keras model; see `metisfl_async.load_into`."""
        load_into(model, self.named_arrays(best=best))

    def save_model(self, path: str | Path, *, best: bool = False) -> None:
        """Write the final model, or the best, as a safetensors file, under the names of its tensors."""
        write_whole(Path(path), packed(self.named_arrays(best=best), self.untrained_names))

    @classmethod
    def load(cls, path: str | Path) -> FederationResult:
        """Read what `save` wrote, and the models beside it, as far as `save_model` wrote them there.

        That is ``model.safetensors``, and ``best.safetensors`` for the best one.

        Metrics that became null are NaN again, infinite ones too.

        Parameters
        ----------
        path : str or Path
            The file, or a directory in which it is ``results.json``.

        Raises
        ------
        ConfigError
            If it is not such a file.
        """
        file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
        model, best_model = file.with_name("model.safetensors"), file.with_name("best.safetensors")
        try:
            data = json.loads(file.read_bytes())
            records = [RoundRecord.from_dict(_with_numbers(record)) for record in data["rounds"]]
            facts = data["model_version"], records, data["reason"], data["first_weights"]
            started_at, best = data.get("started_at", 0.0), _best(data["best"]) if data.get("best") else None
            ending = Ending(data["ending"]) if data.get("ending") else None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            allowed = f"a results.json, or a directory with one ({type(error).__name__}: {error})"
            raise ConfigError("path", str(path), allowed) from error
        arrays, untrained = read(model) if model.is_file() else ({}, None)
        best_arrays = read(best_model)[0] if best is not None and best_model.is_file() else {}
        names = list(arrays or best_arrays)
        final, of_best = list(arrays.values()) or None, list(best_arrays.values()) or None
        return cls(final, *facts, names, list(untrained or ()), started_at, best, of_best, ending)

    def to_frame(self, by: By = "round") -> pd.DataFrame:
        """Give the records as a pandas frame. Needs pandas: ``pip install pandas``.

        Parameters
        ----------
        by : {"round", "learner"}
            What a row is: a round, or a learner's part in a round. Metrics are columns such as "evaluation/accuracy".
        """
        return data_frame(self.rounds, by)

    def to_arrow(self, by: By = "round") -> pa.Table:
        """Give the same as an Arrow table, for Parquet and others. Needs pyarrow: ``pip install pyarrow``."""
        return arrow_table(self.rounds, by)

    def save_page(self, path: str | Path) -> None:
        """Write a page that shows the run and replays it: one file, which needs no server and loads nothing.

        `metisfl_async.web` shows the same page while a federation runs.
        """
        facts = {"source": self.first_weights, "version": self.model_version, "started_at": self.started_at}
        write_whole(Path(path), saved_page(self.rounds, self.reason, facts))

    def plot(self, path: str | Path | None = None, *, x: Literal["number", "time"] = "number") -> Figure:
        """Draw loss and accuracy, or whatever was measured.

        Needs matplotlib: ``pip install matplotlib``.

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
    """Write a file, in a directory that is made if need be, so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _with_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """Give back NaN where JSON has null in place of a metric."""
    record["central"] = _numbers(record.get("central", {}))
    for part in (record, *record["learners"].values()):
        for name in ("train_metrics", "evaluation_metrics"):
            part[name] = _numbers(part[name])
        for below in part.get("evaluation_metadata", {}).get("contributors", {}).values():
            below["metrics"] = _numbers(below["metrics"])
    return record


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _best(facts: dict[str, Any]) -> BestScore:
    return BestScore(**facts | {"score": math.nan if facts["score"] is None else facts["score"]})


def as_json(value: Any) -> Any:
    """Give what JSON can write: numbers that it does not have (NaN, infinity) become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value
