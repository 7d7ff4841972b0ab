"""The table in docs/strategies.md of what the mean of LoRA's factors misses is computed here."""

from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from digits import digits
from numpy.typing import NDArray
from pages import ROOT

from metisfl_async.adapters import TorchLearner
from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.rule import Update
from metisfl_async.data import dirichlet_partition, iid_partition
from metisfl_async.strategies import LoRAStacked

ROW = re.compile(
    r"^\| (alike|skewed)(, A of each its own)? \| (\d+) \| ([\d.]+) % \| ([\d.]+) % \| (0|-)", re.MULTILINE
)
ROWS = ROW.findall((ROOT / "docs" / "strategies.md").read_text())


def trained(data: str, epochs: int, *, own_a: bool, trains_a: bool = True) -> tuple[list[list[Array]], NDArray[Any]]:
    """Train adapters of rank 4 on a frozen network, from one start, on three learners' digits; and their shares."""
    from lora import add_lora

    if data == "alike":
        parts = iid_partition(*digits()[0], num_partitions=3)
    else:
        parts = dirichlet_partition(*digits()[0], num_partitions=3, alpha=0.1, seed=1)
    updates, sizes = [], []
    for number, (x, y) in enumerate(zip(*parts, strict=True)):
        torch.manual_seed(1)
        network = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        torch.manual_seed(number if own_a else 2)
        learner = TorchLearner(
            add_lora(network, ["0"], 4, trains_a=trains_a),
            (x, y),
            (x, y),
            loss=torch.nn.CrossEntropyLoss(),
            optimizer=partial(torch.optim.SGD, lr=0.2),
            federated=["0.lora_*"],
            seed=number,
        )
        updates.append(learner.train(learner.get_weights(), {"epochs": epochs, "batch_size": 16})[0])
        sizes.append(len(x))
    return updates, np.array(sizes) / sum(sizes)


def missed(updates: list[list[Array]], shares: NDArray[Any]) -> tuple[float, float]:
    """Say how far the products are from the mean of the products, as a share of it: of FedAvg, and of LoRAStacked."""
    mean = sum(share * (b.astype(np.float64) @ a) for share, (a, b) in zip(shares, updates, strict=True))
    mean_a, mean_b = (sum(s * u[n].astype(np.float64) for s, u in zip(shares, updates, strict=True)) for n in (0, 1))
    names = ["0.lora_A", "0.lora_B"]
    rule = LoRAStacked()
    rule.start(Model.from_arrays(updates[0], names))
    for number, (share, update) in enumerate(zip(shares, updates, strict=True)):
        rule.fold(Update(LearnerId(str(number)), Model.from_arrays(update, names), share))
    a, b = rule.aggregate(1).arrays()
    size = np.linalg.norm(mean)
    return float(np.linalg.norm(mean_b @ mean_a - mean) / size), float(np.linalg.norm(b @ a - mean) / size)


@pytest.fixture(autouse=True)
def _example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples" / "lora")
    yield
    sys.modules.pop("lora", None)


@pytest.mark.parametrize(("data", "own_a", "epochs", "fedavg", "stacked", "frozen"), ROWS)
def test_the_table_says_what_is_missed(
    data: str, own_a: str, epochs: str, *, fedavg: str, stacked: str, frozen: str
) -> None:
    found = missed(*trained(data, int(epochs), own_a=bool(own_a)))
    for percent, share in zip((fedavg, stacked), found, strict=True):
        assert 100 * share == pytest.approx(float(percent), rel=0.2, abs=0.2)
    if frozen == "0":
        assert missed(*trained(data, int(epochs), own_a=False, trains_a=False)) == pytest.approx((0, 0), abs=1e-5)


def test_the_table_is_whole() -> None:
    assert len(ROWS) == 5
