"""JaxLearner trains a pytree as the user's step does, and carries its leaves by their names."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import proximal
import pytest
from digits import check_metadata
from federations import session_of

from metisfl_async import ConfigError, Controller, ControllerConfig, DriverSession, Simulation, TerminationSignals
from metisfl_async.adapters import JaxLearner
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config

DATA = proximal.X, proximal.Y


def first() -> dict[str, Any]:
    return {"dense": {"bias": proximal.B, "kernel": proximal.W}, "stats": [np.zeros(2, np.float32)]}


def loss_of(params: Any, batch: Any) -> Any:
    x, y = batch
    return jnp.square(x @ params["dense"]["kernel"] + params["dense"]["bias"] - y).mean()


def step(params: Any, state: Any, batch: Any, learning_rate: float = proximal.RATE) -> Any:
    loss, gradients = jax.value_and_grad(loss_of)(params, batch)
    params = jax.tree.map(lambda weight, gradient: weight - learning_rate * gradient, params, gradients)
    params["stats"] = [params["stats"][0] + 1]
    return params, state + 1, {"loss": loss}


def measure(params: Any, batch: Any) -> dict[str, Any]:
    return {"loss": loss_of(params, batch)}


_train_step, _eval_step = jax.jit(step, donate_argnums=(0, 1)), jax.jit(measure)


def train_step(params: Any, state: Any, batch: Any, learning_rate: float = proximal.RATE) -> Any:
    return _train_step(params, state, batch, learning_rate)


def eval_step(params: Any, batch: Any) -> Any:
    return _eval_step(params, batch)


def learner_of(params: Any = None, train: Any = DATA, test: Any = DATA, **options: Any) -> JaxLearner:
    arguments: dict[str, Any] = {"train_step": train_step, "eval_step": eval_step, "state": np.int32(0)}
    return JaxLearner(first() if params is None else params, train, test, **(arguments | options))


def test_it_descends_as_the_formula_does_with_memory_that_steps_take_over() -> None:
    shared = jax.tree.map(jnp.asarray, first())  # both are given the same arrays
    learners = [learner_of(shared), learner_of(shared)]
    w, b = proximal.descend(4, mu=0.0)
    for learner in learners:
        given = learner.get_weights()
        weights, metrics, metadata = learner.train(given, {"batch_size": 12, "num_local_updates": 4})
        for array in given:
            array[...] = np.nan  # as where the next model is received
        assert learner.weight_names() == ["dense/bias", "dense/kernel", "stats/0"]
        np.testing.assert_allclose(weights[1], w, rtol=1e-4)
        np.testing.assert_allclose(weights[0], b, rtol=1e-4)
        assert weights[2].tolist() == [4.0, 4.0]
        assert metrics["loss"] > learner.evaluate(weights, {"batch_size": 5})["loss"]
        check_metadata(metadata, examples=12, batches=4, batches_per_epoch=1)
        np.testing.assert_allclose(learner.params["dense"]["kernel"], w, rtol=1e-4)


def test_evaluation_is_the_mean_over_examples() -> None:
    learner = learner_of()
    whole = learner.evaluate(learner.get_weights(), {"batch_size": 12})
    assert whole["num_examples"] == 12
    assert learner.evaluate(learner.get_weights(), {"batch_size": 5}) == pytest.approx(whole)
    batches = [(proximal.X[:5], proximal.Y[:5]), (proximal.X[5:], proximal.Y[5:])]
    assert learner_of(test=batches).evaluate(learner.get_weights(), {}) == pytest.approx(whole)


def test_data_in_batches_is_trained_as_it_comes() -> None:
    batches = [DATA, DATA]
    learner = learner_of(train=batches, num_training_examples=24)
    weights, _, metadata = learner.train(learner.get_weights(), {"epochs": 2})
    np.testing.assert_allclose(weights[1], proximal.descend(4, mu=0.0)[0], rtol=1e-4)
    check_metadata(metadata, examples=24, batches=4, batches_per_epoch=2)
    with pytest.raises(ConfigError, match="the data comes in batches"):
        learner.train(weights, {"batch_size": 3})
    with pytest.raises(ConfigError, match="the data comes in batches"):
        learner_of(test=batches).evaluate(weights, {"batch_size": 3})
    with pytest.raises(ConfigError, match="num_training_examples"):
        learner_of(train=batches)


async def test_the_learners_own_leaves_and_state_stay_and_the_federations_are_averaged() -> None:
    learners = [learner_of(federated=["dense/*"], untrained=["stats/*"]) for _ in range(2)]
    config = ControllerConfig(train_params={"batch_size": 12})
    result = await session_of(learners, rounds=3, config=config).run()
    assert result.tensor_names == ["dense/bias", "dense/kernel"]
    np.testing.assert_allclose(result.named_arrays()["dense/kernel"], proximal.descend(3, mu=0.0)[0], rtol=1e-4)
    for learner in learners:
        assert learner.params["stats"][0].tolist() == [3.0, 3.0]
        assert int(learner._state) == 3


def test_what_no_gradient_steps_is_marked() -> None:
    assert learner_of(untrained=["stats/*"]).untrained_names() == ["stats/0"]
    assert learner_of(untrained=["stats/*"], federated="trainable").weight_names() == ["dense/bias", "dense/kernel"]
    with pytest.raises(ConfigError, match=r"untrained is 'batch_stats/\*'; allowed: what is in the model: dense/bias"):
        learner_of(untrained=["batch_stats/*"])


def test_the_rate_is_the_tasks_or_the_rounds() -> None:
    slow, by_round = learner_of(), learner_of(learning_rate=lambda number: proximal.RATE / number)
    start = slow.get_weights()
    tasks: list[tuple[JaxLearner, Config]] = [
        (slow, {}),
        (slow, {"learning_rate": proximal.RATE / 2}),
        (by_round, {"round_number": 2}),
        (by_round, {"round_number": 2, "learning_rate": proximal.RATE}),
    ]
    moved = [abs(it.train(start, config | {"batch_size": 12})[0][1] - start[1]).sum() for it, config in tasks]
    assert moved[1:] == pytest.approx([moved[0] / 2, moved[0] / 2, moved[0]], rel=1e-4)

    def without(params: Any, state: Any, batch: Any) -> Any:
        return params, state, {}

    with pytest.raises(ConfigError, match="train_step has no parameter learning_rate"):
        learner_of(train_step=without).train(start, {"learning_rate": 0.1})
    with pytest.raises(ConfigError, match="train_step has no parameter learning_rate"):
        learner_of(train_step=without, learning_rate=lambda _: 0.1)


def drawn(key: Any) -> dict[str, Any]:
    return {"dense": {"bias": jnp.zeros(1), "kernel": jax.random.normal(key, (3, 1))}, "stats": [jnp.zeros(2)]}


def test_draws_follow_from_the_seed_also_in_another_process() -> None:
    def trained(seed: int | None, task_seed: int | None) -> list[Array]:
        learner = learner_of(drawn, state=partial(jax.tree.map, jnp.sum), seed=seed)  # made of the params
        learner = pickle.loads(pickle.dumps(learner))
        assert not learner.is_made
        learner.task_seed = task_seed
        weights = learner.get_weights()
        learner = pickle.loads(pickle.dumps(learner))
        learner._state = np.int32(0)
        return learner.train(weights, {"batch_size": 5})[0]  # type: ignore[no-any-return]

    for seeds in ((None, 1), (1, None), (1, 2)):
        assert all((one == other).all() for one, other in zip(trained(*seeds), trained(*seeds), strict=True))
    assert (trained(None, 1)[1] != trained(None, 2)[1]).any()


def test_leaves_that_cannot_travel_are_refused_by_name_and_bfloat16_travels() -> None:
    half = {"dense": {"bias": proximal.B, "kernel": jnp.asarray(proximal.W, jnp.bfloat16)}, "stats": [jnp.zeros(2)]}
    assert learner_of(half).get_weights()[1].dtype == ml_dtypes.bfloat16
    wrong = first() | {"phase": jnp.zeros(2, jnp.complex64)}
    with pytest.raises(ConfigError, match="tensor 'phase' is 'complex64'"):
        learner_of(wrong)
    assert learner_of(wrong, federated=["dense/*"]).weight_names() == ["dense/bias", "dense/kernel"]


def test_training_stops_when_it_is_cancelled() -> None:
    learner = learner_of()

    def cancels(params: Any, state: Any, batch: Any) -> Any:
        learner.is_cancelled = True
        return params, state, {"loss": jnp.zeros(())}

    learner._train_step = cancels
    assert learner.train(learner.get_weights(), {"batch_size": 1})[2]["num_completed_batches"] == 1


def test_what_makes_no_sense_is_refused() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"train_step": 1}, "train_step is 1"),
        ({"learning_rate": 0.1}, "learning_rate is 0.1"),
        ({"train": (proximal.X, proximal.Y[1:])}, "the lengths of train_data"),
        ({"test": proximal.X[0, 0]}, "test_data is 'float32'"),
        ({"federated": ["conv"]}, "federated is 'conv'"),
    ]
    for options, said in wrong:
        with pytest.raises(ConfigError, match=said):
            learner_of(**options)
    learner = learner_of()
    for key in ("proximal_mu", "max_grad_norm", "epochs"):
        with pytest.raises(ConfigError, match=key):
            learner.train(learner.get_weights(), {key: 0.0})
    for given, said in (({}, r"train_step\(\) is 'dict'"), (({}, 0, {}), r"the params of train_step\(\)")):
        with pytest.raises(ConfigError, match=said):
            learner_of(train_step=lambda *_, given=given: given).train(learner.get_weights(), {})
    with pytest.raises(ConfigError, match="tensor 'dense/kernel' of the global weights"):
        learner.set_weights([proximal.B, proximal.W.T, np.zeros(2, np.float32)])


async def test_simulated_learners_keep_leaves_and_a_state_of_their_own() -> None:
    def make(number: int) -> JaxLearner:
        def counted(params: Any, state: Any, batch: Any) -> Any:
            params, steps, metrics = step(params, state["steps"], batch)
            return params, {"steps": steps}, {**metrics, "steps": steps, "bias": params["dense"]["bias"].mean()}

        state = {"steps": jnp.zeros((), jnp.bfloat16)}
        return learner_of(train_step=counted, state=state, federated=["dense/kernel"], seed=number)

    config = ControllerConfig(train_params={"batch_size": 4})
    live = await session_of([make(0), make(1)], 3, config=config).run()
    with ThreadPoolExecutor(1) as thread:
        simulation = Simulation(make, learners=2, executor=thread, keep_state=True)
        signals = TerminationSignals(federation_rounds=3)
        simulated = await DriverSession(Controller(controller_config=config), simulation, signals).run()
    assert [record.train_metrics for record in simulated.rounds] == [record.train_metrics for record in live.rounds]
    assert simulated.rounds[-1].train_metrics["steps"] == 8  # the mean over the last of three epochs of three batches
    np.testing.assert_array_equal(np.concatenate(simulated.final_model or []), np.concatenate(live.final_model or []))
