"""MetisFL's TensorFlow tutorial: its calls, in its order, with another package name and `asyncio.run` around `run`.

The data are digits instead of CIFAR-10, and ports are free ones instead of 50051 to 50054.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from digits import digits
from federations import PATIENCE_S

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ModelStoreConfig,
    ServerParams,
    run_learner,
)
from metisfl_async.compat import TerminationSingals
from metisfl_async.data import iid_partition

pytestmark = pytest.mark.slow

MAX_LEARNERS = 3


def get_model() -> Any:
    layers = tf.keras.layers
    return tf.keras.models.Sequential(
        [layers.Input((64,)), layers.Dense(64, activation="relu"), layers.Dense(10, activation="softmax")]
    )


class TFLearner(Learner):
    def __init__(self, x_train: Any, y_train: Any, x_test: Any, y_test: Any) -> None:
        super().__init__()
        self.model = get_model()
        self.model.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
        self.x_train, self.y_train = x_train, y_train
        self.x_test, self.y_test = x_test, y_test

    def get_weights(self) -> Any:
        return self.model.get_weights()

    def set_weights(self, parameters: Any) -> None:
        self.model.set_weights(parameters)

    def train(self, parameters: Any, config: Any) -> Any:
        self.model.set_weights(parameters)
        batch_size = config["batch_size"] if "batch_size" in config else 64  # noqa: SIM401
        epochs = config["epochs"] if "epochs" in config else 3  # noqa: SIM401
        res = self.model.fit(x=self.x_train, y=self.y_train, batch_size=batch_size, epochs=epochs)
        parameters = self.model.get_weights()
        return parameters, res.history

    def evaluate(self, parameters: Any, config: Any) -> Any:
        self.model.set_weights(parameters)
        loss, accuracy = self.model.evaluate(self.x_test, self.y_test)
        return {"accuracy": float(accuracy), "loss": float(loss)}


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


@pytest.mark.tensorflow
def test_it_runs_to_the_letter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    controller_port, *ports = free_ports(1 + MAX_LEARNERS)
    (x_train, y_train), (x_test, y_test) = digits()
    x_chunks, y_chunks = iid_partition(x_train, y_train, num_partitions=3, seed=1990)

    # the controller
    controller_params = ServerParams(
        hostname="localhost",
        port=controller_port,
    )
    controller_config = ControllerConfig(
        aggregation_rule="FedAvg",
        scheduler="Synchronous",
        scaling_factor="NumTrainingExamples",
    )
    model_store_config = ModelStoreConfig(model_store="InMemory", lineage_length=0)
    controller = Controller(
        server_params=controller_params,
        controller_config=controller_config,
        model_store_config=model_store_config,
    )

    async def serve() -> None:
        async with controller:
            await controller.serve()

    # the learners
    def get_learner_server_params(learner_index: int) -> ServerParams:
        return ServerParams(
            hostname="localhost",
            port=ports[learner_index],
        )

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run(asyncio.wait_for(coroutine, PATIENCE_S))

    with ThreadPoolExecutor(1 + MAX_LEARNERS) as threads:
        ending = [threads.submit(run, serve())]
        for i in range(MAX_LEARNERS):
            learner = TFLearner(x_chunks[i], y_chunks[i], x_test, y_test)
            client_params = ClientParams(hostname=controller_params.hostname, port=controller_params.port)
            ending.append(threads.submit(run, run_learner(learner, client_params, get_learner_server_params(i))))

        # the driver
        termination_signals = TerminationSingals(federation_rounds=5)
        learners = [get_learner_server_params(i) for i in range(MAX_LEARNERS)]
        session = DriverSession(
            controller=controller_params,
            learners=learners,
            termination_signals=termination_signals,
        )
        logs = asyncio.run(asyncio.wait_for(session.run(), PATIENCE_S))
        for one in ending:
            one.result(PATIENCE_S)

    capsys.readouterr()  # Keras' own progress
    logs.save(tmp_path / "results.json")
    rounds = json.loads((tmp_path / "results.json").read_text())["rounds"]
    assert [record["is_published"] for record in rounds] == [True] * 5
    assert rounds[-1]["evaluation_metrics"]["accuracy"] > 0.8
    for part in (part for record in rounds for part in record["learners"].values()):
        assert not part["failures"]
        assert part["weight"] == len(x_train) / MAX_LEARNERS
        history = part["train_metadata"]["history"]
        assert {name: len(values) for name, values in history.items()} == {"accuracy": 3, "loss": 3}
        assert part["train_metrics"] == {name: values[-1] for name, values in history.items()}
    assert np.isfinite(logs.final_model[0]).all()  # type: ignore[index]
