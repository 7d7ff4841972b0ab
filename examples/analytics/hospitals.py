"""Three hospitals, whose data stay where they are: means, a histogram and quantiles of all, and then a model."""

import asyncio
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import SGDClassifier

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    Failure,
    TerminationSignals,
    askable,
)
from metisfl_async.adapters import SklearnLearner
from metisfl_async.data import quantity_partition

BINS, ZOOMS = 32, 4  #: a quantile is found to 1 / 32**4 of the column's range


class Hospital(SklearnLearner):
    """Trains on its patients, and answers questions about all of them together."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x = x
        test = np.arange(len(x)) % 4 == 0
        super().__init__(SGDClassifier(loss="log_loss"), (x[~test], y[~test]), (x[test], y[test]), classes=[0, 1])

    @askable
    def summarise(self, params: dict[str, Any]) -> dict[str, Any]:
        x = self.x
        return {
            "patients": len(x),
            "sum": x.sum(axis=0),
            "squares": (x**2).sum(axis=0),
            "least": x.min(axis=0),
            "most": x.max(axis=0),
        }

    @askable
    def histogram(self, params: dict[str, Any]) -> dict[str, Any]:
        column, edges = self.x[:, params["column"]], params["edges"]
        return {"below": (column < edges[0]).sum(), "counts": np.histogram(column, edges)[0]}

    @askable
    def scale(self, params: dict[str, Any]) -> None:
        """Scale what the model sees; from the data as they were, so that it may be asked twice."""
        test, scaled = np.arange(len(self.x)) % 4 == 0, (self.x - params["mean"]) / params["deviation"]
        self.train_data, self.test_data = (scaled[~test], self.train_data[1]), (scaled[test], self.test_data[1])


async def all_of(session: DriverSession, method: str, params: dict[str, Any] | None = None) -> list[Any]:
    """Ask every hospital; statistics without one of them would be those of others."""
    answers = await session.ask(method, params)
    if failures := {name: answer for name, answer in answers.items() if isinstance(answer, Failure)}:
        raise RuntimeError(f"not all hospitals answered: {failures}")
    return list(answers.values())


async def summary(session: DriverSession) -> dict[str, np.ndarray]:
    """Give the mean, the standard deviation and the range of each column, over the patients of all hospitals."""
    answers = await all_of(session, "summarise")
    patients, sums, squares = (
        np.sum([answer[name] for answer in answers], axis=0) for name in ("patients", "sum", "squares")
    )
    mean = sums / patients
    return {
        "patients": patients,
        "mean": mean,
        "deviation": np.sqrt(squares / patients - mean**2),
        "least": np.min([answer["least"] for answer in answers], axis=0),
        "most": np.max([answer["most"] for answer in answers], axis=0),
    }


async def histogram(session: DriverSession, column: int, edges: np.ndarray) -> tuple[int, np.ndarray]:
    """Count the patients below the first edge, and in each bin."""
    answers = await all_of(session, "histogram", {"column": column, "edges": edges})
    return sum(answer["below"] for answer in answers), np.sum([answer["counts"] for answer in answers], axis=0)


async def quantile(session: DriverSession, column: int, share: float, about: dict[str, np.ndarray]) -> float:
    """Find the value below which a share of the patients lies: count in bins, and look into the one that has it."""
    least, most = float(about["least"][column]), float(about["most"][column])
    for _ in range(ZOOMS):
        edges = np.linspace(least, most, BINS + 1)
        below, counts = await histogram(session, column, edges)
        reached = below + np.cumsum(counts) >= share * about["patients"]
        bin_ = int(np.argmax(reached))
        least, most = edges[bin_], edges[bin_ + 1]
    return (least + most) / 2


def hospitals() -> list[Hospital]:
    data = load_breast_cancer()
    parts = quantity_partition(data.data, data.target, num_partitions=3, seed=1)
    return [Hospital(x, y) for x, y in zip(*parts, strict=True)]


async def main() -> None:
    names = list(load_breast_cancer().feature_names)
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2})
    learners = {f"hospital-{number}": hospital for number, hospital in enumerate(hospitals(), 1)}
    session = DriverSession(Controller(controller_config=config), learners, TerminationSignals(federation_rounds=5))
    about = await summary(session)
    print(f"{about['patients']} patients in {len(learners)} hospitals")
    for column in (names.index("mean radius"), names.index("mean area")):
        quartiles = [await quantile(session, column, share, about) for share in (0.25, 0.5, 0.75)]
        print(f"{names[column]}: mean {about['mean'][column]:.4f}, deviation {about['deviation'][column]:.4f}")
        print("  quartiles " + ", ".join(f"{value:.4f}" for value in quartiles))
    column = names.index("mean radius")
    edges = np.linspace(about["least"][column], about["most"][column], 9)
    _, counts = await histogram(session, column, edges)
    for left, count in zip(edges, counts, strict=False):
        print(f"  from {left:5.1f} {'#' * (count // 4)} {count}")
    await all_of(session, "scale", {"mean": about["mean"], "deviation": about["deviation"]})
    result = await session.run()
    print(f"accuracy after {len(result.rounds)} rounds: {result.rounds[-1].evaluation_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    asyncio.run(main())
