"""The app that `flower_deployed.py` lets Flower run: clients add a constant to a model, and the server averages it.

Flower's own processes import it, in Flower's virtual environment. The strategy is Flower's `FedAvg`, with all its
defaults but the number of clients, of which every one must have its part in each round. The server notes how long
rounds took, and the CPU time of all processes of Flower's server, and writes them as JSON where the run's
configuration says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from os import sysconf
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

LAYERS = 100

client = ClientApp()  # Flower looks for these names without running the file
server = ServerApp()


@client.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    layers = message.content["arrays"].to_numpy_ndarrays()
    changed = [np.add(layer, np.float32(0.001)) for layer in layers]
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": ArrayRecord(changed), "metrics": metrics}), reply_to=message)


@client.evaluate()  # type: ignore[untyped-decorator]
def evaluate(message: Message, context: Context) -> Message:
    first = message.content["arrays"].to_numpy_ndarrays()[0]
    metrics = MetricRecord({"loss": float(first[0]), "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


class Timed(FedAvg):  # type: ignore[misc]
    """Notes how long rounds took, and how much CPU time."""

    def __init__(self, learners: int, superlink: int) -> None:
        super().__init__(min_train_nodes=learners, min_evaluate_nodes=learners, min_available_nodes=learners)
        self.learners, self.superlink = learners, superlink
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []

    def configure_train(self, server_round: int, *args: Any) -> Iterable[Message]:
        self.started, self.cpu_started = time.perf_counter(), self.server_cpu_s()
        messages: Iterable[Message] = super().configure_train(server_round, *args)
        return messages

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        return super().aggregate_train(server_round, self.all_of_them(replies))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        metrics = super().aggregate_evaluate(server_round, self.all_of_them(replies))
        self.seconds.append(time.perf_counter() - self.started)
        self.cpu_s.append(self.server_cpu_s() - self.cpu_started)
        np.testing.assert_allclose(metrics["loss"], 0.001 * server_round, rtol=1e-4)
        return metrics

    def all_of_them(self, replies: Iterable[Message]) -> list[Message]:
        received = list(replies)
        failures = [message.error for message in received if message.has_error()]
        assert len(received) == self.learners, len(received)
        assert not failures, failures
        return received

    def server_cpu_s(self) -> float:
        return sum(cpu_s(process) for process in with_children(self.superlink))


def with_children(process: int) -> Iterator[int]:
    """Give a process, and all that it and they have started."""
    yield process
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        for child in file.read_text().split():
            yield from with_children(int(child))


def cpu_s(process: int) -> float:
    after_the_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, after_the_name[11:13])) / sysconf("SC_CLK_TCK")


def peak_rss_mb(process: int) -> float:
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


@server.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    options = context.run_config
    parameters, rounds = int(options["parameters"]), int(options["rounds"])
    strategy = Timed(int(options["learners"]), int(options["superlink"]))
    first = ArrayRecord(list(np.zeros((LAYERS, parameters // LAYERS), np.float32)))
    result = strategy.start(grid, first, num_rounds=rounds)
    for layer in result.arrays.to_numpy_ndarrays():
        np.testing.assert_allclose(layer, 0.001 * rounds, rtol=1e-4)
    rss_mb = sum(peak_rss_mb(process) for process in with_children(strategy.superlink))
    found = Path(str(options["found"]))
    found.with_suffix(".part").write_text(
        json.dumps({"seconds": strategy.seconds, "cpu_s": strategy.cpu_s, "rss_mb": rss_mb})
    )
    found.with_suffix(".part").rename(found)
