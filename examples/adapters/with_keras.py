"""Three learners train a Keras model on handwritten digits."""

import asyncio

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from metisfl_async import Controller, ControllerConfig, DriverSession, TerminationSignals
from metisfl_async.adapters import KerasLearner
from metisfl_async.data import dirichlet_partition


def make_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    x_train, x_test, y_train, y_test = train_test_split(images, y, random_state=1)
    learners = [
        KerasLearner(make_model, part, (x_test, y_test))
        for part in zip(*dirichlet_partition(x_train, y_train, num_partitions=3, alpha=1.0), strict=True)
    ]
    config = ControllerConfig(train_params={"batch_size": 16, "epochs": 2, "proximal_mu": 0.01})
    session = DriverSession(Controller(controller_config=config), learners, TerminationSignals(federation_rounds=10))
    result = asyncio.run(session.run())
    for record in result.rounds:
        print(f"round {record.number}: accuracy {record.evaluation_metrics['accuracy']:.3f}")


if __name__ == "__main__":
    main()
