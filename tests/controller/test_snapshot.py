"""How a controller stands, as operators see it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from metisfl_async import Controller, ControllerConfig, TerminationSignals
from metisfl_async.controller.snapshot import OpenTask
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.events import RoundStarted
from metisfl_async.testing import FakeLearner, Federation, Line


async def test_a_controller_says_who_is_there_what_is_awaited_and_who_waits(
    federation: Callable[..., Federation],
) -> None:
    model = [np.zeros(2_500_000, np.float32)]
    config = ControllerConfig(max_inflight_bytes=10_000_000, upload_idle_secs=600.0)
    lines = {"b": Line(bytes_per_s=1e6), "c": Line(bytes_per_s=1e6)}
    learners = {
        "a": FakeLearner(model, takes=10.0),
        "b": FakeLearner(model, takes=60.0),
        "c": FakeLearner(model, takes=60.0),
    }
    signals = TerminationSignals(federation_rounds=2)
    async with federation(learners, signals, controller_config=config, lines=lines) as fed:
        await fed.event(RoundStarted, number=2)
        assert fed.controller is not None
        begun = fed.controller.snapshot()
        await fed.sleep(30.0)
        trained = fed.controller.snapshot()
        await fed.sleep(35.0)  # b and c take ten seconds each, and there is room for one
        sent = fed.controller.snapshot()
        await fed.result()
    assert begun.phase == trained.phase == sent.phase == "training"
    assert begun.model_version == 1
    assert begun.connected == ("a", "b", "c")
    assert [(task.learner, task.kind, task.round_number) for task in begun.open_tasks] == [
        (name, "train", 2) for name in "abc"
    ]
    assert begun.folded == ()
    assert trained.folded == ("a",)
    assert trained.staged_bytes == 0
    assert trained.open_tasks == (OpenTask("b", "train", "accepted", 2), OpenTask("c", "train", "accepted", 2))
    assert sent.staged_bytes == 10_000_000
    assert sent.uploads_waiting == 1
    assert sent.downloads_waiting == 0


async def test_a_controller_on_which_nothing_ran_is_idle() -> None:
    async with Controller() as controller:
        stands = controller.snapshot()
    assert (stands.federation_id, stands.phase, stands.model_version, stands.connected) == ("", "idle", None, ())
    with pytest.raises(UnexpectedMessage, match="not open"):
        controller.snapshot()
