"""TorchLearner trains, reports and refuses as it says; with digits, it learns."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import proximal
import pytest
import torch
from digits import accuracy_of, check_metadata, parts, weights_differ
from federations import nothing_left_behind, session_of
from torch.utils.data import Dataset, TensorDataset
from torch_models import torch_learner, torch_model

from metisfl_async import ConfigError, ControllerConfig
from metisfl_async.adapters import TorchLearner, torch_proximal_term
from metisfl_async.core.metrics import Json

pytestmark = pytest.mark.slow


async def test_a_federation_learns_digits() -> None:
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 3})
    accuracy, result = await accuracy_of(session_of([torch_learner(n) for n in range(3)], rounds=4, config=config))
    assert accuracy > 0.94  # by chance: 0.1
    assert result.rounds[-1].train_metrics.keys() == {"loss", "accuracy"}
    part = result.rounds[0].learners["learner-1"]
    check_metadata(part.train_metadata, examples=479, batches=90, batches_per_epoch=30)


async def test_it_trains_in_a_process_of_its_own() -> None:
    config = ControllerConfig(train_params={"num_local_updates": 100, "batch_size": 16})
    learner = torch_learner()
    before = learner.get_weights()
    async with nothing_left_behind():
        accuracy, result = await accuracy_of(session_of([learner], rounds=2, config=config, worker="process"))
    assert accuracy > 0.8
    assert result.rounds[0].learners["learner-0"].train_metadata["num_completed_batches"] == 100
    assert not weights_differ(learner, before)  # the process has a copy, nothing that it shares


def test_weights_are_the_state_dict_in_its_order_with_buffers() -> None:
    learner = torch_learner()
    state = learner.model.state_dict()
    weights = learner.get_weights()
    assert [w.shape for w in weights] == [tuple(tensor.shape) for tensor in state.values()]
    assert list(state)[6:8] == ["1.num_batches_tracked", "3.weight"]
    weights[6], weights[7] = np.array(7), weights[7] + 1
    learner.set_weights(weights)
    assert learner.model.state_dict()["1.num_batches_tracked"] == 7
    assert (learner.model.state_dict()["3.weight"].numpy() == weights[7]).all()
    taken = learner.get_weights()
    learner.train(weights, {})
    assert taken[6] == 7  # copies, not views


def test_bfloat16_keeps_its_bits() -> None:
    learner = torch_learner(model=torch_model().to(torch.bfloat16))
    weights = learner.get_weights()
    assert weights[0].dtype == ml_dtypes.bfloat16
    other = torch_learner(model=torch_model().to(torch.bfloat16))
    other.set_weights(weights)
    assert not weights_differ(other, weights)


class Squares(Dataset[Any]):  # type: ignore[misc]
    """A data set of one's own: it says how long it is and gives examples."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return torch.tensor([number / 10]), torch.tensor([(number / 10) ** 2])


def linear_learner(data: object, **options: Any) -> TorchLearner:
    """The model of `proximal`: a single linear layer without a random order of examples."""
    model = torch.nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(proximal.W.T))
        model.bias.copy_(torch.from_numpy(proximal.B))
    arguments = {"loss": torch.nn.MSELoss(), "optimizer": torch.optim.SGD}
    return TorchLearner(model, data, data, **(arguments | options))


def test_a_data_set_is_trained_on_like_tensors() -> None:
    x, y = Squares()[3]
    assert (x, y) == (torch.tensor([0.3]), torch.tensor([0.09]))
    tensors = torch.stack([x for x, _ in Squares()]), torch.stack([y for _, y in Squares()])
    results = []
    for data in (Squares(), TensorDataset(*tensors), tensors):
        learner = torch_learner(
            model=torch.nn.Linear(1, 1), train_data=data, test_data=data, metrics={}, loss=torch.nn.MSELoss()
        )
        weights, metrics, metadata = learner.train(
            [np.ones((1, 1), np.float32), np.zeros(1, np.float32)], {"batch_size": 4}
        )
        assert metadata["num_completed_batches"] == 3
        results.append((weights[0].item(), metrics, learner.evaluate(weights, {"batch_size": 3})))
    assert results[0] == results[1] == results[2]
    # The mean over batches of unequal sizes is the mean over examples.
    assert results[0][2]["loss"] == pytest.approx(learner.evaluate(weights, {"batch_size": 10})["loss"])


@pytest.mark.parametrize("mu", [0.0, proximal.MU])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_proximal_term_is_in_the_gradient_of_every_step(steps: int, mu: float) -> None:
    data = (torch.from_numpy(proximal.X), torch.from_numpy(proximal.Y))
    learner = linear_learner(data)
    config: dict[str, Json] = {"batch_size": 12, "num_local_updates": steps, "learning_rate": proximal.RATE}
    start = [proximal.W.T, proximal.B]
    (w, b), *_ = learner.train(start, config | {"proximal_mu": mu})
    expected_w, expected_b = proximal.descend(steps, mu)
    np.testing.assert_allclose(w.T, expected_w, rtol=1e-5)
    np.testing.assert_allclose(b, expected_b, rtol=1e-5)
    if mu == 0:
        (plain_w, plain_b), *_ = linear_learner(data, seed=0).train(start, config)
        np.testing.assert_allclose(w, plain_w, rtol=1e-6)
        np.testing.assert_allclose(b, plain_b, rtol=1e-6)


def test_the_plain_helper_gives_the_term_of_what_is_trained() -> None:
    model = torch.nn.Linear(3, 1)
    model.bias.requires_grad_(False)
    term = torch_proximal_term(model, 0.5)
    assert term() == 0
    with torch.no_grad():
        model.weight += 2
        model.bias += 5
    value = term()
    assert isinstance(value, torch.Tensor)
    assert value.item() == pytest.approx(0.5 / 2 * 3 * 2**2)
    assert torch_proximal_term(model, 0)() == 0
    for mu in (-1, float("nan"), float("inf"), True, "0.1"):
        with pytest.raises(ConfigError, match="proximal_mu"):
            torch_proximal_term(model, mu)  # type: ignore[arg-type]


def test_training_stops_in_the_middle_when_it_is_cancelled() -> None:
    class Cancels(torch.nn.CrossEntropyLoss):  # type: ignore[misc]
        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            learner.is_cancelled = True
            return super().forward(outputs, targets)

    learner = torch_learner(loss=Cancels())
    _, _, metadata = learner.train(learner.get_weights(), {"epochs": 1000})
    assert metadata["num_completed_batches"] == 1


def test_pytorchs_random_generator_and_settings_are_not_touched() -> None:
    learner = torch_learner()
    before = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    weights, *_ = learner.train(learner.get_weights(), {})
    learner.evaluate(weights, {})
    assert (torch.get_rng_state() == before[0]).all()
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == before[1:]


def test_a_learning_rate_holds_for_its_task() -> None:
    learner = torch_learner()
    start = learner.get_weights()
    (tiny, *_), *_ = learner.train(start, {"learning_rate": 1e-9})
    assert np.abs(tiny - start[0]).max() < 1e-6
    (usual, *_), *_ = learner.train(start, {})
    assert np.abs(usual - start[0]).max() > 1e-3


def test_what_an_optimizer_remembers_stays_also_in_a_copy() -> None:
    learner = torch_learner(optimizer=torch.optim.Adam)
    weights, *_ = learner.train(learner.get_weights(), {})
    copy = pickle.loads(pickle.dumps(learner))
    again, *_ = learner.train(weights, {})
    the_same, *_ = copy.train(weights, {})
    assert all((a == b).all() for a, b in zip(again, the_same, strict=True))
    assert copy.optimizer.state[next(copy.model.parameters())]["step"] == 2 * 15


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"learningrate": 0.1}, "config['learningrate']"),
        ({"epochs": -1}, "config['epochs']"),
        ({"learning_rate": 0}, "config['learning_rate']"),
        ({"proximal_mu": -0.1}, "proximal_mu"),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_followed_is_refused(config: dict[str, Json], field: str) -> None:
    learner = torch_learner()
    with pytest.raises(ConfigError) as caught:
        learner.train(learner.get_weights(), config)
    assert caught.value.field == field


def test_what_does_not_fit_is_refused() -> None:
    learner = torch_learner()
    with pytest.raises(ConfigError, match=r"config\['epochs'\].*only the keys batch_size"):
        learner.evaluate(learner.get_weights(), {"epochs": 1})
    with pytest.raises(ConfigError, match="do all learners build the same one"):
        learner.set_weights(learner.get_weights()[:-1])
    wrong: tuple[object, ...] = (iter([]), parts()[0][0][:1], 5)
    for data in wrong:
        with pytest.raises(ConfigError, match="train_data"):
            torch_learner(train_data=data)
