"""Whatever peers say is short and prints, wherever it goes from there."""

from __future__ import annotations

from sandbox import A, B, Sandbox, training

from metisfl_async.core.config import ControllerConfig
from metisfl_async.core.federation import inputs as happened
from metisfl_async.core.federation.events import (
    FederationFinished,
    LearnerEvaluated,
    LearnerLeft,
    RoundFinished,
    TaskFailed,
    UpdateFolded,
)

EVIL = "\x1b[2Jx\nINFO forged" + "y" * 100_000
SHOWN = r"\x1b[2Jx\nINFO forged" + "y" * 100_000


def is_shown(text: str, most: int) -> bool:
    return text == SHOWN[: most - 3] + "..."


def test_a_failure_is_kept_short_and_escaped() -> None:
    sandbox = training(A, B, config=ControllerConfig(max_failed_rounds=1))
    sandbox.fail(A, EVIL, EVIL)
    sandbox.fail(B, EVIL, EVIL)
    failures = sandbox.events_of(TaskFailed)
    assert len(failures) == 2
    assert all(is_shown(failed.message, 4_000) and is_shown(failed.type, 100) for failed in failures)
    (finished,) = sandbox.events_of(FederationFinished)
    (closed,) = sandbox.events_of(RoundFinished)
    for text in (finished.reason, closed.record.summary(), repr(closed.record)):
        assert len(text) < 20_000
        assert text.isprintable()


def test_names_of_metrics_are_kept_short_and_escaped() -> None:
    sandbox = training(A)
    sandbox.train(A, **{EVIL: 1.0})
    sandbox.publish()
    sandbox.evaluate(A, **{EVIL: 2.0})
    (folded,), (evaluated,) = sandbox.events_of(UpdateFolded), sandbox.events_of(LearnerEvaluated)
    for metrics, value in ((folded.metrics, 1.0), (evaluated.metrics, 2.0)):
        ((name, number),) = metrics.items()
        assert is_shown(name, 100)
        assert number == value


def test_reasons_of_drivers_and_broken_connections_are_kept_short_and_escaped() -> None:
    sandbox: Sandbox = training(A, B)
    sandbox.hear(happened.Disconnected(A, EVIL))
    sandbox.hear(happened.Left(B, EVIL))
    sandbox.hear(happened.Stop(EVIL))
    assert all(is_shown(left.reason, 4_000) for left in sandbox.events_of(LearnerLeft))
    assert is_shown(sandbox.events_of(FederationFinished)[0].reason, 4_000)


def test_what_is_refused_or_damaged_is_kept_short_and_escaped() -> None:
    sandbox = training(A, B)
    sandbox.rejected(sandbox.begin_upload(A), "UnexpectedMessage", EVIL)
    task = sandbox.begin_upload(B)
    (stream,) = sandbox.streams[task.id]
    sandbox.hear(happened.Damaged(stream, "Damaged", EVIL))
    (failed,) = sandbox.events_of(TaskFailed)
    assert is_shown(failed.message, 4_000)
    assert is_shown(sandbox.answers[stream].reason, 4_000)
