"""What is scraped is parsed."""

from __future__ import annotations

import logging

import pytest
from federations import Adds, session_of
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from metisfl_async.core.federation.records import LearnerRecord, RoundRecord
from metisfl_async.core.model import Array
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.tracking import Prometheus, prometheus


class Fails(Adds):
    def train(self, parameters: list[Array], config: Config) -> TrainResult:
        raise OSError("disk full")


async def test_prometheus_scrapes_the_latest_numbers() -> None:
    registry = CollectorRegistry()
    result = await session_of([Adds(1), Adds(2), Fails(3)]).run(watch=[Prometheus(registry, learners=True)])
    text = generate_latest(registry).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["metisfl_round",] == 3
    assert found["metisfl_updates_counted_total",] == 6
    assert found["metisfl_tasks_failed_total", "train"] == 3
    assert found["metisfl_bytes_total", "sent"] == sum(record.bytes_sent for record in result.rounds)
    assert found["metisfl_value", "evaluation/accuracy"] == result.rounds[-1].evaluation_metrics["accuracy"]
    assert found["metisfl_value", "learner/learner-1/train/loss"] == 0.5
    assert ("metisfl_learners_connected",) in found


def test_two_of_them_need_two_registries() -> None:
    registry = CollectorRegistry()
    Prometheus(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Prometheus(registry)


def test_names_that_learners_choose_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prometheus, "MOST_MEANS", 3)
    monkeypatch.setattr(prometheus, "MOST_OF_LEARNERS", 5)
    registry = CollectorRegistry()
    tracker = Prometheus(registry, learners=True)
    for number in range(1, 11):
        part = LearnerRecord(f"task-{number}", "counted", train_metrics={f"loss-{number}": 1.0})
        tracker.note(RoundRecord(number, number, is_published=True, learners={f"site-{number}": part}))
        record = RoundRecord(number, number, is_published=True, train_metrics={f"loss-{number}": float(number)})
        record.central = {"accuracy": float(number)}
        tracker.note(record)
    names = {
        sample.labels["name"]: sample.value
        for family in registry.collect()
        if family.name == "metisfl_value"
        for sample in family.samples
    }
    assert [name for name in names if name.startswith("train/")] == ["train/loss-1", "train/loss-2", "train/loss-3"]
    assert sum(name.startswith("learner/") for name in names) == 5
    assert names["central/accuracy"] == 10.0  # what no learner names is always there
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
