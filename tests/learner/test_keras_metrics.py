"""What Keras measures, whatever its shape, costs no learner its training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from digits import parts
from federations import session_of

from metisfl_async import ControllerConfig
from metisfl_async.adapters import KerasLearner


def learner_of(number: int) -> KerasLearner:
    def make() -> keras.Model:
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
        metrics = ["accuracy", keras.metrics.F1Score()]
        model.compile(optimizer="sgd", loss="categorical_crossentropy", metrics=metrics)
        return model

    (x, y), (x_test, y_test) = parts()[number]
    one_hot: Any = np.eye(10, dtype=np.float32)
    return KerasLearner(make, (x, one_hot[y]), (x_test, one_hot[y_test]))


@pytest.mark.tensorflow
async def test_a_score_for_each_class_becomes_as_many_metrics() -> None:
    asked = ControllerConfig(train_params={"metrics": ["f1_score"]}, eval_params={"metrics": ["f1_score", "accuracy"]})
    learners = [learner_of(number) for number in range(2)]
    result = await session_of(learners, rounds=2, config=asked).run()
    names = {"accuracy", "loss", *(f"f1_score_{number}" for number in range(10))}
    for record in result.rounds:
        assert record.participants == ["learner-0", "learner-1"]
        assert record.train_metrics.keys() == record.evaluation_metrics.keys() == names
        assert record.evaluation_weighted_by == "num_examples"
        examples = [part.evaluation_metrics["num_examples"] for part in record.learners.values()]
        assert examples == [len(learner.test_data[1]) for learner in learners]  # type: ignore[index]
