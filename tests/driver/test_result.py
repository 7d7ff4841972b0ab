from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from federations import Adds, session_of
from matplotlib.figure import Figure
from safetensors.numpy import load_file, save

from metisfl_async import BestScore, ConfigError, FederationResult, LearnerRecord, RoundRecord
from metisfl_async.core.strategies.aggregation.contributors import Contributor, entries_of
from metisfl_async.data import plot_partitions
from metisfl_async.driver.weights import read
from metisfl_async.events import Ending, FederationStarted


@pytest.fixture
async def result() -> FederationResult:
    return await session_of([Adds(1), Adds(2)], rounds=3).run()


def test_it_is_short_to_look_at(result: FederationResult) -> None:
    assert repr(result) == "<FederationResult: 3 rounds, accuracy=5, 'federation_rounds=3 reached'>"


def test_it_is_a_table_in_notebooks(result: FederationResult) -> None:
    html = result._repr_html_()
    assert html.startswith("<p>FederationResult: 3 rounds, accuracy=5, &#x27;federation_rounds=3 reached&#x27;</p>")
    assert "<th>round</th><th>updates</th><th>seconds</th><th>train loss</th><th>accuracy</th>" in html
    assert html.count("<tr><td>") == 3
    assert "<td>2 of 2</td>" in html


def test_everything_but_the_model_is_json(result: FederationResult, tmp_path: Path) -> None:
    result.save(tmp_path / "results.json")
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    data = json.loads((tmp_path / "results.json").read_text())
    assert data == result.to_dict()
    assert [RoundRecord.from_dict(record) for record in data["rounds"]] == result.rounds
    part = data["rounds"][0]["learners"]["learner-1"]
    assert part["weight"] == 2.0
    assert part["train_ms"] > 0.0
    assert data["rounds"][0]["bytes_received"] == 2 * 72


async def test_it_says_when_it_started_and_when_each_round_did(tmp_path: Path) -> None:
    before = time.time()
    session = session_of([Adds(1)], rounds=2)
    result = await session.run()
    first = await anext(session.events())
    assert isinstance(first, FederationStarted)
    times = [before, result.started_at, *(record.started_at for record in result.rounds), time.time()]
    assert times == sorted(times)
    assert result.started_at == first.started_at
    result.save(tmp_path / "results.json")
    loaded = FederationResult.load(tmp_path)
    assert loaded.started_at == result.started_at
    assert [record.started_at for record in loaded.rounds] == times[2:-1]


def test_numbers_that_json_does_not_have_become_null(result: FederationResult, tmp_path: Path) -> None:
    record = replace(result.rounds[0], train_metrics={"loss": float("nan"), "best": float("-inf")})
    replace(result, rounds=[record]).save(tmp_path / "results.json")
    assert json.loads((tmp_path / "results.json").read_text())["rounds"][0]["train_metrics"] == {
        "loss": None,
        "best": None,
    }


def test_the_model_is_saved_as_safetensors(result: FederationResult, tmp_path: Path) -> None:
    arrays = [*(result.final_model or []), np.array([1.5, 2.5], ml_dtypes.bfloat16), np.arange(6.0).reshape(2, 3).T]
    replace(result, final_model=arrays, tensor_names=[]).save_model(tmp_path / "model.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    for index, array in enumerate(arrays):
        np.testing.assert_array_equal(loaded[str(index)], array)
        assert (loaded[str(index)].dtype, loaded[str(index)].shape) == (array.dtype, array.shape)


def test_what_was_saved_is_loaded_again(result: FederationResult, tmp_path: Path) -> None:
    arrays = [np.arange(6.0, dtype=np.float32).reshape(2, 3) * number for number in range(12)]
    names = [f"layer.{number}" for number in range(12)]
    saved = replace(
        result, final_model=arrays, first_weights="given", tensor_names=names, untrained_names=["layer.10", "layer.11"]
    )
    saved.rounds[0].train_metrics["loss"] = float("inf")
    saved.rounds[0].central["loss"] = float("nan")
    saved.save(tmp_path / "results.json")
    assert FederationResult.load(tmp_path).final_model is None
    saved.save_model(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "results.json", str(tmp_path)):
        loaded = FederationResult.load(path)
        np.testing.assert_equal(loaded.final_model, arrays)
        assert (loaded.tensor_names, loaded.untrained_names) == (names, ["layer.10", "layer.11"])
        assert repr(loaded) == repr(saved)
        assert "train loss nan" in repr(loaded.rounds[0])
        assert "central loss nan" in repr(loaded.rounds[0])
        assert (loaded.first_weights, loaded.model_version) == ("given", 3)
        assert loaded.ending is result.ending is Ending.FEDERATION_ROUNDS
        assert loaded.rounds[1:] == saved.rounds[1:]
        assert np.isnan(loaded.rounds[0].train_metrics["loss"])
    assert loaded.plot() is not None


def test_a_directory_that_is_not_there_is_made(result: FederationResult, tmp_path: Path) -> None:
    result.save(tmp_path / "a" / "b" / "results.json")
    result.save_model(tmp_path / "c" / "d" / "model.safetensors")
    result.save_page(tmp_path / "e" / "f" / "run.html")
    result.plot(tmp_path / "g" / "h" / "results.png")
    assert len(list(tmp_path.glob("?/?/*.*"))) == 4


def test_the_best_model_is_saved_and_loaded_beside_the_final_one(result: FederationResult, tmp_path: Path) -> None:
    final, best = [np.zeros(2, np.float32)], [np.ones(2, np.float32)]
    score = BestScore("accuracy", 0.75, 2, 2)
    both = replace(result, final_model=final, tensor_names=["w"], best=score, best_model=best)
    assert repr(both).startswith("<FederationResult: 3 rounds, accuracy=5, best accuracy=0.75 in round 2, ")
    both.save(tmp_path / "results.json")
    assert FederationResult.load(tmp_path).best == score
    assert FederationResult.load(tmp_path).best_model is None
    both.save_model(tmp_path / "best.safetensors", best=True)
    np.testing.assert_equal(load_file(tmp_path / "best.safetensors"), {"w": best[0]})
    assert FederationResult.load(tmp_path).named_arrays(best=True).keys() == {"w"}
    both.save_model(tmp_path / "model.safetensors")
    loaded = FederationResult.load(tmp_path)
    np.testing.assert_equal((loaded.final_model, loaded.best_model), (final, best))
    with pytest.raises(ConfigError, match="best_model is None; allowed: a federation that measured its"):
        result.save_model(tmp_path / "none.safetensors", best=True)


def test_a_best_score_that_json_does_not_have_is_nan(result: FederationResult, tmp_path: Path) -> None:
    replace(result, best=BestScore("loss", float("-inf"), 1, 1)).save(tmp_path / "results.json")
    best = FederationResult.load(tmp_path).best
    assert best is not None
    assert np.isnan(best.score)


@pytest.mark.parametrize(
    "text",
    [None, "{", "[]", '{"rounds": [{}]}', '{"rounds": []}', '{"rounds": [{"learners": []}]}', "[" * 100_000],
    ids=["none", "half", "a list", "no record", "no rounds", "learners", "deep"],
)
def test_what_is_no_result_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=r"allowed: a results.json, or a directory with one \("):
        FederationResult.load(tmp_path)


def test_what_is_no_model_is_refused(result: FederationResult, tmp_path: Path) -> None:
    result.save(tmp_path / "results.json")
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="allowed: a safetensors file"):
        FederationResult.load(tmp_path)


@pytest.mark.parametrize(
    "said",
    [
        *({"names": text} for text in ('["w"]', '["w", "w"]', '["w", "b", "c"]', "5", "[[1], [2]]", "[" * 100_000)),
        *({"untrained": text} for text in ('["c"]', "5", "[[1]]")),
    ],
    ids=lambda said: str(said)[:30],
)
def test_a_file_that_names_other_tensors_than_it_has_is_refused(tmp_path: Path, said: dict[str, str]) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(save({"w": np.zeros(2), "b": np.ones(2)}, said))
    with pytest.raises(ConfigError, match="allowed: a safetensors file"):
        read(file)
    file.write_bytes(save({"w": np.zeros(2), "b": np.ones(2)}, {"names": '["w", "b"]', "untrained": '["b"]'}))
    arrays, untrained = read(file)
    assert (list(arrays), untrained) == (["w", "b"], ["b"])


def test_without_a_model_there_is_nothing_to_save(result: FederationResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="final_model is None"):
        replace(result, final_model=None).save_model(tmp_path / "model.safetensors")


def test_the_plot_has_a_panel_for_each_metric_loss_first(result: FederationResult, tmp_path: Path) -> None:
    figure = result.plot(tmp_path / "plot.png")
    assert isinstance(figure, Figure)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    accuracy = figure.axes[1].lines[-1]
    np.testing.assert_allclose(np.asarray(accuracy.get_xydata(), np.float64), [[1, 5 / 3], [2, 10 / 3], [3.0, 5.0]])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


@pytest.mark.parametrize(("num_metrics", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (4, 2, 2), (5, 2, 3), (20, 7, 3)])
def test_many_metrics_are_plotted_in_rows_of_three_panels(num_metrics: int, rows: int, columns: int) -> None:
    metrics = {f"f1_score_{number}": 0.5 for number in range(num_metrics)}
    figure = FederationResult(None, 1, [RoundRecord(1, 0, True, evaluation_metrics=metrics)], "enough").plot()
    assert len(figure.axes) == num_metrics
    assert figure.axes[0].get_gridspec().get_geometry() == (rows, columns)  # type: ignore[union-attr]


def test_the_plot_has_the_privacy_spent(result: FederationResult) -> None:
    rounds = [replace(record, privacy={"epsilon": 0.5 * record.number, "delta": 1e-5}) for record in result.rounds]
    for records, titles in (
        (rounds, ["loss", "accuracy", "privacy spent: epsilon"]),
        ([replace(record, train_metrics={}, evaluation_metrics={}) for record in rounds], ["privacy spent: epsilon"]),
    ):
        axes = replace(result, rounds=records).plot().axes
        assert [each.get_title() for each in axes][-len(titles) :] == titles
        (line,) = axes[-1].lines
        assert np.asarray(line.get_xydata(), np.float64).tolist() == [[1, 0.5], [2, 1.0], [3, 1.5]]


def test_hospitals_behind_a_relay_are_saved_and_have_lines_of_their_own(tmp_path: Path) -> None:
    below = {"site-0": Contributor(1.0, 1, {"auc": 0.25}), "site-1": Contributor(1.0, 1, {"auc": math.nan})}
    north = LearnerRecord(evaluation_metrics={"auc": math.nan}, evaluation_metadata=entries_of(below))
    alone = LearnerRecord(evaluation_metrics={"auc": 0.5})
    records = [RoundRecord(1, 0, True, evaluation_metrics={"auc": 0.5}, learners={"alone": alone, "north": north})]
    FederationResult(None, 1, records, "enough").save(tmp_path / "results.json")
    loaded = FederationResult.load(tmp_path)
    (record,) = loaded.rounds
    assert record.evaluations["north/site-0"] == {"auc": 0.25}
    assert np.isnan(record.evaluations["north/site-1"]["auc"])
    (axes,) = loaded.plot().axes
    lines = [np.asarray(each.get_ydata(), np.float64).tolist() for each in axes.lines]
    assert lines == [[0.5], [0.25], [pytest.approx(math.nan, nan_ok=True)], [0.5]]


def test_the_plot_over_time_has_each_record_where_it_was_complete(result: FederationResult, tmp_path: Path) -> None:
    axes = result.plot(tmp_path / "plot.png", x="time").axes[1]
    assert axes.get_xlabel() == "seconds since the start"
    ended_s = [(record.started_ms + record.duration_ms) / 1e3 for record in result.rounds]
    np.testing.assert_allclose(np.asarray(axes.lines[-1].get_xdata(), np.float64), ended_s)
    with pytest.raises(ConfigError, match="x is 'round'; allowed: 'number' or 'time'"):
        result.plot(x="round")  # type: ignore[arg-type]


def test_without_rounds_the_plot_is_over_model_versions_with_a_dot_for_each_update() -> None:
    records = [
        RoundRecord(
            number,
            number - 1,
            True,
            in_rounds=False,
            started_ms=100.0 * number,
            # the evaluation of every tenth model takes longer than the next two models
            duration_ms=350.0 if number % 10 == 0 else 100.0,
            participants=["a"],
            train_metrics={"loss": 1 / number},
            evaluation_metrics={"loss": 2 / number} if number % 10 == 0 else {},
            learners={"a": LearnerRecord()},
        )
        for number in range(1, 1001)
    ]
    result = FederationResult(None, 1000, records, "enough")
    assert repr(result) == "<FederationResult: 1000 models, loss=0.002, 'enough'>"
    (axes,) = result.plot().axes
    assert axes.get_xlabel() == "model version"
    training, evaluation = axes.lines
    assert (training.get_linestyle(), evaluation.get_linestyle()) == ("None", "-")
    assert (np.size(training.get_xdata()), np.size(evaluation.get_xdata())) == (1000, 100)
    assert evaluation.get_marker() == "None"
    over_time = np.asarray(result.plot(x="time").axes[0].lines[0].get_xdata(), np.float64)
    assert (np.diff(over_time) >= 0).all()


def test_the_rounds_that_are_named_are_those_that_people_count_by() -> None:
    records = [RoundRecord(number, 0, True, evaluation_metrics={"loss": 1.0}) for number in range(1, 31)]
    (axes,) = FederationResult(None, 1, records, "enough").plot().axes
    assert [tick for tick in axes.get_xticks() if 1 <= tick <= 30] == [5, 10, 15, 20, 25, 30]


def test_nothing_measured_is_plotted_as_such(result: FederationResult) -> None:
    figure = replace(result, rounds=[]).plot()
    assert [axes.get_title() for axes in figure.axes] == ["no metric was reported"]


def test_partitions_are_plotted_as_bars_of_classes(tmp_path: Path) -> None:
    axes = plot_partitions([np.array([0, 0, 1]), [2, 1]], tmp_path / "parts.png").axes[0]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[2, 0], [1, 1], [0, 1]]
    assert (tmp_path / "parts.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_matplotlib_is_imported_only_when_something_is_plotted() -> None:
    code = "import sys, metisfl_async; assert not [name for name in sys.modules if name.startswith('matplotlib')]"
    subprocess.run([sys.executable, "-c", code], check=True)
