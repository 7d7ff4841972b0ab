"""What holds for all trackers: one that breaks or blocks changes nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from federations import Adds, nothing_left_behind, session_of
from opentelemetry.sdk.trace import TracerProvider

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    TerminationSignals,
)
from metisfl_async.events import Ending, Event
from metisfl_async.tracking import (
    JSONLines,
    MLflow,
    OpenTelemetry,
    Prometheus,
    RoundTracker,
    TensorBoard,
    Tracker,
    WandB,
)


class Breaks(Tracker):
    def __init__(self, error: BaseException) -> None:
        self.error, self.closed = error, 0

    def take(self, events: Sequence[Event]) -> None:
        raise self.error

    def close(self, result: FederationResult | None) -> None:
        self.closed += 1


@pytest.mark.parametrize("error", [OSError("disk full"), StopIteration(), SystemExit(3)], ids=repr)
async def test_one_that_breaks_is_closed_and_told_of_once(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    breaks = Breaks(error)
    async with nothing_left_behind():
        result = await session_of([Adds(1)]).run(watch=[breaks])
    assert result.ending is Ending.FEDERATION_ROUNDS
    assert breaks.closed == 1
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "Breaks failed, and watches no longer; the federation goes on"
    ]


class Blocks(Tracker):
    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def take(self, events: Sequence[Event]) -> None:
        self.may_go_on.wait()


async def test_one_that_blocks_holds_up_nobody_and_is_left(caplog: pytest.LogCaptureFixture) -> None:
    blocks = Blocks()
    signals = TerminationSignals(federation_rounds=3)
    session = DriverSession(Controller(), [Adds(1)], signals, stop_timeout_secs=0.05)
    async with nothing_left_behind():
        result = await session.run(watch=[blocks])
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "not waiting any longer for watch-Blocks, within 0.05 s"
        ]
        blocks.may_go_on.set()
    assert result.ending is Ending.FEDERATION_ROUNDS


class Counts(RoundTracker):
    """A tracker of one's own."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.threads: set[int] = set()

    def note(self, record: object) -> None:
        self.numbers.append(getattr(record, "number"))  # noqa: B009
        self.threads.add(threading.get_ident())


async def test_one_of_ones_own_is_called_in_one_thread_in_order() -> None:
    counts = Counts()
    config = ControllerConfig(scheduler="Asynchronous", aggregation_rule="FedRec")
    session = DriverSession(Controller(None, config), [Adds(1)], TerminationSignals(global_updates=300))
    await session.run(watch=[counts])
    assert len(counts.numbers) >= 300
    assert len(counts.threads) == 1
    assert threading.get_ident() not in counts.threads


@pytest.mark.parametrize(
    ("module", "tracker", "name"),
    [
        ("tensorboardX", lambda: TensorBoard("."), "tensorboardX"),
        ("prometheus_client", Prometheus, "prometheus-client"),
        ("mlflow", MLflow, "mlflow-skinny"),
        ("wandb", WandB, "wandb"),
        ("opentelemetry.trace", lambda: OpenTelemetry(TracerProvider()), "opentelemetry-sdk"),
    ],
)
def test_a_package_that_is_missing_is_named(
    module: str, tracker: type[Tracker], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"{module} is None; .* is installed, for .*: pip install {name}"):
        tracker()


async def test_a_run_that_never_began_opens_nothing(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metisfl_async.driver.stopping.BEGINNING_S", 0.05)
    path = tmp_path / "run.jsonl"
    session = DriverSession(ClientParams(port=free_port), 1, TerminationSignals(federation_rounds=1))
    running = asyncio.create_task(session.run(watch=[JSONLines(path)]))
    await session.stop("enough")
    assert (await running).reason == "enough"
    assert not path.exists()
