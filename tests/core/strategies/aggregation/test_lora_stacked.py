"""LoRAStacked against the mean of the products, decomposed whole in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from rules import A, B, C, fold, started

from metisfl_async.core.errors import ConfigError, NoModel
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.lora_stacked import LoRAStacked
from metisfl_async.core.strategies.aggregation.rule import made
from metisfl_async.core.strategies.aggregation.server_optimizers import FedAdam

OUT, IN, RANK = 12, 9, 3
Floats = NDArray[np.float64]


def best(mean: Floats, rank: int) -> Floats:
    u, sizes, v = np.linalg.svd(mean)
    product: Floats = (u[:, :rank] * sizes[:rank]) @ v[:rank]
    return product


def adapters(seed: int) -> list[Array]:
    random = np.random.default_rng(seed)
    return [
        random.normal(size=(RANK, IN)).astype(np.float32),
        random.normal(size=(OUT, RANK)).astype(np.float32),
        random.normal(size=4).astype(np.float32),
    ]


TORCH = ["layer.lora_A.weight", "layer.lora_B.weight", "head.bias"]


@pytest.mark.parametrize("names", [TORCH, ["lora_a", "lora_b", "bias"]])
@pytest.mark.parametrize("rank", [None, 2, 5])
def test_the_product_is_the_best_of_its_rank_to_the_mean_of_the_products(names: list[str], rank: int | None) -> None:
    updates, weights = [adapters(seed) for seed in (1, 2, 3)], [1.0, 3.0, 4.0]
    rule = started(LoRAStacked(rank), Model.from_arrays(adapters(0), names))
    for version in (1, 2):
        for learner, update, weight in zip((A, B, C), updates, weights, strict=True):
            fold(rule, Model.from_arrays(update, names), weight, learner)
        a, b, bias = rule.aggregate(version).arrays()
        products = [u[1].astype(np.float64) @ u[0] for u in updates]
        mean = np.average(products, axis=0, weights=weights)
        np.testing.assert_allclose(b @ a, best(mean, min(rank or RANK, RANK)), atol=1e-5)
        np.testing.assert_allclose(a @ a.T, np.eye(RANK), atol=1e-5)
        np.testing.assert_allclose(bias, np.average([u[2] for u in updates], axis=0, weights=weights), rtol=1e-5)


def test_the_factors_of_keras_are_the_other_way_round() -> None:
    names = ["dense/lora_kernel_a", "dense/lora_kernel_b", "bias"]
    updates = [[u[1].copy(), u[0].copy(), u[2]] for u in (adapters(1), adapters(2))]
    rule = started(LoRAStacked(), Model.from_arrays(updates[0], names))
    for update in updates:
        fold(rule, Model.from_arrays(update, names), 1.0)
    a, b, _ = rule.aggregate(1).arrays()
    mean = np.mean([u[0].astype(np.float64) @ u[1] for u in updates], axis=0)
    np.testing.assert_allclose(a @ b, best(mean, RANK), atol=1e-5)
    np.testing.assert_allclose(a.T @ a, np.eye(RANK), atol=1e-5)


def test_one_learner_is_what_it_was_and_what_has_done_nothing_can_still_learn() -> None:
    rule = started(LoRAStacked(), Model.from_arrays(adapters(0), TORCH))
    update = adapters(1)
    fold(rule, Model.from_arrays(update, TORCH), 5.0)
    a, b, _ = rule.aggregate(1).arrays()
    np.testing.assert_allclose(b @ a, update[1] @ update[0], atol=1e-5)
    update[1][:] = 0  # as B begins
    fold(rule, Model.from_arrays(update, TORCH), 5.0)
    a, b, _ = rule.aggregate(2).arrays()
    assert not b.any()
    np.testing.assert_allclose(a @ a.T, np.eye(RANK), atol=1e-5)  # a gradient reaches B through it


def test_a_discard_forgets_and_what_cannot_be_is_said() -> None:
    rule = started(LoRAStacked(), Model.from_arrays(adapters(0), TORCH))
    fold(rule, Model.from_arrays(adapters(7), TORCH), 1.0)
    rule.discard()
    update = adapters(1)
    fold(rule, Model.from_arrays(update, TORCH), 1.0)
    a, b, _ = rule.aggregate(1).arrays()
    np.testing.assert_allclose(b @ a, update[1] @ update[0], atol=1e-5)
    others: list[tuple[list[Array], list[str]]] = [
        ([np.zeros(3), np.zeros(3)], ["lora_a", "lora_b"]),
        ([np.zeros((3, 4)), np.zeros((3, 4))], ["lora_a", "lora_b"]),
        ([np.zeros((3, 4)), np.zeros((4, 3))], ["lora_a", "other"]),
    ]
    for arrays, names in others:
        without = started(LoRAStacked(), Model.from_arrays(arrays, names))
        fold(without, Model.from_arrays(arrays, names), 1.0)
        with pytest.raises(NoModel, match=r"LoRAStacked finds no factors in the model, .* lora_A and lora_B"):
            made(without, 1)
    for rank in (0, -1, 1.5):
        with pytest.raises(ConfigError, match="rank"):
            LoRAStacked(rank)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a rule that makes a mean"):
        FedAdam(LoRAStacked())


def test_factors_whose_product_is_no_number_make_no_model() -> None:
    rule = started(LoRAStacked(), Model.from_arrays([a.astype(np.float64) for a in adapters(0)], TORCH))
    huge = [a.astype(np.float64) * 1e200 for a in adapters(1)]
    fold(rule, Model.from_arrays(huge, TORCH), 1.0)
    with pytest.raises(NoModel):
        made(rule, 1)
