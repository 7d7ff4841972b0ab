"""What a learner says beside its weights: what can be used is used, and nothing else costs it its training."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from federations import Adds, AddsOnLoop, session_of
from hypothesis import given, settings
from hypothesis import strategies as st

from metisfl_async import ControllerConfig
from metisfl_async.codec.chunk import split
from metisfl_async.codec.frame import Header, decode, encode
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array, Model
from metisfl_async.learner.learner import Config, TrainResult, examples_of
from metisfl_async.learner.reported import evaluated, trained

LAYOUT = [np.zeros(1)]


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        *((0.5, [0.5]), (3, [3.0]), (True, [1.0]), (Decimal("0.5"), [0.5]), (np.float32(0.5), [0.5])),
        *((np.array(0.5), [0.5]), (np.array([0.5]), [0.5]), (np.array([[0.5]]), [0.5]), ([0.5], [0.5])),
        *((torch.tensor(0.5), [0.5]), (torch.tensor(0.5, requires_grad=True), [0.5])),
        *((torch.tensor(0.5, dtype=torch.bfloat16), [0.5]), (torch.tensor([0.25, 0.5]), [0.25, 0.5])),
        *((np.array([0.25, 0.5]), [0.25, 0.5]), ((0.25, 0.5), [0.25, 0.5]), ([torch.tensor(0.25), 1], [0.25, 1.0])),
    ],
)
def test_numbers_and_vectors_of_all_kinds_are_metrics(value: object, numbers: list[float]) -> None:
    named = {f"f1_{n}": number for n, number in enumerate(numbers)} if len(numbers) > 1 else {"f1": numbers[0]}
    said = evaluated({"f1": value}, "evaluate()")
    assert (said.metrics, said.left_out) == (named, {})
    if not isinstance(value, list | tuple):
        assert trained({"f1": value}, {}, None).metrics == named


class Unreadable:
    def __float__(self) -> float:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"a": 1.0}, object(), 1j, b"1", set(), np.zeros(101), np.zeros((2, 2)), np.array(["a"])),
        *(np.zeros(100_000), [0.5, None], [[0.5, 0.25], [0.5, 0.5]], 10**400, Unreadable(), []),
    ],
)
def test_what_is_no_number_is_left_out_and_named(value: object) -> None:
    for said, source in (
        (evaluated({"loss": 0.5, "odd": value}, "evaluate()"), "evaluate()"),
        (
            trained({"loss": 0.5, "odd": value if not isinstance(value, list) else [value]}, {}, 3),
            "the metrics of train()",
        ),
    ):
        assert said.metrics == {"loss": 0.5}
        assert list(said.left_out) == [f"{source}['odd']"]
        assert said.metadata.get("num_training_examples", 3) == 3


def test_of_a_history_the_last_value_is_the_metric_and_the_whole_is_kept() -> None:
    history = {"loss": [0.5, 0.25, np.float32(0.125)], "f1": [np.array([0.1, 0.2]), np.array([0.3, 0.4])], "t": (1, 2)}
    said = trained(history, {"site": "a"}, 5)
    assert said.metrics == {"loss": 0.125, "f1_0": 0.3, "f1_1": 0.4, "t": 2.0}
    assert said.metadata == {
        "site": "a",
        "num_training_examples": 5,
        "history": {"loss": [0.5, 0.25, 0.125], "f1": [[0.1, 0.2], [0.3, 0.4]], "t": [1, 2]},
    }
    assert said.names == {"loss", "f1", "f1_0", "f1_1", "t"}
    assert not said.left_out


def test_a_history_of_the_learners_own_stays() -> None:
    assert trained({"loss": [0.5, 0.25]}, {"history": "mine"}, None).metadata == {"history": "mine"}


def test_of_a_long_history_the_latest_values_are_kept() -> None:
    said = trained({"loss": [float(n) for n in range(100_000)], "odd": [object(), 1.0]}, {}, None)
    history: Any = said.metadata["history"]
    assert list(history) == ["loss"]
    assert history["loss"][-1] == 99_999.0
    assert 500 < len(history["loss"]) < 1000
    assert said.metrics == {"loss": 99_999.0, "odd": 1.0}
    assert list(said.left_out) == ["the metrics of train()['loss']", "the metrics of train()['odd'][0]"]


def test_texts_and_nothing_are_metadata_of_training_and_left_out_of_evaluations() -> None:
    said = trained({"loss": 0.5, "note": "fine", "auc": None, "site": "b"}, {"site": "a"}, None)
    assert said.metrics == {"loss": 0.5}
    assert said.metadata == {"site": "a", "note": "fine", "auc": None}
    assert list(said.left_out) == ["the metrics of train()['site']"]
    assert list(evaluated({"note": "fine", "auc": None}, "evaluate()").left_out) == [
        "evaluate()['note']",
        "evaluate()['auc']",
    ]


def test_tensors_are_metadata_too_and_what_is_not_json_is_left_out() -> None:
    said = trained({}, {"seconds": torch.tensor(2), "odd": object(), 3: 4, "sizes": np.arange(2)}, None)
    assert said.metadata == {"seconds": 2, "sizes": [0, 1]}
    assert list(said.left_out) == ["the metadata of train()['odd']", "a key of the metadata of train()"]


@pytest.mark.parametrize("nothing", [None, 0.5, "loss", [("loss", 0.5)]])
def test_metrics_and_metadata_that_are_no_dicts_are_left_out(nothing: object) -> None:
    said = trained(nothing, nothing, 3)
    assert (said.metrics, said.metadata) == ({}, {"num_training_examples": 3})
    assert list(said.left_out) == ["the metadata of train()", "the metrics of train()"]


@pytest.mark.parametrize("count", [-1, math.inf, math.nan, "many"])
def test_an_impossible_number_of_examples_is_left_out_of_an_evaluation(count: object) -> None:
    said = evaluated({"num_examples": count, "loss": 0.5}, "evaluate()")
    assert (said.metrics, list(said.left_out)) == ({"loss": 0.5}, ["evaluate()['num_examples']"])


texts = st.text(max_size=2_000)
names = st.text(max_size=300)
facts: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.floats() | st.integers() | texts | st.just([0.5] * 9_000),
    lambda inner: st.lists(inner, max_size=80) | st.dictionaries(names, inner, max_size=20),
    max_leaves=60,
)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.dictionaries(names, facts | st.just([[0.5] * 50] * 400), max_size=30), st.dictionaries(names, facts, max_size=30)
)
def test_whatever_is_said_what_is_kept_fits_a_header(metrics: dict[str, Any], metadata: dict[str, Any]) -> None:
    said = trained(metrics, metadata, 7)
    header = Header("update", Model.from_arrays(LAYOUT).manifest, 1, metrics=said.metrics, metadata=said.metadata)
    (frame,) = split(encode(header))
    assert isinstance(decode(frame), Header)


@pytest.mark.parametrize("text", ["\ud800", ["\ud800"], {"\ud800": 1}])
def test_texts_that_no_message_can_carry_are_left_out(text: object) -> None:
    said = trained({"\ud800": 0.5}, {"note": text, "\udfff": 1}, None)
    assert (said.metrics, said.metadata) == ({}, {})
    assert len(said.left_out) == 3


# --- in a federation -------------------------------------------------------------------------------------------------


class SaysMuch(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        said: Any = {"loss": [0.5, 0.25], "f1": torch.tensor([0.25, 0.75]), "note": "fine", "odd": object()}
        return super().train(parameters, config)[0], said

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return {"accuracy": torch.tensor(0.5), "f1": np.array([0.25, 0.75]), "odd": object()}


class SaysMuchOnLoop(SaysMuch):
    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        return super().train(parameters, config)

    async def evaluate(self, parameters: list[Array], config: Config) -> Metrics:  # type: ignore[override]
        return super().evaluate(parameters, config)


@pytest.mark.parametrize("kind", [SaysMuch, SaysMuchOnLoop])
async def test_an_odd_thing_said_costs_no_training_and_is_warned_of_once(
    kind: type[SaysMuch], caplog: pytest.LogCaptureFixture
) -> None:
    asked: Any = {"train_params": {"metrics": ["f1", "loss"]}, "eval_params": {"metrics": ["f1"]}}
    result = await session_of([kind(1)], rounds=3, config=ControllerConfig(**asked)).run()
    for record in result.rounds:
        part = record.learners["learner-0"]
        assert not part.failures
        assert part.train_metrics == {"f1_0": 0.25, "f1_1": 0.75, "loss": 0.25}
        assert part.train_metadata == {"note": "fine", "history": {"loss": [0.5, 0.25]}, "num_training_examples": 1}
        assert part.evaluation_metrics == {"accuracy": 0.5, "f1_0": 0.25, "f1_1": 0.75}
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert [message.split(" is left out")[0] for message in told] == [
        "learner-0: the metrics of train()['odd']",
        "learner-0: evaluate()['odd']",
    ]


class Measures(Adds):
    def __init__(self, trains_on: int, evaluates_on: int, accuracy: float) -> None:
        super().__init__(trains_on)
        self.said = {"accuracy": accuracy, "num_examples": evaluates_on}

    def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
        return self.said


async def test_the_mean_evaluation_is_that_of_all_test_examples_together() -> None:
    result = await session_of([Measures(900, 10, 1.0), Measures(100, 990, 0.0)], rounds=1, over_grpc=True).run()
    (record,) = result.rounds
    assert record.evaluation_metrics == {"accuracy": 0.01}
    assert record.to_dict()["evaluation_weighted_by"] == "num_examples"


@pytest.mark.parametrize(
    ("x_train", "count"),
    [([1, 2], 2), (np.zeros((3, 4)), 3), (torch.zeros(5), 5), ([], None), (None, None), (np.array(3), None), (5, None)],
)
def test_without_another_number_of_examples_x_train_is_counted(x_train: object, count: int | None) -> None:
    learner: Any = AddsOnLoop(7)
    assert examples_of(learner) == 7
    learner.num_training_examples, learner.x_train = None, x_train
    assert examples_of(learner) == count
