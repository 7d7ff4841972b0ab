"""What is in the logs and in results.json, after a federation over real connections."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from federations import Adds

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ServerParams,
    TerminationSignals,
)

IN_ROUNDS = ControllerConfig(aggregation_rule="FedStride", stride_length=2)
TICK_MS = 1e-6  #: what adding floating-point milliseconds may lose
WITHOUT = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")


async def run(config: ControllerConfig, signals: TerminationSignals) -> FederationResult:
    return await DriverSession(Controller(ServerParams(), config), [Adds(n) for n in (1, 2, 3)], signals).run()


@pytest.mark.parametrize(
    ("config", "signals"),
    [(IN_ROUNDS, TerminationSignals(federation_rounds=2)), (WITHOUT, TerminationSignals(global_updates=6))],
    ids=["in rounds", "without"],
)
async def test_every_task_time_and_byte_of_every_learner_is_on_record(
    config: ControllerConfig, signals: TerminationSignals, tmp_path: Path
) -> None:
    result = await run(config, signals)
    result.save(tmp_path / "results.json")
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["reason"] == result.reason
    assert saved["model_version"] == result.model_version
    assert result.final_model is not None
    published = [record for record in saved["rounds"] if record["is_published"]]
    assert [record["number"] for record in published] == list(range(1, len(published) + 1))
    task_ids: list[str] = []
    for record in published:
        assert 0 <= record["started_ms"] < record["started_ms"] + record["duration_ms"]
        assert record["selection_ms"] >= 0
        assert record["aggregation_ms"] > 0
        assert sum(record["aggregation_block_size"]) == len(record["participants"])
        assert len(record["aggregation_block_duration_ms"]) == len(record["aggregation_block_memory_kb"])
        assert all(size_kb > 0 for size_kb in record["aggregation_block_memory_kb"])
        assert sum(record["aggregation_block_duration_ms"]) <= record["aggregation_ms"] + 1e-6
        assert record["bytes_sent"] == sum(part["bytes_sent"] for part in record["learners"].values())
        assert record["bytes_received"] > 0
        for name in record["participants"]:
            part = record["learners"][name]
            assert part["train_state"] == "counted"
            assert part["train_metadata"] == {"num_training_examples": part["weight"]}
            assert part["train_metrics"].keys() == {"loss"}
            times = [part[key] for key in ("sent_ms", "acknowledge_ms", "train_ms", "staging_ms", "aggregation_ms")]
            assert all(isinstance(ms, float) and ms >= 0 and math.isfinite(ms) for ms in times)
            acknowledged = part["sent_ms"] + part["acknowledge_ms"]
            stored = acknowledged + part["train_ms"] + part["staging_ms"]
            assert stored + part["aggregation_ms"] <= part["ended_ms"] + TICK_MS
            assert part["bytes_received"] == 72
            assert part["staleness"] >= 0
            task_ids += [part["train_task_id"], part["evaluation_task_id"]]
            if part["evaluation_metrics"]:
                evaluated = part["evaluation_sent_ms"] + part["evaluation_ms"]
                ended = record["started_ms"] + record["duration_ms"]
                assert part["ended_ms"] - TICK_MS <= part["evaluation_sent_ms"] <= evaluated <= ended + TICK_MS
    task_ids = list(filter(None, task_ids))
    assert len(set(task_ids)) == len(task_ids) >= len(published)
    assert all(len(task_id) == 32 for task_id in task_ids)


async def test_blocks_are_strides() -> None:
    result = await run(IN_ROUNDS, TerminationSignals(federation_rounds=1))
    assert result.rounds[0].aggregation_block_size == [2, 1]
    assert max(result.rounds[0].aggregation_block_memory_kb) * 1024 <= 2 * 72  # two updates of 72 bytes at a time
