"""Three learners train a network of plain JAX on handwritten digits."""

import asyncio
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from metisfl_async import Controller, ControllerConfig, DriverSession, TerminationSignals
from metisfl_async.adapters import JaxLearner
from metisfl_async.data import dirichlet_partition

Params = dict[str, dict[str, jax.Array]]
Batch = tuple[jax.Array, jax.Array]


def make_params(key: jax.Array) -> Params:
    first, second = jax.random.split(key)
    return {
        "hidden": {"kernel": 0.2 * jax.random.normal(first, (64, 32)), "bias": jnp.zeros(32)},
        "out": {"kernel": 0.2 * jax.random.normal(second, (32, 10)), "bias": jnp.zeros(10)},
    }


def loss_and_accuracy(params: Params, batch: Batch) -> tuple[jax.Array, jax.Array]:
    x, labels = batch
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    logits = hidden @ params["out"]["kernel"] + params["out"]["bias"]
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    return loss, (logits.argmax(axis=1) == labels).mean()


def train_step(
    params: Params, velocity: Params, batch: Batch, learning_rate: float = 0.1
) -> tuple[Params, Params, dict[str, jax.Array]]:
    (loss, accuracy), gradients = jax.value_and_grad(loss_and_accuracy, has_aux=True)(params, batch)
    velocity = jax.tree.map(lambda v, gradient: 0.5 * v + gradient, velocity, gradients)
    params = jax.tree.map(lambda weight, v: weight - learning_rate * v, params, velocity)
    return params, velocity, {"loss": loss, "accuracy": accuracy}


def eval_step(params: Params, batch: Batch) -> dict[str, jax.Array]:
    loss, accuracy = loss_and_accuracy(params, batch)
    return {"loss": loss, "accuracy": accuracy}


def main() -> None:
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split((x / 16).astype(np.float32), y, random_state=1)
    learner = partial(
        JaxLearner,
        make_params,
        test_data=(x_test, y_test),
        train_step=jax.jit(train_step),
        eval_step=jax.jit(eval_step),
        state=partial(jax.tree.map, jnp.zeros_like),  # momentum, which stays with its learner
    )
    parts = dirichlet_partition(x_train, y_train, num_partitions=3, alpha=1.0)
    learners = [learner(part) for part in zip(*parts, strict=True)]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2})
    session = DriverSession(Controller(controller_config=config), learners, TerminationSignals(federation_rounds=10))
    result = asyncio.run(session.run())
    for record in result.rounds:
        print(f"round {record.number}: accuracy {record.evaluation_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
