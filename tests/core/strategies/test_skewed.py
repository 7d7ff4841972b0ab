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


def simulated(config: ControllerConfig, signals: TerminationSignals, *late: Simulated) -> Simulation:
    simulation = Simulation(config, [*skewed(), *late], Model.from_arrays([np.zeros(1, np.float32)]), signals)
    simulation.run()
    return simulation


def test_synchronous_rounds_wait_for_the_slow_one() -> None:
    simulation = simulated(ControllerConfig(), TerminationSignals(federation_rounds=6))
    records = simulation.records
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
        opened = np.array([record.started_ms for record in simulation.records[1:]])
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
    stale = [record.learners[SLOW].staleness for record in simulation.records if SLOW in record.learners]
    assert all(12 <= staleness <= 15 for staleness in stale)  # the fast ones' commits while it trains
    assert len(simulation.published) - 1 == sum(commits.values())


ROUND_MS = SLOW_MS * BATCHES  # an epoch of the slow one
LATE = LearnerId("late")


@pytest.mark.parametrize(
    ("config", "batches"),
    [
        (ControllerConfig(), [BATCHES] * 3),
        # its first round measures it, too
        (ControllerConfig(scheduler="SemiSynchronous", semi_sync_lambda=1.0), [BATCHES, 50, 50]),
    ],
)
def test_who_joins_in_the_middle_of_a_round_is_in_the_next_and_fitted_from_the_one_after(
    config: ControllerConfig, batches: list[int]
) -> None:
    late = Simulated(LATE, 2 * FAST_MS, BATCHES, joins_ms=1.5 * ROUND_MS)
    simulation = simulated(config, TerminationSignals(federation_rounds=5), late)
    records = simulation.records
    assert [LATE in record.participants for record in records] == [False, False, True, True, True]
    assert late.batches == batches
    assert [record.duration_ms for record in records] == pytest.approx([ROUND_MS] * 5)


def test_who_joins_an_asynchronous_federation_begins_at_once_with_the_newest_model() -> None:
    joins_ms = 5.05 * ROUND_MS
    late = Simulated(LATE, FAST_MS, BATCHES, joins_ms=joins_ms)
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")
    simulation = simulated(config, TerminationSignals(execution_cutoff_time_mins=10.1 * ROUND_MS / 6e4), late)
    epoch_ms = FAST_MS * BATCHES
    assert late.finished_ms == pytest.approx([joins_ms + number * epoch_ms for number in range(1, 26)])
    parts = [record.learners[LATE] for record in simulation.records if LATE in record.learners]
    stale = [part.staleness for part in parts if part.weight is not None]
    assert len(stale) == 25
    assert all(3 <= staleness <= 4 for staleness in stale)  # one model of each of the others, the slow one's rarely


def test_updates_are_as_stale_as_the_others_are_fast() -> None:
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")
    simulation = simulated(config, TerminationSignals(execution_cutoff_time_mins=10.1 * ROUND_MS / 6e4))
    stale: dict[LearnerId, list[int]] = {name: [] for name in [*FAST, SLOW]}
    for record in simulation.records:
        for name in record.participants:
            stale[LearnerId(name)].append(record.learners[name].staleness)
    # Between two models of a fast one lie one of each other fast one and, every fifth time, one of the slow one.
    for name in FAST:
        assert np.mean(stale[name][1:]) == pytest.approx(2 + 1 / 5, abs=0.05)
    # Between two of the slow one lie five of each fast one.
    assert np.mean(stale[SLOW][1:]) == pytest.approx(15, abs=0.2)
