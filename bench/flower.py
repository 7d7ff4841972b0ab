"""The stress test of `stress.py`, done with Flower: no training, only models that move and are averaged.

Runs in a virtual environment of its own, which make sets up: bench/.venv-flower/bin/python bench/flower.py

A dense model of 100 layers with P float32 parameters; N clients, threads of two other processes, add a constant to it.
Of what Flower has for several processes, this takes what is quickest: `start_server` and `start_client`, with one
gRPC stream for each client that stays open. They are deprecated, but here; what replaces them asks for work every few
seconds. The strategy is `FedAvg`, which adds up in place; all options are Flower's defaults. For each (P, N) a fresh
server process measures the median of its rounds but the first, its CPU seconds per round, and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from flwr.client import NumPyClient, start_client
from flwr.common import parameters_to_ndarrays
from flwr.server import Server, ServerConfig, SimpleClientManager, start_server
from flwr.server.strategy import FedAvg
from numpy.typing import NDArray
from processes import in_fresh_process, peak_rss_mb
from tables import Columns, Row, Table

Weights = list[NDArray[np.float32]]
LAYERS, PROCESSES = 100, 2
START_TIMEOUT_S = 60
FLOWER: Columns = {
    "parameters": ("parameters", ",d"),
    "learners": ("learners", "d"),
    "round_ms": ("federation round (ms)", ".0f"),
    "cpu_s": ("CPU (s)", ".2f"),
    "rss_mb": ("peak RSS (MB)", ".0f"),
}


class AddsConstant(NumPyClient):  # type: ignore[misc]
    def __init__(self, parameters: int) -> None:
        self.shape = (LAYERS, parameters // LAYERS)

    def get_parameters(self, config: dict[str, Any]) -> Weights:
        return list(np.zeros(self.shape, np.float32))

    def fit(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, int, dict[str, Any]]:
        for layer in parameters:
            np.add(layer, np.float32(0.001), out=layer)
        return parameters, 1, {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> tuple[float, int, dict[str, Any]]:
        return float(parameters[0][0]), 1, {}


class TimedServer(Server):  # type: ignore[misc]
    """Notes how long rounds took, and how much CPU time; every client must have its part in each."""

    def __init__(self, learners: int, *, evaluate: bool) -> None:
        strategy = FedAvg(
            fraction_evaluate=1.0 if evaluate else 0.0,
            min_fit_clients=learners,
            min_evaluate_clients=learners,
            min_available_clients=learners,
        )
        super().__init__(client_manager=SimpleClientManager(), strategy=strategy)
        self.learners, self.evaluate = learners, evaluate
        self.seconds: list[float] = []
        self.cpu_s: list[float] = []

    def fit_round(self, server_round: int, timeout: float | None) -> Any:
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        answer = super().fit_round(server_round, timeout)
        _, _, (results, failures) = answer
        assert len(results) == self.learners, failures
        return answer

    def evaluate_round(self, server_round: int, timeout: float | None) -> Any:
        answer = super().evaluate_round(server_round, timeout)
        self.seconds.append(time.perf_counter() - self.started)
        self.cpu_s.append(time.process_time() - self.cpu_started)
        if self.evaluate:
            loss, _, (results, failures) = answer
            assert len(results) == self.learners, failures
            np.testing.assert_allclose(loss, 0.001 * server_round, rtol=1e-4)
        return answer


def run_clients(port: int, parameters: int, count: int) -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    address = f"127.0.0.1:{port}"
    with grpc.insecure_channel(address) as channel:  # `start_client` gives up where nobody listens yet
        grpc.channel_ready_future(channel).result(START_TIMEOUT_S)

    def run_client() -> None:
        start_client(server_address=address, client=AddsConstant(parameters).to_client())

    threads = [threading.Thread(target=run_client) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def free_port() -> int:
    """Find a port; `start_server` would not say which it took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def measure(parameters: int, learners: int, rounds: int, *, evaluate: bool) -> Row:
    """Run a federation, and say how its rounds were."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    port, spawn = free_port(), multiprocessing.get_context("spawn")
    shares = [len(share) for share in np.array_split(np.arange(learners), PROCESSES)]
    children = [spawn.Process(target=run_clients, args=(port, parameters, share), daemon=True) for share in shares]
    for child in children:
        child.start()
    server = TimedServer(learners, evaluate=evaluate)
    start_server(server_address=f"127.0.0.1:{port}", server=server, config=ServerConfig(num_rounds=rounds + 1))
    for child in children:
        child.join(START_TIMEOUT_S)
    rss_mb = peak_rss_mb()
    for layer in parameters_to_ndarrays(server.parameters):
        np.testing.assert_allclose(layer, 0.001 * (rounds + 1), rtol=1e-4)
    return {
        "parameters": parameters,
        "learners": learners,
        "round_ms": statistics.median(server.seconds[1:]) * 1e3,
        "cpu_s": statistics.mean(server.cpu_s[1:]),
        "rss_mb": rss_mb,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = "100000x10,1000000x10,10000000x10"
    parser.add_argument("--sizes", default=sizes, help="parameters x learners, ...; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="that are measured; default: %(default)s")
    parser.add_argument("--evaluate", action=argparse.BooleanOptionalAction, default=True, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the rows there")
    options = parser.parse_args()
    print(f"Flower {version('flwr')}, grpcio {version('grpcio')}, evaluation {'on' if options.evaluate else 'off'}")
    table = Table(FLOWER)
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": home}  # it would leave a file in the user's
        for size in options.sizes.split(","):
            parameters, learners = map(int, size.split("x"))
            table.add(**in_fresh_process(measure, parameters, learners, options.rounds, evaluate=options.evaluate))
    if options.json is not None:
        options.json.write_text(json.dumps(table.rows, indent=1))


if __name__ == "__main__":
    main()
