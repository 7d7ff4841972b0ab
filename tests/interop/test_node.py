"""A learner in JavaScript, which shares nothing with ours but docs/wire.md, in one federation with Python learners."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federations import PATIENCE_S, until
from numpy.typing import NDArray
from proxy import Proxy, proxy_to

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    Learner,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.conformance import CASES, check_learner
from metisfl_async.core.federation.desk import Desk
from metisfl_async.core.federation.tasks import HeldTask, Verdict
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.metrics import Metrics
from metisfl_async.learner.learner import Config, TrainResult

pytestmark = [pytest.mark.slow, pytest.mark.node]

HERE = Path(__file__).parent
CONFIG = ControllerConfig(heartbeat_secs=0.05)
ROUNDS = 4

Weights = list[NDArray[np.float32]]


@dataclass
class Site:
    """One learner's data, and what it computes of them."""

    x: NDArray[np.float64]  #: shape (examples, features)
    y: NDArray[np.float64]  #: shape (examples,)
    learning_rate: float = 0.05
    steps: int = 5

    @classmethod
    def of(cls, seed: int, examples: int, features: int = 3, learning_rate: float = 0.05) -> Site:
        rng = np.random.default_rng(seed)
        x = rng.integers(-1, 2, (examples, features)).astype(np.float64)
        return cls(x, x[:, :3] @ [1.0, -2.0, 0.5] + rng.normal(3.0, 0.1, examples).round(3), learning_rate)

    def train(self, weights: Weights) -> Weights:
        """Gradient descent in float64, rounded once at the end."""
        slopes, bias = (array.astype(np.float64) for array in weights)
        for _ in range(self.steps):
            errors = self.x @ slopes + bias - self.y
            rate = 2 * self.learning_rate / len(self.y)
            slopes, bias = slopes - rate * (errors @ self.x), bias - rate * errors.sum()
        return [slopes.astype(np.float32), np.asarray(bias, np.float32)]

    def loss(self, weights: Weights) -> float:
        slopes, bias = (array.astype(np.float64) for array in weights)
        return float(((self.x @ slopes + bias - self.y) ** 2).mean())

    @property
    def zeros(self) -> Weights:
        return [np.zeros(self.x.shape[1], np.float32), np.zeros((), np.float32)]


class LinearLearner(Learner):
    """The same in Python."""

    def __init__(self, site: Site) -> None:
        super().__init__(num_training_examples=len(site.y))
        self.site = site

    def get_weights(self) -> Weights:
        return self.site.zeros

    def set_weights(self, parameters: Weights) -> None:
        """Take over nothing: parameters come with every task."""

    def train(self, parameters: Weights, config: Config) -> TrainResult:
        return list(self.site.train(parameters)), {"loss": self.site.loss(parameters)}

    def evaluate(self, parameters: Weights, config: Config) -> Metrics:
        return {"loss": self.site.loss(parameters)}


class SlowLearner(LinearLearner):
    """Trains when it may."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.may_train = asyncio.Event()

    async def train(self, parameters: Weights, config: Config) -> TrainResult:  # type: ignore[override]
        await self.may_train.wait()
        return super().train(parameters, config)


def plain_loop(sites: list[Site], rounds: int) -> list[Weights]:
    """Federated averaging without a federation: the models after each round."""
    models = [sites[0].zeros]
    sizes = [len(site.y) for site in sites]
    for _ in range(rounds):
        updates = [site.train(models[-1]) for site in sites]
        models.append(
            [
                np.average(np.stack(arrays).astype(np.float64), axis=0, weights=sizes).astype(np.float32)
                for arrays in zip(*updates, strict=True)
            ]
        )
    return models[1:]


class Node:
    """The running learner; it prints what happens to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[dict[str, Any]] = []

    async def until(self, what: str) -> dict[str, Any]:
        """Read on until it says this."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said.append(json.loads(line))
            if self.said[-1]["what"] == what:
                return self.said[-1]
        raise AssertionError(f"it ended before it said {what!r}")

    async def end(self) -> int:
        assert self.process.stdout is not None
        self.said += [json.loads(line) async for line in self.process.stdout]
        return await self.process.wait()

    def of(self, what: str) -> list[dict[str, Any]]:
        return [said for said in self.said if said["what"] == what]


@asynccontextmanager
async def node(
    controller: Controller | Proxy | ClientParams, site: Site, directory: Path, **options: str
) -> AsyncIterator[Node]:
    program = shutil.which("node")
    assert program is not None, "Node.js 20 or newer is needed, as node"
    assert (HERE / "node_modules" / ".ready").exists(), "run `make tests/interop/node_modules/.ready`, which needs npm"
    facts = {"x": site.x.astype(int).tolist(), "y": site.y.tolist()} | options
    file = directory / "data.json"
    file.write_text(json.dumps(facts | {"learning_rate": site.learning_rate, "steps": site.steps}))
    address = (controller.params if isinstance(controller, Proxy) else controller).address
    command = (program, str(HERE / "learner.mjs"), address, "node", str(file))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, limit=2**24)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield Node(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def federation(
    controller: Controller, learners: dict[str, LinearLearner], until: int | TerminationSignals, seed: int = 1990
) -> FederationResult:
    """Run the Python learners and the driver, beside a learner that has joined already, for so many rounds."""
    signals = TerminationSignals(federation_rounds=until) if isinstance(until, int) else until
    session = DriverSession(controller, len(learners) + 1, signals, seed=seed)
    async with asyncio.TaskGroup() as group:
        for name, learner in learners.items():
            group.create_task(run_learner(learner, controller.client_params, learner_id=name))
        return await session.run()


def assert_same(result: FederationResult, sites: dict[str, Site], rounds: int) -> None:
    """Compare with the plain loop: the model to float32's last bits, and each learner's loss of each round."""
    models = plain_loop(list(sites.values()), rounds)
    assert result.final_model is not None
    for array, expected in zip(result.final_model, models[-1], strict=True):
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-7)
    assert [record.participants for record in result.rounds] == [list(sites)] * rounds
    for record, model in zip(result.rounds, models, strict=True):
        for name, site in sites.items():
            assert record.learners[name].weight == len(site.y)
            assert record.learners[name].evaluation_metrics == {"loss": pytest.approx(site.loss(model), rel=1e-4)}


def _last(learner: Node) -> dict[str, Any]:
    """What it said last; answers to its heartbeats may come until it has left."""
    last: dict[str, Any] = [said for said in learner.said if said["what"] != "heartbeat"][-1]
    return last


async def test_javascript_beside_python_computes_what_a_plain_loop_computes(tmp_path: Path) -> None:
    sites = {"a": Site.of(1, 10), "b": Site.of(2, 25), "node": Site.of(3, 40)}
    async with Controller(ServerParams(), CONFIG) as controller, node(controller, sites["node"], tmp_path) as learner:
        for _ in range(3):
            await learner.until("heartbeat")  # each is the answer to one of its own
        result = await federation(controller, {name: LinearLearner(sites[name]) for name in ("a", "b")}, ROUNDS)
        assert await learner.end() == 0
    assert_same(result, sites, ROUNDS)
    assert [said["state"] for said in learner.of("answer")][-ROUNDS:] == ["folded"] * ROUNDS
    assert sum(len(said["task_ids"]) for said in learner.of("counted")) == ROUNDS
    assert len(learner.of("settled")) == ROUNDS
    assert _last(learner)["what"] == "final"
    assert _last(learner)["loss"] == pytest.approx(sites["node"].loss(plain_loop(list(sites.values()), ROUNDS)[-1]))


async def test_a_learner_that_knows_nothing_of_codecs_goes_on_with_those_who_do(tmp_path: Path) -> None:
    sites = {"a": Site.of(1, 10), "node": Site.of(3, 40)}
    config = replace(CONFIG, update_codec="int8", download_codec="bf16")
    async with Controller(ServerParams(), config) as controller, node(controller, sites["node"], tmp_path) as learner:
        await learner.until("welcome")
        result = await federation(controller, {"a": LinearLearner(sites["a"])}, ROUNDS)
        assert await learner.end() == 0
    assert [record.participants for record in result.rounds] == [["a", "node"]] * ROUNDS
    assert result.final_model is not None
    for array, expected in zip(result.final_model, plain_loop(list(sites.values()), ROUNDS)[-1], strict=True):
        np.testing.assert_allclose(array, expected, rtol=0.05, atol=0.02)


class MarksLearner(LinearLearner):
    """Says in the first weights that the bias is not to be stepped."""

    def untrained_names(self) -> list[str]:
        return ["1"]


async def test_a_learner_that_knows_nothing_of_marks_goes_on_with_those_who_do(tmp_path: Path) -> None:
    sites = {"a": Site.of(1, 10), "node": Site.of(3, 40)}
    seed = next(seed for seed in range(100) if random.Random(seed).choice(["a", "node"]) == "a")
    config = ControllerConfig(aggregation_rule="FedAvgM", heartbeat_secs=0.05)
    async with Controller(ServerParams(), config) as controller, node(controller, sites["node"], tmp_path) as learner:
        await learner.until("welcome")
        result = await federation(controller, {"a": MarksLearner(sites["a"])}, 2, seed)
        assert await learner.end() == 0
    assert result.untrained_names == ["1"]
    assert [record.participants for record in result.rounds] == [["a", "node"]] * 2
    assert result.final_model is not None
    first = plain_loop(list(sites.values()), 1)[0]
    slopes, bias = first
    means = [site.train(first) for site in sites.values()]
    mean, mean_bias = (np.average(np.stack(arrays), axis=0, weights=[10, 40]) for arrays in zip(*means, strict=True))
    np.testing.assert_allclose(result.final_model[0], slopes + 0.9 * slopes + (mean - slopes), rtol=1e-5)
    np.testing.assert_allclose(result.final_model[1], mean_bias, rtol=1e-6)
    assert bias != mean_bias


async def test_first_weights_and_models_of_many_frames_travel_both_ways(tmp_path: Path) -> None:
    features = 400_001  # 1.6 MB of float32, and not a multiple of 64 bytes: two data frames, with padding in between
    sites = {"a": Site.of(1, 2, features, 1e-7), "node": Site.of(2, 3, features, 1e-7)}
    seed = next(seed for seed in range(100) if random.Random(seed).choice(["a", "node"]) == "node")
    async with Controller(ServerParams(), CONFIG) as controller, node(controller, sites["node"], tmp_path) as learner:
        await learner.until("welcome")
        result = await federation(controller, {"a": LinearLearner(sites["a"])}, 2, seed)
        assert await learner.end() == 0
        (latest,) = await controller.lineage()
    assert [said["kind"] for said in learner.of("task")] == ["get_weights"] + 2 * ["train", "evaluate"]
    assert [spec.name for spec in latest.manifest.tensors] == ["weights", "bias"]
    assert result.rounds[1].learners["node"].bytes_received == latest.manifest.size_bytes > 2**20
    assert_same(result, sites, 2)


async def test_a_wrong_digest_is_refused_at_the_fourth_time_with_a_reason_that_people_can_read(tmp_path: Path) -> None:
    sites = {"a": Site.of(1, 10), "node": Site.of(3, 40)}
    seed = next(seed for seed in range(100) if random.Random(seed).choice(["a", "node"]) == "a")
    async with (
        Controller(ServerParams(), CONFIG) as controller,
        node(controller, sites["node"], tmp_path, misbehave="digest") as learner,
    ):
        await learner.until("welcome")
        result = await federation(controller, {"a": LinearLearner(sites["a"])}, 1, seed)
        assert await learner.end() == 0
    reason = "end frame: the digest is not that of the header and the bytes received"
    states = ["damaged"] * 3 + ["refused"]
    assert learner.of("answer") == [{"what": "answer", "state": state, "reason": reason} for state in states]
    assert result.rounds[0].participants == ["a"]
    assert result.rounds[0].learners["node"].failures[0].type == "Damaged"


async def test_an_update_that_is_sent_twice_counts_once(tmp_path: Path) -> None:
    sites = {"node": Site.of(3, 40)}
    async with (
        Controller(ServerParams(), CONFIG) as controller,
        node(controller, sites["node"], tmp_path, misbehave="twice") as learner,
    ):
        result = await federation(controller, {}, 2)
        assert await learner.end() == 0
    assert_same(result, sites, 2)
    states = [said["state"] for said in learner.of("answer")]
    assert states[:2] == ["counted"] * 2
    assert states[2::2] == ["folded"] * 2
    assert set(states[3::2]) <= {"folded", "counted"}


async def test_an_update_is_kept_until_it_counts_and_is_sent_again_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = {"a": Site.of(1, 10), "node": Site.of(3, 40)}
    slow, judge, asked = SlowLearner(sites["a"]), Desk.judge, 0

    def asks_again(desk: Desk, learner: LearnerId, held: HeldTask) -> tuple[Verdict, str]:
        nonlocal asked
        verdict, reason = judge(desk, learner, held)
        if verdict is Verdict.KEEP and (asked := asked + 1) == 1:
            return Verdict.UPLOAD, "the sum that it was in is gone"
        return verdict, reason

    monkeypatch.setattr(Desk, "judge", asks_again)
    async with (
        Controller(ServerParams(), CONFIG) as controller,
        proxy_to(controller) as proxy,
        node(proxy, sites["node"], tmp_path) as learner,
    ):
        running = asyncio.create_task(federation(controller, {"a": slow}, 1))
        while (await learner.until("answer"))["state"] != "folded":
            pass
        for state in ("folded", None):  # asked for it again, and told to keep it
            proxy.cut()
            await learner.until("welcome")
            if state is not None:
                assert (await learner.until("answer"))["state"] == state
        slow.may_train.set()
        result = await running
        assert await learner.end() == 0
    assert asked == 2
    assert [said["verdicts"][0]["verdict"] for said in learner.of("welcome")[1:]] == ["upload", "keep"]
    assert len(learner.of("counted")) == 1
    assert_same(result, sites, 1)


async def test_without_rounds_javascript_goes_on_from_the_latest_model(tmp_path: Path) -> None:
    site, signals = Site.of(3, 40), TerminationSignals(global_updates=6)
    config = ControllerConfig(scheduler="Asynchronous")
    async with Controller(ServerParams(), config) as controller, node(controller, site, tmp_path) as learner:
        result = await federation(controller, {}, signals)
        assert await learner.end() == 0
    assert_same(result, {"node": site}, 6)


async def test_without_rounds_javascript_and_python_take_turns(tmp_path: Path) -> None:
    sites = {"a": Site.of(1, 10), "node": Site.of(3, 40)}
    signals = TerminationSignals(evaluation_metric="loss", evaluation_metric_cutoff_score=0.02, mode="min")
    config = ControllerConfig(scheduler="Asynchronous")
    async with (
        Controller(ServerParams(), config) as controller,
        node(controller, sites["node"], tmp_path) as learner,
    ):
        slow = SlowLearner(sites["a"])
        running = asyncio.create_task(federation(controller, {"a": slow}, signals))
        await until(lambda: (controller.snapshot().model_version or 0) >= 1)  # which is of the other one's update
        slow.may_train.set()
        result = await running
        assert await learner.end() == 0
    assert result.final_model is not None
    assert _last(learner) == {"what": "final", "loss": pytest.approx(sites["node"].loss(result.final_model))}
    assert {name for record in result.rounds for name in record.participants} == {"a", "node"}


async def test_it_passes_all_cases_of_the_kit(tmp_path: Path) -> None:
    site, starting = Site.of(1, 20), list[asyncio.Task[Node]]()
    async with AsyncExitStack() as stack:

        def start(port: int) -> None:
            running = stack.enter_async_context(node(ClientParams(port=port), site, tmp_path))
            starting.append(asyncio.create_task(running))

        verdicts = await check_learner("127.0.0.1", 0, on_listening=start)
        assert await (await starting[0]).end() == 0
    assert {verdict.case.name: verdict.why for verdict in verdicts if verdict.why} == {}
    assert len(verdicts) == len(CASES)
