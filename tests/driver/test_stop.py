"""A stop ends a session in order: from its first moment, quietly, and whatever its learners do."""

from __future__ import annotations

import asyncio
import logging

import pytest
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, session_of, until
from stuck import NeverEnds, Stuck

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.model import Array
from metisfl_async.driver import stopping
from metisfl_async.events import (
    Event,
    RoundFinished,
    RoundStarted,
    TaskFailed,
    UpdateCounted,
    UpdateFolded,
    event_to_dict,
)
from metisfl_async.learner import stopping as patience
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.strategies import FedBuff

WATCHDOG = "metisfl_async.controller.watchdog"
SOON = 0.01
NEVER = TerminationSignals(federation_rounds=1_000_000)
overs = pytest.mark.parametrize("over_grpc", [False, True], ids=["in memory", "over gRPC"])


def stuck_session(*learners: Learner, over_grpc: bool = False, secs: float | None = SOON) -> DriverSession:
    return DriverSession(
        Controller(ServerParams() if over_grpc else None), list(learners), NEVER, stop_timeout_secs=secs
    )


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What users are told; that a busy machine held up the loop is not the session's doing."""
    told = [record for record in caplog.records if record.levelno >= logging.WARNING and record.name != WATCHDOG]
    return [record.getMessage() for record in told]


async def ended(learner: Stuck) -> None:
    learner.may_end.set()
    await until(lambda: learner.given_up is None)


# --- from the first moment -------------------------------------------------------------------------------------------


@overs
@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 20])
async def test_stop_works_at_any_moment_after_run_was_called(over_grpc: bool, turns: int) -> None:
    async with nothing_left_behind():
        session = session_of([Adds(1), AddsOnLoop(2)], rounds=1_000_000, over_grpc=over_grpc)
        running = asyncio.create_task(session.run())
        for _ in range(turns):
            await asyncio.sleep(0)
        await session.stop("enough")
        async with asyncio.timeout(PATIENCE_S):
            assert (await running).reason == "enough"


async def test_stop_works_before_run_is_awaited_and_is_not_for_the_next_run() -> None:
    session = session_of([Adds(1)], rounds=2)
    with pytest.raises(UnexpectedMessage, match="is not running"):
        await session.stop()
    run = session.run()
    await session.stop("enough")
    assert (await run).reason == "enough"
    with pytest.raises(UnexpectedMessage, match="is not running"):
        await session.stop()
    assert (await session.run()).reason == "federation_rounds=2 reached"


@pytest.mark.parametrize("learners", [2, [Adds(1)]], ids=["remote", "live"])
async def test_stop_ends_what_waits_for_a_controller_that_is_not_there(
    learners: int | list[Learner], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stopping, "BEGINNING_S", SOON)
    async with nothing_left_behind():
        session = DriverSession(ClientParams("127.0.0.1", free_port), learners, NEVER)
        running = asyncio.create_task(session.run())
        await session.stop("enough")
        result = await running
        assert (result.final_model, result.rounds, result.reason) == (None, [], "enough")
        assert session.result is result


async def test_a_remote_federation_that_is_stopped_at_once_ends_in_order() -> None:
    async with nothing_left_behind(), Controller(ServerParams()) as controller:
        taking_part = asyncio.create_task(run_learner(Adds(1), controller.client_params))
        session = DriverSession(controller.client_params, 1, NEVER)
        running = asyncio.create_task(session.run())
        await session.stop("enough")
        assert (await running).reason == "enough"
        await taking_part


class TrainsOnce(AddsOnLoop):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.is_at_it_again = asyncio.Event()

    async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
        if self.configs:
            self.is_at_it_again.set()
            await asyncio.Event().wait()
        return await super().train(parameters, config)


@overs
async def test_events_are_numbered_and_a_round_that_is_cut_is_not_finished(over_grpc: bool) -> None:
    slow = TrainsOnce(2)
    session = session_of([Adds(1), slow], rounds=9, over_grpc=over_grpc)
    events: list[Event] = []

    async def watch() -> None:
        async for event in session.events():
            events.append(event)
            if isinstance(event, RoundStarted) and event.number == 2:
                await slow.is_at_it_again.wait()
                await session.stop("enough")

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(PATIENCE_S):
        result = await session.run()
        await watching
    finished = [event.record for event in events if isinstance(event, RoundFinished)]
    assert [(record.number, [*record.evaluation_metrics]) for record in finished] == [(1, ["accuracy"])]
    assert [(record.number, record.was_cut) for record in result.rounds] == [(1, False), (2, True)]
    serials = [event.serial for event in events]
    assert serials[0] == 1
    assert serials[-1] == len(events) + 1  # without the record of the round that was cut
    assert serials == sorted(set(serials))
    assert event_to_dict(events[0])["serial"] == 1


# --- quietly ---------------------------------------------------------------------------------------------------------


@overs
@pytest.mark.parametrize("progress", [False, True])
async def test_a_stop_in_order_does_not_warn_of_updates_that_do_not_count(
    over_grpc: bool, progress: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folded, at_work = Adds(1), [Stuck(2), Stuck(3)]
    async with nothing_left_behind():
        session = DriverSession(
            Controller(
                ServerParams() if over_grpc else None,
                ControllerConfig(scheduler="Asynchronous", aggregation_rule=FedBuff(1_000_000)),
            ),
            [folded, *at_work],
            TerminationSignals(global_updates=1_000_000),
        )
        running = asyncio.create_task(session.run(progress=progress))
        events = session.events()
        async for event in events:
            if isinstance(event, UpdateFolded):
                break
        for learner in at_work:
            await until(learner.has_begun.is_set)
        await session.stop()
        for learner in at_work:
            await until(lambda learner=learner: learner.is_cancelled)  # type: ignore[misc]
            learner.may_end.set()
        await running
        failed = [event async for event in events if isinstance(event, TaskFailed)]
    assert {event.learner for event in failed if event.task == "train"} == {"learner-0", "learner-1", "learner-2"}
    assert not warnings_in(caplog)


# --- whatever learners do --------------------------------------------------------------------------------------------


@overs
@pytest.mark.parametrize("is_cancelled", [False, True], ids=["stopped", "cancelled"])
async def test_a_learner_that_is_stuck_is_given_up_and_the_others_end_in_order(
    over_grpc: bool, is_cancelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    learners = [Adds(1), Stuck(2), Adds(3)]
    stuck = learners[1]
    assert isinstance(stuck, Stuck)
    async with nothing_left_behind():
        session = stuck_session(*learners, over_grpc=over_grpc)
        running = asyncio.create_task(session.run())
        await until(lambda: stuck.has_begun.is_set() and all(learner.configs for learner in (learners[0], learners[2])))
        if is_cancelled:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            await session.stop()
            assert (await running).reason == "stop was asked for"
        assert stuck.is_cancelled
        assert [len(learner.taken_over) for learner in learners] == [2, 1, 2]  # the others have the final weights
        (line,) = warnings_in(caplog)
        assert line.startswith("not waiting any longer for learner-1 in train(), which has run for")

        for again in (session, stuck_session(stuck), session_of([stuck], worker="process")):
            with pytest.raises(
                UnexpectedMessage, match=r"learner-\d is still in train\(\), which was called \d+ s ago"
            ):
                await again.run()
        await ended(stuck)
        assert stuck.most_at_once == 1
        result = await session_of([stuck], rounds=1).run()
        assert result.model_version == 1


@overs
async def test_one_that_ends_in_time_is_waited_for_by_name(
    over_grpc: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(patience, "TOLD_AFTER_S", SOON)
    slow = Stuck(2)
    async with nothing_left_behind():
        session = stuck_session(Adds(1), slow, over_grpc=over_grpc, secs=PATIENCE_S)
        running = asyncio.create_task(session.run())
        await until(slow.has_begun.is_set)
        await session.stop()
        await until(lambda: bool(warnings_in(caplog)))
        assert not running.done()
        slow.may_end.set()
        await running
    assert warnings_in(caplog) == [
        f"waiting for learner-1 in train() to end, for stop_timeout_secs={PATIENCE_S:g} at most"
    ]
    assert slow.given_up is None
    assert len(slow.taken_over) == 2  # it has the final weights, too


async def test_after_a_deadline_one_that_is_stuck_is_not_asked_again_before_it_has_ended() -> None:
    stuck = Stuck(2)
    async with nothing_left_behind():
        config = ControllerConfig(round_timeout_secs=0.5)
        session = DriverSession(Controller(None, config), [Adds(1), stuck], NEVER, stop_timeout_secs=SOON)
        running = asyncio.create_task(session.run())
        failed: list[TaskFailed] = []
        async for event in session.events():
            match event:
                case TaskFailed(learner="learner-1", type="UnexpectedMessage"):
                    failed.append(event)
                    if len(failed) == 3:  # in rounds one after another
                        stuck.may_end.set()
                case UpdateCounted(learner="learner-1"):
                    await session.stop()
        await running
    assert "learner-1 is still in train(), which was called" in failed[0].message
    assert stuck.most_at_once == 1


@pytest.mark.slow
async def test_a_process_that_never_ends_its_training_is_ended() -> None:
    async with nothing_left_behind():
        session = DriverSession(Controller(), [NeverEnds(1)], NEVER, worker="process", stop_timeout_secs=None)
        running = asyncio.create_task(session.run())
        async for event in session.events():
            if isinstance(event, RoundStarted):
                await session.stop()
        await running


@pytest.mark.parametrize("wrong", [0, -1, "20", True])
def test_a_limit_is_checked_where_it_is_given(wrong: float) -> None:
    with pytest.raises(ConfigError, match="stop_timeout_secs is"):
        DriverSession(Controller(), [Adds(1)], NEVER, stop_timeout_secs=wrong)
