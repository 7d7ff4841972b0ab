"""The driver: it starts the federation, shows how it goes, ends it, and saves what came of it.

Start it with `python driver.py`; with `--listen` if the learners listen.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from pathlib import Path

from data import FIRST_PORT, Dataset, load, options, scaled
from model import build_model, set_weights

from metisfl_async import ClientParams, DriverSession, FederationResult, MetisError, ServerParams, TerminationSignals


def report(result: FederationResult, dataset: Dataset, folder: Path) -> None:
    """Save the result, test the final model on all test images, and print how well it does."""
    assert result.final_model is not None
    result.save(folder / "results.json")
    result.save_model(folder / "model.safetensors")
    figure = result.plot()
    figure.suptitle(f"{dataset.name}, {result.model_version} rounds")
    figure.savefig(folder / "results.png")
    print(f"saved results.json, results.png and model.safetensors in {folder.resolve()}")

    model = build_model(dataset.x_test.shape[1:])
    set_weights(model, result.final_model)
    loss, accuracy = model.evaluate(scaled(dataset.x_test), dataset.y_test, verbose=0)
    print(f"data set: {dataset}")
    for record in result.rounds:
        if record.is_published:
            print(f"round {record.number}: accuracy {record.evaluation_metrics.get('accuracy', math.nan):.4f}")
    print(f"on all {len(dataset.x_test)} test images: accuracy {accuracy:.4f}, loss {loss:.4f}")
    print(f"accuracy after {result.model_version} rounds: {accuracy:.4f} ({dataset.name})")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="default: the current directory")
    parser.add_argument(
        "--listen",
        type=int,
        nargs="*",
        metavar="PORT",
        help="name the learners, which listen on these ports, to the controller; default: 50052 50053 50054",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.output.mkdir(parents=True, exist_ok=True)
    dataset = load(arguments.dataset, arguments.limit)
    ports = arguments.listen or range(FIRST_PORT, FIRST_PORT + 3)
    session = DriverSession(
        ClientParams(port=arguments.port),
        learners=3 if arguments.listen is None else [ServerParams(port=port) for port in ports],
        termination_signals=TerminationSignals(federation_rounds=arguments.rounds),
    )
    result = asyncio.run(session.run(progress=True))
    report(result, dataset, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, MetisError) as error:
        sys.exit(str(error) or 130)
