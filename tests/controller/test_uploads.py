"""Updates that go wrong on the way, over real connections: nothing counts twice, nothing is lost without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from unittest import mock

import grpc.aio
import msgpack
import numpy as np
import pytest
from federations import PATIENCE_S, until
from puppet import Puppet, puppet, weights

from metisfl_async import (
    Controller,
    ControllerConfig,
    DriverSession,
    FederationResult,
    ServerParams,
    TerminationSignals,
)
from metisfl_async.codec.chunk import frame_head
from metisfl_async.codec.frame import Data, End, Header, encode
from metisfl_async.controller.snapshot import OpenTask
from metisfl_async.core.access import LOCAL
from metisfl_async.core.errors import (
    CodecError,
    ConnectionLost,
    Damaged,
    MetisError,
    Superseded,
    TooLarge,
    UnknownFederation,
    UnknownLearner,
)
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, ModelRef, TaskId, Token
from metisfl_async.core.messages import (
    Counted,
    Evaluated,
    Failed,
    Farewell,
    Heartbeat,
    Hello,
    Outcome,
    Settled,
    TaskOffer,
    UpdateReply,
    Withdrawn,
)
from metisfl_async.core.model import Array, Model
from metisfl_async.core.strategies.aggregation.arithmetic import MOST_RUNS
from metisfl_async.transport import grpc_host, grpc_link
from metisfl_async.transport.convert import GO_AHEAD, from_update_reply
from metisfl_async.transport.grpc_errors import ours

SIZE = 3 * 2**18  #: float32 weights: 3 MiB, so three data frames and a bit
CONFIG = ControllerConfig(evaluate_every=0)


class Federation:
    """A controller and a driver that run one round with puppets for learners."""

    def __init__(self, controller: Controller, running: asyncio.Task[FederationResult], session: DriverSession) -> None:
        self.controller, self.running, self.session = controller, running, session

    async def result(self) -> FederationResult:
        async with asyncio.timeout(PATIENCE_S):
            return await self.running


async def federation(config: ControllerConfig, learners: int, size: int = SIZE) -> AsyncIterator[Federation]:
    async with Controller(ServerParams(), config) as controller:
        session = DriverSession(
            controller,
            learners,
            TerminationSignals(federation_rounds=1),
            initial_weights=weights(0, size),
        )
        running = asyncio.create_task(session.run())
        try:
            yield Federation(controller, running, session)
        finally:
            running.cancel()
            await asyncio.wait([running])


@pytest.fixture
async def alone() -> AsyncIterator[Federation]:
    """One learner is awaited."""
    async for made in federation(CONFIG, 1):
        yield made


@pytest.fixture
async def pair() -> AsyncIterator[Federation]:
    """Two learners are awaited."""
    async for made in federation(CONFIG, 2):
        yield made


@pytest.fixture
async def small() -> AsyncIterator[Federation]:
    """One learner is awaited, whose updates fit in a chunk."""
    async for made in federation(CONFIG, 1, 100):
        yield made


async def task_that_is_accepted(made: Federation, learner_id: str, learner: Puppet) -> TaskOffer:
    """Wait until the controller knows that the learner has its task: what is on its way is lost with a connection."""
    offer = await learner.task()
    accepted = OpenTask(learner_id, offer.kind.value, "accepted", 1)
    await until(lambda: accepted in made.controller.snapshot().open_tasks)
    return offer


async def farewell(learner: Puppet) -> None:
    while not isinstance(await learner.next(), Farewell):
        pass
    await learner.link.leave(learner.token)


async def finish(made: Federation, learner: Puppet) -> FederationResult:
    await farewell(learner)
    return await made.result()


async def test_an_update_counts_once_however_often_it_is_sent(alone: Federation) -> None:
    async with puppet(alone.controller, "a") as learner:
        offer = await learner.task()
        frames = learner.frames(offer, weights(3, SIZE))
        assert await learner.push(frames) == UpdateReply(Outcome.FOLDED)
        assert await learner.next() == Counted((offer.task_id,))
        assert await learner.push(frames) == UpdateReply(Outcome.COUNTED, "it was counted already")
        assert await learner.push(frames[:1]) == UpdateReply(Outcome.COUNTED, "it was counted already")
        result = await finish(alone, learner)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0
    assert result.rounds[0].bytes_received == 3 * 2**20 + 8


async def test_a_small_update_that_comes_unasked_is_answered_with_its_outcome(
    small: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_host, "DRAIN_S", 3600.0)  # nothing is left to be read
    async with puppet(small.controller, "a") as learner:
        offer = await learner.task()
        for task_id, is_taken in ((TaskId("0" * 32), False), (offer.task_id, True), (offer.task_id, True)):
            call = learner.upload()
            await call.write(encode(*learner.frames(replace(offer, task_id=task_id), weights(3, 100))))
            assert from_update_reply(await call.read()).is_taken == is_taken
            assert await call.read() == grpc.aio.EOF  # although it did not close its half
        result = await finish(small, learner)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0


async def test_a_first_chunk_with_a_frame_that_cannot_be_read_is_not_taken(small: Federation) -> None:
    async with puppet(small.controller, "a") as learner:
        header, data, end = learner.frames(await learner.task(), weights(3, 100))
        call = learner.upload()
        await call.write(encode(header) + frame_head(3) + b"abc" + encode(data, end))
        with pytest.raises(Damaged, match="instead of a map"), ours(""):
            await call.read()
        assert await learner.push([header, data, end]) == UpdateReply(Outcome.FOLDED)
        await finish(small, learner)


@pytest.mark.parametrize(
    ("size", "count", "error", "message"),
    [
        (SIZE, 2, TooLarge, "bytes before 'send'; at most 131072"),
        (2**15, 3, TooLarge, "bytes before 'send'; at most 131072"),
        (100, 2, Damaged, "neither the header alone, which waits for 'send', nor a whole update"),
    ],
)
async def test_who_does_not_wait_for_the_word_hears_it_and_may_send_again(
    size: int, count: int, error: type[CodecError], message: str
) -> None:
    async for made in federation(CONFIG, 1, size):
        async with puppet(made.controller, "a") as learner:
            frames = learner.frames(await learner.task(), weights(3, size))
            call = learner.upload()
            await call.write(encode(*frames[:count]))
            with pytest.raises(error, match=message), ours(""):
                await call.read()
            assert await learner.push(frames) == UpdateReply(Outcome.FOLDED)
            await finish(made, learner)


@pytest.mark.parametrize(("count", "chunks"), [(1, 1), (100, 1), (2**15 - 200, 1), (2**15, 2), (2**17, 2), (2**18, 3)])
async def test_an_update_goes_up_in_as_few_chunks_as_may_be(count: int, chunks: int) -> None:
    async for made in federation(CONFIG, 1, count):
        async with puppet(made.controller, "a") as learner:
            offer = await learner.task()
            (header, *_), model = learner.frames(offer, weights(3, count)), Model.from_arrays(weights(3, count))
            assert isinstance(header, Header)
            learner.link._caller.pace.payload_bytes = 2**20
            with mock.patch.object(grpc_link, "encode", wraps=encode) as spy:
                assert await learner.link.upload(learner.token, header, model) == UpdateReply(Outcome.FOLDED)
            assert spy.call_count == chunks
            result = await finish(made, learner)
        assert result.final_model is not None
        assert result.final_model[0][0] == 3.0


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
async def test_a_stream_that_stops_early_counts_nothing_and_may_be_sent_again(alone: Federation, kept: int) -> None:
    async with puppet(alone.controller, "a") as learner:
        offer = await learner.task()
        frames = learner.frames(offer, weights(3, SIZE))
        assert len(frames) == 6
        with pytest.raises(CodecError, match="ended after"):
            await learner.push(frames[:kept])
        assert await learner.push(frames) == UpdateReply(Outcome.FOLDED)
        result = await finish(alone, learner)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0


def _damage(frames: list[Header | Data | End], how: str) -> list[Header | Data | End | bytes]:
    header, first, second, *rest = frames
    assert isinstance(header, Header)
    assert isinstance(first, Data)
    match how:
        case "reordered":
            return [header, second, first, *rest]
        case "repeated":
            return [header, first, first, second, *rest]
        case "digest":
            return [header, Data(0, memoryview(bytes(len(first.payload)))), second, *rest]
        case "beyond":
            return [*frames[:-1], Data(SIZE * 4 + 64, memoryview(b"x")), frames[-1]]
        case "garbage":
            return [header, b"\xff\xff\xff"]
        case "no chunk":
            return [header, frame_head(3) + b"abc"]
        case "empty chunk":
            return [header, b""]
        case "empty frame":
            return [header, frame_head(0)]
        case "behind the end":
            return [*frames[:-1], encode(frames[-1], frames[-1])]
        case "second header":
            return [header, first, header]
        case "manifest":
            return [replace(header, manifest=Model.from_arrays(weights(0, SIZE + 1)).manifest), *frames[1:]]
        case "no weight":
            return [replace(header, metadata={}), *frames[1:]]
        case "lying weight":
            return [replace(header, metadata={"num_training_examples": 1e300}), *frames[1:]]
    raise AssertionError(how)


DAMAGES = {
    "reordered": "data frame: offset 1048576 after 0 bytes",
    "repeated": "data frame: offset 0 after 1048576 bytes",
    "digest": "end frame: the digest is not that of the header and the bytes received",
    "beyond": "data frame: offset 3145792 after 3145736 bytes",
    "garbage": "Chunk: a tag or a length is not a varint",
    "no chunk": "frame: a int instead of a map",
    "empty chunk": "Chunk: no frame in it",
    "empty frame": "frame: empty",
    "behind the end": "stream: a frame after the end frame",
    "second header": "stream: a second header",
}


@pytest.mark.parametrize("how", DAMAGES)
async def test_an_update_that_was_damaged_on_its_way_may_be_sent_again(alone: Federation, how: str) -> None:
    async with puppet(alone.controller, "a") as learner:
        frames = learner.frames(await learner.task(), weights(3, SIZE))
        for _ in range(3):
            reply = await learner.push(_damage(frames, how))
            assert reply.outcome is Outcome.DAMAGED
            assert DAMAGES[how] in reply.reason
        assert await learner.push(frames) == UpdateReply(Outcome.FOLDED)
        result = await finish(alone, learner)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0
    assert result.rounds[0].participants == ["a"]
    assert result.rounds[0].learners["a"].failures == []


async def test_an_update_that_is_damaged_for_the_fourth_time_is_refused_for_good(pair: Federation) -> None:
    async with puppet(pair.controller, "bad") as bad, puppet(pair.controller, "good") as good:
        frames = bad.frames(await bad.task(), weights(100, SIZE))
        replies = [await bad.push(_damage(frames, how)) for how in ("digest", "reordered", "digest", "digest")]
        assert [reply.outcome.value for reply in replies] == ["damaged", "damaged", "damaged", "refused"]
        again = await bad.push(frames)
        assert again.outcome is Outcome.REFUSED
        assert again.reason.startswith("the task is rejected")
        assert (await good.push(good.frames(await good.task(), weights(3, SIZE)))).is_taken
        await farewell(bad)
        result = await finish(pair, good)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0
    assert result.rounds[0].learners["bad"].failures[0].message == replies[-1].reason


async def test_another_content_under_the_same_task_is_refused_and_the_first_one_counts(pair: Federation) -> None:
    async with puppet(pair.controller, "a") as a, puppet(pair.controller, "b") as b:
        offer, of_b = await a.task(), await b.task()
        assert await a.push(a.frames(offer, weights(3, SIZE))) == UpdateReply(Outcome.FOLDED)
        other = await a.push(a.frames(offer, weights(3, SIZE), num_training_examples=1000.0))
        assert other.outcome is Outcome.REFUSED
        assert "another update of the same task was taken in before" in other.reason
        assert await a.push(a.frames(offer, weights(3, SIZE))) == UpdateReply(Outcome.FOLDED)
        assert (await b.push(b.frames(of_b, weights(5, SIZE)))).is_taken
        await farewell(b)
        result = await finish(pair, a)
    assert result.final_model is not None
    assert result.final_model[0][0] == 4.0


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("manifest", "does not fit the global model: tensor '0' is float32[786433] instead of float32[786432]"),
        ("no weight", "num_training_examples is None; allowed: a number, which scaling_factor"),
        ("lying weight", "num_training_examples is 1e+300; allowed: a number >= 2**-53 and <= max_weight=1000000000"),
    ],
)
async def test_a_bad_update_is_refused_and_the_round_goes_on(pair: Federation, how: str, message: str) -> None:
    async with puppet(pair.controller, "bad") as bad, puppet(pair.controller, "good") as good:
        offer = await bad.task()
        reply = await bad.push(_damage(bad.frames(offer, weights(100, SIZE)), how))
        assert not reply.is_taken
        assert message in reply.reason
        # Refused is refused: the same task cannot try again.
        again = await bad.push(bad.frames(offer, weights(100, SIZE)))
        assert not again.is_taken
        assert again.reason.startswith("the task is rejected")
        offer = await good.task()
        assert (await good.push(good.frames(offer, weights(3, SIZE)))).is_taken
        await farewell(bad)
        result = await finish(pair, good)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0
    assert result.rounds[0].learners["bad"].failures[0].message == reply.reason


async def test_a_lying_manifest_is_refused_before_anything_is_allocated(pair: Federation) -> None:
    async with puppet(pair.controller, "bad") as bad, puppet(pair.controller, "good") as good:
        offer = await bad.task()
        lie = {
            "kind": "update",
            "task_id": offer.task_id,
            "model_version": 0,
            "federation_id": offer.model.federation_id,
            "codec": "raw",
            "size_bytes": 2**45 * 4,
            "manifest": [["0", "float32", [2**45], 0]],
        }
        packed = msgpack.packb(lie)
        reply = await bad.push([frame_head(len(packed)) + packed])
        assert not reply.is_taken
        assert "at most max_model_bytes=4294967296" in reply.reason
        offer = await good.task()
        assert (await good.push(good.frames(offer, weights(3, SIZE)))).is_taken
        await farewell(bad)
        await finish(pair, good)


async def test_unknown_foreign_and_evaluation_tasks_are_refused(pair: Federation) -> None:
    async with puppet(pair.controller, "a") as a, puppet(pair.controller, "b") as b:
        of_a, of_b = await a.task(), await b.task()
        assert of_a.kind is TaskKind.TRAIN
        refusal = UpdateReply(Outcome.REFUSED, "no such task; its round is over")
        assert await a.push(a.frames(replace(of_a, task_id="0" * 32), weights(1, SIZE))) == refusal  # type: ignore[arg-type]
        assert await a.push(a.frames(of_b, weights(1, SIZE))) == refusal
        right, a.token = a.token, Token("wrong")
        with pytest.raises(UnknownLearner):
            await a.push(a.frames(of_a, weights(1, SIZE)))
        a.token = right
        with pytest.raises(CodecError, match="not the header of a model"):
            await a.push(a.frames(of_a, weights(1, SIZE))[1:])
        with pytest.raises(CodecError, match="ended before the header"):
            await a.push([])


async def test_a_learner_that_comes_back_with_its_task_goes_on(alone: Federation) -> None:
    async with puppet(alone.controller, "a") as learner:
        offer = await learner.task()
        token = learner.token
    async with puppet(alone.controller, "a", token, held=[(offer.task_id, True), ("f" * 32, False)]) as learner:
        assert learner.welcome is not None
        verdicts = {task_id: verdict.value for task_id, (verdict, _) in learner.welcome.verdicts.items()}
        assert verdicts == {offer.task_id: "upload", "f" * 32: "discard"}
        assert (await learner.push(learner.frames(offer, weights(3, SIZE)))).is_taken
        await finish(alone, learner)


async def test_messages_of_an_older_incarnation_are_refused(alone: Federation) -> None:
    async with puppet(alone.controller, "a") as old:
        offer = await old.task()
        async with puppet(alone.controller, "a", old.token, held=[(offer.task_id, False)]) as new:
            with pytest.raises(UnknownLearner):
                await old.push(old.frames(offer, weights(100, SIZE)))
            assert await old.next() is None  # its stream was ended
            assert (await new.push(new.frames(offer, weights(3, SIZE)))).is_taken
            result = await finish(alone, new)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0


async def test_a_connected_learner_cannot_be_replaced_without_its_token(alone: Federation) -> None:
    async with puppet(alone.controller, "a"):
        for token in ("", "wrong"):
            with pytest.raises(Superseded, match="two learners need two ids"):
                async with puppet(alone.controller, "a", token):
                    pass


async def test_a_newer_stream_of_the_same_update_wins(alone: Federation) -> None:
    async with puppet(alone.controller, "a") as learner:
        offer = await learner.task()
        frames = learner.frames(offer, weights(3, SIZE))
        stuck = learner.upload()
        for frame in frames[:2]:
            await stuck.write(encode(frame))
        assert await stuck.read() == GO_AHEAD
        assert (await learner.push(frames)).is_taken
        await stuck.write(encode(frames[2]))

        with pytest.raises(MetisError), ours("controller"):
            await stuck.read()
        result = await finish(alone, learner)
    assert result.final_model is not None
    assert result.final_model[0][0] == 3.0


async def test_garbage_on_an_older_stream_does_not_reject_the_newer_one(alone: Federation) -> None:
    async with puppet(alone.controller, "a") as learner:
        offer = await learner.task()
        frames = learner.frames(offer, weights(3, SIZE))
        older, newer = learner.upload(), learner.upload()
        for call in (older, newer):
            await call.write(encode(frames[0]))
            assert await call.read() == GO_AHEAD
        await older.write(b"\xff\xff\xff")
        with pytest.raises(MetisError), ours("controller"):
            await older.read()
        for frame in frames[1:]:
            await newer.write(encode(frame))
        assert from_update_reply(await newer.read()).is_taken
        result = await finish(alone, learner)
    assert result.rounds[0].learners["a"].failures == []


async def test_a_learner_that_comes_back_without_its_task_does_not_hang_the_round(pair: Federation) -> None:
    async with puppet(pair.controller, "a") as a:
        async with puppet(pair.controller, "b") as b:
            await task_that_is_accepted(pair, "b", b)
        async with puppet(pair.controller, "b", b.token) as b:
            offer = await a.task()
            assert (await a.push(a.frames(offer, weights(3, SIZE)))).is_taken
            await farewell(b)
            result = await finish(pair, a)
    assert result.rounds[0].learners["b"].failures[0].type == "lost"


async def test_a_learner_that_leaves_does_not_hang_the_round(pair: Federation) -> None:
    async with puppet(pair.controller, "a") as a, puppet(pair.controller, "b") as b:
        await b.task()
        await b.link.leave(b.token)
        offer = await a.task()
        assert (await a.push(a.frames(offer, weights(3, SIZE)))).is_taken
        result = await finish(pair, a)
    (failure,) = result.rounds[0].learners["b"].failures
    assert (failure.type, failure.message) == ("lost", "it left")


async def test_the_deadline_closes_the_round_and_the_late_one_is_told() -> None:
    config = ControllerConfig(round_timeout_secs=0.5, evaluate_every=0)
    async for made in federation(config, 2):
        async with puppet(made.controller, "a") as a, puppet(made.controller, "b") as b:
            offer_a, offer_b = await a.task(), await b.task()
            assert (await a.push(a.frames(offer_a, weights(3, SIZE)))).is_taken
            withdrawn = await b.next()
            assert isinstance(withdrawn, Withdrawn)
            assert withdrawn.task_id == offer_b.task_id
            assert "round_timeout_secs=0.5" in withdrawn.reason
            reply = await b.push(b.frames(offer_b, weights(100, SIZE)))
            assert not reply.is_taken
            assert reply.reason.startswith("the task is expired: round 1 did not wait longer")
            await farewell(b)
            result = await finish(made, a)
        assert result.final_model is not None
        assert result.final_model[0][0] == 3.0
        assert result.rounds[0].learners["b"].failures[0].type == "expired"


async def test_an_upload_under_way_at_the_deadline_is_late() -> None:
    config = ControllerConfig(round_timeout_secs=0.5, evaluate_every=0)
    async for made in federation(config, 2):
        async with puppet(made.controller, "a") as a, puppet(made.controller, "b") as b:
            offer_a, offer_b = await a.task(), await b.task()
            frames = b.frames(offer_b, weights(100, SIZE))
            call = b.upload()
            for frame in frames[:-1]:
                await call.write(encode(frame))
            assert await call.read() == GO_AHEAD
            assert (await a.push(a.frames(offer_a, weights(3, SIZE)))).is_taken
            assert isinstance(await b.next(), Withdrawn)
            await call.write(encode(frames[-1]))
            await call.done_writing()

            assert from_update_reply(await call.read()).reason.startswith("the task is late")
            await farewell(b)
            result = await finish(made, a)
        assert result.final_model is not None
        assert result.final_model[0][0] == 3.0


async def test_an_upload_that_came_too_late_is_not_read_to_its_end() -> None:
    config = ControllerConfig(round_timeout_secs=0.5, evaluate_every=0)
    async for made in federation(config, 2):
        async with puppet(made.controller, "a") as a, puppet(made.controller, "b") as b:
            offer_a, offer_b = await a.task(), await b.task()
            frames = b.frames(offer_b, weights(100, SIZE))
            call = b.upload()
            await call.write(encode(frames[0]))
            assert await call.read() == GO_AHEAD
            assert (await a.push(a.frames(offer_a, weights(3, SIZE)))).is_taken
            assert isinstance(await b.next(), Withdrawn)
            await call.write(encode(frames[1]))
            assert from_update_reply(await call.read()).reason.startswith("the task is late")
            assert made.controller.snapshot().staged_bytes == 0
            await farewell(b)
            await finish(made, a)


async def test_an_update_that_is_folded_while_the_federation_ends_is_not_said_to_count(
    alone: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with puppet(alone.controller, "a") as learner:
        offer = await learner.task()
        service = alone.controller._open.service
        threads = alone.controller._open.job.aggregator._threads
        work = threads.work

        async def work_and_stop(*args: object) -> object:
            done: object = await work(*args)  # type: ignore[arg-type]
            await service.stop_training(LOCAL, alone.controller._open.job.id, "enough")
            return done

        monkeypatch.setattr(threads, "work", work_and_stop)
        reply = await learner.push(learner.frames(offer, weights(3, SIZE)))
        assert reply == UpdateReply(Outcome.CANCELLED, "the task is cancelled: the federation ended")
        result = await finish(alone, learner)
    assert result.rounds[0].participants == []


async def test_silence_ends_the_lease_and_the_round_goes_on() -> None:
    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=0.5, evaluate_every=0)
    async for made in federation(config, 2):
        async with puppet(made.controller, "a") as a, puppet(made.controller, "b") as b:
            await b.task()
            offer = await a.task()
            assert (await a.push(a.frames(offer, weights(3, SIZE)))).is_taken

            async def beat() -> None:
                while True:
                    await a.stream.send(Heartbeat())
                    await asyncio.sleep(0.1)

            beating = asyncio.create_task(beat())
            assert await b.next() is None  # nothing was heard of it: its stream is ended
            result = await finish(made, a)
            beating.cancel()
        (failure,) = result.rounds[0].learners["b"].failures
        assert (failure.type, failure.message) == ("lost", "silent for lease_secs=0.5")


async def test_an_upload_that_stalls_is_dropped_and_may_be_sent_again() -> None:
    config = ControllerConfig(upload_idle_secs=0.2, evaluate_every=0)
    async for made in federation(config, 1):
        async with puppet(made.controller, "a") as a:
            offer = await a.task()
            frames = a.frames(offer, weights(3, SIZE))
            call = a.upload()
            await call.write(encode(frames[0]))
            assert await call.read() == GO_AHEAD

            with pytest.raises(ConnectionLost, match=r"upload_idle_secs=0\.2"), ours("controller"):
                await call.read()
            assert (await a.push(frames)).is_taken
            await finish(made, a)


async def test_updates_beyond_the_room_wait_and_none_is_lost() -> None:
    config = ControllerConfig(max_inflight_bytes=4 * SIZE, evaluate_every=0)  # room for one, and not quite two
    async for made in federation(config, 4):
        async with (
            puppet(made.controller, "a") as a,
            puppet(made.controller, "b") as b,
            puppet(made.controller, "c") as c,
            puppet(made.controller, "d") as d,
        ):
            puppets = [a, b, c, d]
            offers = [await learner.task() for learner in puppets]
            pushes = [
                learner.push(learner.frames(offer, weights(value, SIZE)))
                for value, (learner, offer) in enumerate(zip(puppets, offers, strict=True))
            ]
            assert [reply.is_taken for reply in await asyncio.gather(*pushes)] == [True] * 4
            await asyncio.gather(*(farewell(learner) for learner in puppets))
            result = await made.result()
        assert result.final_model is not None
        assert result.final_model[0][0] == 1.5


async def test_the_outcome_of_an_evaluation_is_acknowledged() -> None:
    async for made in federation(ControllerConfig(), 2):
        async with puppet(made.controller, "a") as a, puppet(made.controller, "b") as b:
            for learner in (a, b):
                assert (await learner.push(learner.frames(await learner.task(), weights(3, SIZE)))).is_taken
            of_a, of_b = await a.task(), await b.task()
            assert of_a.kind is TaskKind.EVALUATE
            model = await a.link.fetch_model(a.token, of_a.model, 2**30, None, lambda: None)
            assert model.arrays()[0][0] == 3.0
            await a.stream.send(Evaluated(of_a.task_id, {"accuracy": 0.5}))
            assert await a.next() == Settled(of_a.task_id)
            await b.stream.send(Failed(of_b.task_id, "OSError", "disk full"))
            assert await b.next() == Settled(of_b.task_id)
            await farewell(b)
            result = await finish(made, a)
        record = result.rounds[0]
        assert record.evaluation_metrics == {"accuracy": 0.5}
        assert record.learners["b"].failures[0].message == "disk full"


async def test_breaking_the_rules_of_the_stream_is_answered(alone: Federation) -> None:
    async with puppet(alone.controller, "a") as learner:
        model = (await learner.task()).model
        await learner.stream.send(Hello(learner.token))
        with pytest.raises(MetisError, match="Hello is the first message"):
            await learner.next()
    async with puppet(alone.controller, "b") as learner:
        with pytest.raises(MetisError, match="model version 7 is not here; the latest is 0"):
            await learner.link.fetch_model(learner.token, ModelRef(model.federation_id, 7), 2**30, None, lambda: None)
        with pytest.raises(UnknownLearner):
            await learner.link.fetch_model(Token("nobody"), model, 2**30, None, lambda: None)
        with pytest.raises(UnknownFederation):
            await learner.link.fetch_model(
                learner.token, ModelRef(FederationId("another"), 0), 2**30, None, lambda: None
            )
        async with learner.link.tasks() as stream:
            await stream.send(Evaluated("x", {}))  # type: ignore[arg-type]
            with pytest.raises(MetisError, match="must be Hello, not Evaluated"):
                await stream.receive()


@pytest.mark.slow
async def test_an_update_in_very_many_runs_is_looked_at_by_the_worker() -> None:
    """And counts if it is sound: looking while it arrives would hold up the event loop."""

    def pairs(value: float) -> list[Array]:
        return [np.array(value, np.float32), np.array(2, np.int8)] * MOST_RUNS

    async with Controller(ServerParams(), CONFIG) as controller:
        session = DriverSession(controller, 2, TerminationSignals(federation_rounds=1), initial_weights=pairs(2.0))
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as a, puppet(controller, "b") as b:
            offers = await a.task(), await b.task()
            refused = await b.push(b.frames(offers[1], pairs(np.nan)))
            assert "tensor '0' holds a value that is not finite" in refused.reason
            assert await a.push(a.frames(offers[0], pairs(1.0))) == UpdateReply(Outcome.FOLDED)
        await asyncio.wait([running])


async def test_a_stream_that_was_replaced_while_it_waited_for_room_gets_none() -> None:
    config = replace(CONFIG, max_inflight_bytes=4 * SIZE)  # room for one
    async for made in federation(config, 2):
        async with puppet(made.controller, "a") as a, puppet(made.controller, "b") as b:
            offers = await a.task(), await b.task()
            (header, *_), frames = a.frames(offers[0], weights(1, SIZE)), b.frames(offers[1], weights(3, SIZE))
            holds_room, waits = a.upload(), b.upload()
            await holds_room.write(encode(header))
            assert await holds_room.read() == GO_AHEAD
            await waits.write(encode(frames[0]))
            await until(lambda: made.controller.snapshot().uploads_waiting == 1)  # noqa: B023
            pushing = asyncio.create_task(b.push(frames))
            await until(lambda: made.controller.snapshot().uploads_waiting == 2)  # noqa: B023
            holds_room.cancel()
            with pytest.raises(Superseded), ours(b.link.address):
                await waits.read()
            assert await pushing == UpdateReply(Outcome.FOLDED)


async def test_an_update_that_is_withdrawn_while_it_waits_for_room_costs_no_bytes() -> None:
    config = replace(CONFIG, max_inflight_bytes=4 * SIZE)
    async for made in federation(config, 2):
        async with puppet(made.controller, "a") as a, puppet(made.controller, "b") as b:
            offers = await a.task(), await b.task()
            holds_room, waits = a.upload(), b.upload()
            await holds_room.write(encode(a.frames(offers[0], weights(1, SIZE))[0]))
            assert await holds_room.read() == GO_AHEAD
            await waits.write(encode(b.frames(offers[1], weights(3, SIZE))[0]))
            await until(lambda: made.controller.snapshot().uploads_waiting == 1)  # noqa: B023
            await made.session.stop()
            holds_room.cancel()
            reply = await waits.read()
            assert reply != GO_AHEAD
            assert not from_update_reply(reply).is_taken
