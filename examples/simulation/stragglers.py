"""What a few slow sites cost, and what helps: of fifty, five are twenty times slower than the others."""

import asyncio

from simulate import Site

from metisfl_async import Controller, ControllerConfig, DriverSession, Simulation, TerminationSignals
from metisfl_async.testing import run

ROUNDS, UPDATES = TerminationSignals(federation_rounds=5), TerminationSignals(global_updates=450)
WAYS = {
    "all are waited for": (ControllerConfig(evaluate_every=5), ROUNDS),
    "a minute is waited": (ControllerConfig(round_timeout_secs=60, evaluate_every=5), ROUNDS),
    "nobody is waited for": (ControllerConfig(scheduler="Asynchronous", evaluate_every=50), UPDATES),
}


async def main() -> None:
    simulation = Simulation(
        Site,
        learners=50,
        workers=1,
        sizes=lambda number: len(Site(number).x),  # examples
        speeds=lambda number: 2.0 if number % 10 else 0.1,  # examples in a second
    )
    for way, (config, signals) in WAYS.items():
        began_at = asyncio.get_running_loop().time()
        result = await DriverSession(Controller(controller_config=config), simulation, signals).run()
        minutes = (asyncio.get_running_loop().time() - began_at) / 60
        *_, mse = (record.evaluation_metrics["mse"] for record in result.rounds if record.evaluation_metrics)
        print(f"{way}: {minutes:.1f} minutes, mse {mse:.2f}")


if __name__ == "__main__":
    run(main())  # asyncio.run(main()) would wait for as long as it says
