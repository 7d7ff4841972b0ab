"""One learner is five times slower than the others: what each scheduler makes of it, in simulated time."""

from __future__ import annotations

import numpy as np
import pytest
from simulation import Simulated, Simulation

from metisfl_async import ControllerConfig, Model, TerminationSignals
from metisfl_async.core.ids import LearnerId

FAST_MS, SLOW_MS, BATCHES = 10.0, 50.0, 20
FAST, SLOW = [LearnerId(f"fast-{number}") for number in range(3)], LearnerId("slow")


def skewed() -> list[Simulated]:
    return [
        *(Simulated(name, FAST_MS, BATCHES) for name in FAST),
        Simulated(SLOW, SLOW_MS, BATCHES),
    ]


def simulated(config: ControllerConfig, signals: TerminationSignals) -> Simulation:
    simulation = Simulation(config, skewed(), Model.from_arrays([np.zeros(1, np.float32)]), signals)
    simulation.run()
    return simulation


def test_synchronous_rounds_wait_for_the_slow_one() -> None:
    simulation = simulated(ControllerConfig(), TerminationSignals(federation_rounds=6))
    records = simulation.federation.records
    assert [record.duration_ms for record in records] == pytest.approx([SLOW_MS * BATCHES] * 6)
    assert all(learner.batches == [BATCHES] * 6 for learner in simulation.learners.values())


@pytest.mark.parametrize("semi_sync_lambda", [1.0, 1.5])
def test_semi_synchronous_rounds_give_the_fast_ones_five_times_the_batches(semi_sync_lambda: float) -> None:
    config = ControllerConfig(scheduler="SemiSynchronous", semi_sync_lambda=semi_sync_lambda)
    simulation = simulated(config, TerminationSignals(federation_rounds=6))
    slow = simulation.learners[SLOW]
    assert slow.batches == [BATCHES] + [round(semi_sync_lambda * BATCHES)] * 5
    for name in FAST:
        fast = simulation.learners[name]
        assert fast.batches[0] == BATCHES  # the first round measures
        assert fast.batches[1:] == [5 * batches for batches in slow.batches[1:]]
        opened = np.array([record.started_ms for record in simulation.federation.records[1:]])
        took_fast, took_slow = np.array(fast.finished_ms[1:]) - opened, np.array(slow.finished_ms[1:]) - opened
        assert (abs(took_fast - took_slow) <= 0.1 * took_slow).all()


@pytest.mark.parametrize("recompute", [False, True])
def test_batches_follow_a_change_of_speed_only_if_they_are_to_be_fitted_anew(recompute: bool) -> None:
    config = ControllerConfig(
        scheduler="SemiSynchronous", semi_sync_lambda=1.0, semi_sync_recompute_num_updates=recompute
    )
    learners = skewed()
    simulation = Simulation(
        config, learners, Model.from_arrays([np.zeros(1, np.float32)]), TerminationSignals(federation_rounds=5)
    )

    def slow_down() -> None:
        learners[0].ms_per_batch = SLOW_MS

    simulation.after(SLOW_MS * BATCHES * 1.5, slow_down)  # in the second round
    simulation.run()
    fitted = 5 * BATCHES
    assert learners[0].batches == [BATCHES, fitted, *([BATCHES] * 3 if recompute else [fitted] * 3)]


@pytest.mark.parametrize("rule", ["FedRec", "FedAvg", "FedAsync"])
def test_asynchronous_lets_the_fast_ones_commit_five_times_as_often(rule: str) -> None:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule=rule)
    simulation = simulated(config, TerminationSignals(execution_cutoff_time_mins=SLOW_MS * BATCHES * 10.5 / 6e4))
    commits = {name: len(learner.finished_ms) for name, learner in simulation.learners.items()}
    assert commits[SLOW] == 10
    assert [commits[name] for name in FAST] == [52, 52, 52]
    stale = [record.learners[SLOW].staleness for record in simulation.federation.records if SLOW in record.learners]
    assert all(12 <= staleness <= 15 for staleness in stale)  # the fast ones' commits while it trains
    assert len(simulation.published) - 1 == sum(commits.values())
