"""Learners that listen: the controller dials them, and no connection stays."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import trustme
from federations import PATIENCE_S, Adds, AddsOnLoop, nothing_left_behind, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from listening import Listener, connections_to, listening
from proxy import proxy_to, proxy_to_port
from puppet import weights

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ServerParams,
    TerminationSignals,
    TransportError,
    run_learner,
)
from metisfl_async.codec.frame import MAX_FRAME_BYTES, Frame, Header, encode, frames_of
from metisfl_async.compat import app
from metisfl_async.core.errors import CodecError, ConnectionLost, TooLarge, UnexpectedMessage, UnknownLearner
from metisfl_async.core.federation.events import UpdateFolded
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId, ModelRef, TaskId, Token
from metisfl_async.core.messages import (
    Accept,
    ControllerMessage,
    Evaluated,
    Failed,
    Farewell,
    Heartbeat,
    LearnerMessage,
    Settled,
    TaskOffer,
)
from metisfl_async.core.metrics import Metrics
from metisfl_async.core.model import Array, Model
from metisfl_async.events import FederationStarted, LearnerJoined, TaskFailed
from metisfl_async.learner import listening as module
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.transport.convert import delivery
from metisfl_async.transport.grpc_errors import ours
from metisfl_async.transport.grpc_options import LEARNER_SERVICE, TOKEN

REF = ModelRef(FederationId("f" * 32), 0)
ROUND = TerminationSignals(federation_rounds=1)
MODEL = ModelRef(FederationId("f"), 0)
QUICK = ControllerConfig(heartbeat_secs=0.1, lease_secs=5.0)


async def test_a_federation_of_listening_learners_gives_the_weighted_mean_and_leaves_nothing() -> None:
    learners = [Adds(1), Adds(2), Adds(3)]
    async with (
        nothing_left_behind(),
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams()) as controller,
        AsyncExitStack() as stack,
    ):
        there = [await stack.enter_async_context(listening(controller.client_params, x)) for x in learners]
        named = [listener.params for listener in there]
        result = await DriverSession(controller, named, TerminationSignals(federation_rounds=3)).run()
        await asyncio.gather(*(listener.task for listener in there))
    assert result.final_model is not None
    np.testing.assert_allclose(result.final_model[0], [3 * (1 + 4 + 9) / 6], rtol=1e-6)
    assert result.rounds[-1].participants == sorted(params.address for params in named)
    assert result.rounds[-1].evaluation_metrics["accuracy"] == pytest.approx(7.0)
    assert [len(learner.taken_over) for learner in learners] == [2, 2, 2]  # the first weights, and the final ones


async def test_while_it_trains_nobody_holds_a_connection() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    async with Controller(ServerParams()) as controller, listening(controller.client_params, learner) as listener:
        running = asyncio.create_task(DriverSession(controller, [listener.params], ROUND).run())
        await learner.is_training.wait()
        await until(lambda: connections_to(listener.params.port) == 0)
        await until(lambda: connections_to(controller.client_params.port) == 1)  # the driver's
        learner.may_train.set()
        assert (await running).model_version == 1


@pytest.mark.slow
async def test_fifty_learners_for_three_rounds() -> None:
    async with (
        asyncio.timeout(2 * PATIENCE_S),
        nothing_left_behind(),
        Controller(ServerParams()) as controller,
        AsyncExitStack() as stack,
    ):
        there = [await stack.enter_async_context(listening(controller.client_params, Adds(1))) for _ in range(50)]
        session = DriverSession(
            controller, [listener.params for listener in there], TerminationSignals(federation_rounds=3)
        )
        result = await session.run()
        await asyncio.gather(*(listener.task for listener in there))
    assert [len(record.participants) for record in result.rounds] == [50] * 3
    assert [record.evaluation_metrics["accuracy"] for record in result.rounds] == pytest.approx([1.0, 2.0, 3.0])


async def test_listening_dialling_and_live_learners_side_by_side() -> None:
    config = ControllerConfig(min_learners=3)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        listening(controller.client_params, Adds(1), "listens") as listener,
    ):
        dialling = asyncio.create_task(run_learner(Adds(1), controller.client_params, learner_id="dials"))
        result = await DriverSession(controller, [listener.params, Adds(1)], ROUND).run()
        await asyncio.gather(dialling, listener.task)
    assert result.rounds[0].participants == ["dials", "learner-0", "listens"]


async def test_tls_both_ways_named_by_a_remote_driver(tmp_path: Path) -> None:
    """The controller has no file of the learner's root certificate: what is in it comes from the driver."""

    def params(name: str) -> ServerParams:
        authority, folder = trustme.CA(), tmp_path / name
        folder.mkdir()
        issued = authority.issue_cert("localhost")
        files = [folder / part for part in ("root.pem", "server.pem", "key.pem")]
        authority.cert_pem.write_to_path(files[0])
        issued.cert_chain_pems[0].write_to_path(files[1])
        issued.private_key_pem.write_to_path(files[2])
        return ServerParams("localhost", 0, *files)

    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(params("controller")) as controller,
        listening(controller.client_params, Adds(1), "a", server_params=params("a")) as a,
        listening(controller.client_params, Adds(1), "b", server_params=params("b")) as b,
    ):
        result = await DriverSession(controller.client_params, [a.params, b.params], ROUND).run()
        await asyncio.gather(a.task, b.task)
    assert result.rounds[0].participants == ["a", "b"]


async def test_a_learner_that_the_controller_does_not_trust_waits_and_is_told_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    async with Controller(ServerParams()) as controller, listening(controller.client_params, Adds(1)) as listener:
        named = ClientParams("127.0.0.1", listener.params.port, other)
        running = asyncio.create_task(DriverSession(controller, [named], ROUND).run())
        await until(lambda: f"it cannot reach the learner at {named.address}: " in caplog.text)
        running.cancel()
        await asyncio.wait([running])


async def test_it_waits_for_a_driver_that_names_it() -> None:
    async with Controller(ServerParams()) as controller, listening(controller.client_params, Adds(1)) as listener:
        await until(lambda: any("Event.wait" in repr(task) for task in asyncio.all_tasks()))
        result = await DriverSession(controller, [listener.params], ROUND).run()
        await listener.task
    assert result.model_version == 1


async def test_a_learner_that_nobody_named_is_told_whom_they_did() -> None:
    async with (
        Controller(ServerParams()) as controller,
        listening(controller.client_params, Adds(1)) as named,
        listening(controller.client_params, Adds(1)) as other,
    ):
        result = await DriverSession(controller, [named.params], ROUND).run()
        with pytest.raises(ConfigError) as caught:
            await other.task
    assert result.rounds[0].participants == [named.params.address]
    assert caught.value.value == other.params.address
    assert caught.value.allowed.startswith(f"those that were named: {named.params.address} (in ControllerConfig.learn")


async def test_a_broken_upload_is_sent_again_and_counts_once() -> None:
    learner = Adds(2, size=2**20)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams()) as controller,
        proxy_to(controller) as proxy,
        listening(proxy.params, learner) as listener,
    ):
        session = DriverSession(controller, [listener.params], ROUND, initial_weights=learner.get_weights())
        proxy.cut_after = 1_500_000
        result = await session.run()
        await listener.task
    assert result.final_model is not None
    assert result.final_model[0][0] == 2.0
    assert len(learner.configs) == 1


async def test_what_cannot_be_delivered_at_once_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), ControllerConfig(min_learners=2)) as controller,
        proxy_to_port(1) as proxy,
        listening(controller.client_params, Adds(1), "a", public_address=proxy.params.address) as listener,
    ):
        proxy.target = listener.params.port
        session = DriverSession(controller, [proxy.params], ROUND)
        running = asyncio.create_task(session.run())
        events = session.events()
        assert isinstance(await anext(events), FederationStarted)
        assert isinstance(await anext(events), LearnerJoined)
        await until(lambda: listener.is_connected)
        proxy.target = 1  # nobody listens there
        proxy.cut()
        other = asyncio.create_task(run_learner(Adds(1), controller.client_params, learner_id="b"))
        await until(lambda: f"the controller waits for {proxy.params.address}" in caplog.text)
        proxy.target = listener.params.port
        result = await running
        await asyncio.gather(other, listener.task)
    assert result.rounds[0].participants == ["a", "b"]
    assert not result.rounds[0].learners["a"].failures


async def test_a_learner_that_is_gone_when_its_task_is_offered_is_given_up_when_its_lease_ends() -> None:
    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=2.0, evaluate_every=0)
    a, b = AddsOnLoop(1), Adds(2)
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(ServerParams(), config) as controller,
        listening(controller.client_params, a, "a") as of_a,
        AsyncExitStack() as of_b,
    ):
        gone = await of_b.enter_async_context(listening(controller.client_params, b, "b"))
        session = DriverSession(controller, [of_a.params, gone.params], TerminationSignals(federation_rounds=2))
        running = asyncio.create_task(session.run())
        a.may_train.clear()
        async for event in session.events():
            if isinstance(event, UpdateFolded) and event.learner == "b":
                break
        await of_b.aclose()
        a.may_train.set()
        result = await running
        await of_a.task
    assert [record.participants for record in result.rounds] == [["a", "b"], ["a"]]
    (failure,) = result.rounds[1].learners["b"].failures
    assert failure.type == "lost"


async def test_a_lease_does_not_end_while_it_trains() -> None:
    may_end = threading.Event()

    class Blocks(Adds):
        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            assert may_end.wait(PATIENCE_S)
            return super().train(parameters, config)

    config = ControllerConfig(heartbeat_secs=0.1, lease_secs=2.0)
    async with (
        Controller(ServerParams(), config) as controller,
        listening(controller.client_params, Blocks(1), "a") as listener,
    ):
        running = asyncio.create_task(DriverSession(controller, [listener.params], ROUND).run())
        loop = asyncio.get_running_loop()
        start = loop.time()
        await until(lambda: loop.time() - start > 1.5 * config.lease_secs)
        may_end.set()
        result = await running
        await listener.task
    assert result.rounds[0].participants == ["a"]
    assert not result.rounds[0].learners["a"].failures


async def test_a_controller_that_was_started_again_takes_its_learners_up_again() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    signals = TerminationSignals(federation_rounds=1)
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        first = await stack.enter_async_context(Controller(ServerParams(), QUICK))
        params = first.client_params
        listener = await stack.enter_async_context(listening(params, learner, "a"))
        running = asyncio.create_task(DriverSession(params, [listener.params], signals).run())
        await learner.is_training.wait()
        await first.abort()
        running.cancel()
        await asyncio.wait([running])
        config = replace(QUICK, learners=[listener.params])
        async with Controller(ServerParams(port=params.port), config) as second:
            learner.is_training.clear()
            session = DriverSession(second, 1, signals)
            running = asyncio.create_task(session.run())
            await learner.is_training.wait()  # anew: the old task was not wanted any more
            learner.may_train.set()
            result = await running
        await listener.task
    assert result.rounds[0].participants == ["a"]
    assert len(learner.configs) == 1


async def test_started_again_on_its_port_it_takes_its_place_again_at_once() -> None:
    killed, again = AddsOnLoop(1), Adds(1)
    killed.may_train.clear()
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:  # a lease is 60 s
        async with listening(controller.client_params, killed, "a") as listener:
            session = DriverSession(controller, [listener.params], ROUND)
            running = asyncio.create_task(session.run())
            await killed.is_training.wait()
        port = ServerParams(port=listener.params.port)
        async with listening(controller.client_params, again, "a", server_params=port) as listener:
            result = await running
            await listener.task
    assert len(again.configs) == 1
    assert [record.is_published for record in result.rounds] == [False, True]
    assert result.rounds[0].learners["a"].failures[0].message == "the learner came back without it"


async def test_a_second_learner_under_one_name_waits(caplog: pytest.LogCaptureFixture) -> None:
    first = AddsOnLoop(1)
    first.may_train.clear()
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller, AsyncExitStack() as stack:
        config = [
            await stack.enter_async_context(listening(controller.client_params, x, "a")) for x in (first, Adds(1))
        ]
        session = DriverSession(controller, [listener.params for listener in config], ROUND)
        running = asyncio.create_task(session.run())
        await until(lambda: "learner 'a' is connected elsewhere; two learners need two ids" in caplog.text)
        running.cancel()
        await asyncio.wait([running])


async def test_an_evaluation_that_fails_is_reported() -> None:
    class Fragile(Adds):
        def evaluate(self, parameters: list[Array], config: Config) -> Metrics:
            raise RuntimeError("no test data")

    async with Controller(ServerParams()) as controller, listening(controller.client_params, Fragile(1)) as listener:
        session = DriverSession(controller, [listener.params], ROUND)
        running = asyncio.create_task(session.run())
        failed = [event async for event in session.events() if isinstance(event, TaskFailed)]
        await running
    assert [(event.task, event.message) for event in failed] == [("evaluate", "no test data")]


# --- what the port answers -------------------------------------------------------------------------------------------


@asynccontextmanager
async def joined(learner: Learner) -> AsyncIterator[Listener]:
    """A learner that has joined a controller, where nothing has begun."""
    async with Controller(ServerParams()) as controller, listening(controller.client_params, learner) as listener:
        controller._open.service.listeners.name([listener.params])
        await until(lambda: listener.is_connected)
        yield listener


async def test_its_weights_can_be_had_and_set_by_whoever_has_the_token() -> None:
    """Models larger than any message, both ways."""

    class Keeps(Adds):
        def __init__(self) -> None:
            super().__init__(1, 2**21)
            self.weights = super().get_weights()

        def get_weights(self) -> list[Array]:
            return self.weights

        def set_weights(self, parameters: list[Array]) -> None:
            self.weights = parameters

    async with joined(Keeps()) as listener:
        token, model = listener.token, Model.from_arrays(weights(7, 2**21))
        assert (await listener.dialled.get_model(token, 2**24)).arrays()[0].max() == 0.0
        await listener.dialled.set_initial_model(token, model)
        assert (await listener.dialled.get_model(token, 2**24)).arrays()[0].min() == 7.0


async def test_strangers_are_not_obeyed() -> None:
    learner = Adds(1)
    offer = TaskOffer(TaskId("x"), TaskKind.TRAIN, 1, MODEL, {})
    async with joined(learner) as listener:
        for token in (Token(""), Token("0" * 32), Token("\N{SNOWMAN}")):
            for message in (
                offer,
                replace(offer, kind=TaskKind.EVALUATE),
                Settled(TaskId("x")),
                Farewell("over", None),
            ):
                with pytest.raises(UnknownLearner):
                    await listener.dialled.deliver(token, 100, [message])
            with pytest.raises(UnknownLearner):
                await listener.dialled.get_model(token, 2**20)
            sent = token if token.isascii() else Token("another")  # gRPC's metadata are ASCII
            with pytest.raises(UnknownLearner):
                await listener.dialled.set_initial_model(sent, Model.from_arrays(weights(7, 2**20)))
            with pytest.raises(UnknownLearner):
                await listener.dialled.confirm_join(token)
        assert not listener.task.done()
    assert not learner.configs
    assert not learner.taken_over


async def test_before_it_has_joined_it_obeys_nobody() -> None:
    async with Controller(ServerParams()) as controller, listening(controller.client_params, Adds(1)) as listener:
        with pytest.raises(UnknownLearner):
            await listener.dialled.deliver(Token(""), 1, [Farewell("over", None)])
        with pytest.raises(UnknownLearner):
            await listener.dialled.get_model(Token(""), 2**20)


async def test_what_is_delivered_again_is_done_once() -> None:
    learner = AddsOnLoop(1)
    learner.may_train.clear()
    offer = TaskOffer(TaskId("x"), TaskKind.GET_WEIGHTS, 0, MODEL, {})
    async with joined(learner) as listener:
        client = listener.learner._link._conversation
        assert client is not None
        before = client._latest_number
        await asyncio.gather(*(listener.dialled.deliver(listener.token, before + 1, [offer]) for _ in range(3)))
        await listener.dialled.deliver(listener.token, before, [Farewell("of old", None)])
        assert client._latest_number == before + 1
        assert not listener.task.done()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Train", Farewell("over", None)),
        ("Evaluate", TaskOffer(TaskId("x"), TaskKind.TRAIN, 1, MODEL, {})),
        ("ShutDown", Settled(TaskId("x"))),
        ("Tell", TaskOffer(TaskId("x"), TaskKind.EVALUATE, 1, MODEL, {})),
    ],
)
async def test_each_method_takes_its_own_messages(method: str, message: ControllerMessage) -> None:
    async with joined(Adds(1)) as listener, grpc.aio.insecure_channel(listener.params.address) as channel:
        call = channel.unary_unary(f"/{LEARNER_SERVICE}/{method}")
        with pytest.raises(UnexpectedMessage, match=f"{method} does not carry"), ours("here"):
            await call(delivery((Token(listener.token), 1, [message])))


@pytest.mark.parametrize(
    "method", ["ConfirmJoin", "Train", "Evaluate", "Tell", "ShutDown", "GetModel", "SetInitialModel"]
)
async def test_garbage_is_answered(method: str) -> None:
    async with joined(Adds(1)) as listener, grpc.aio.insecure_channel(listener.params.address) as channel:
        call = channel.stream_unary(f"/{LEARNER_SERVICE}/{method}")(metadata=[(TOKEN, listener.token)])
        await call.write(b"\xff\xff\xff")
        with pytest.raises(CodecError), ours("here"):
            await call
        assert not listener.task.done()


async def test_a_model_that_is_too_large_damaged_or_stalls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.1)
    learner = Adds(1)
    model = Model.from_arrays(weights(7, 1000))
    async with joined(learner) as listener, grpc.aio.insecure_channel(listener.params.address) as channel:
        link = listener.learner._link
        assert link._joined is not None
        frames = list(frames_of(Header("global", model.manifest, 0), model))

        async def send(*chunks: Frame, ends: bool = True, token: str = listener.token) -> None:
            call = channel.stream_unary(f"/{LEARNER_SERVICE}/SetInitialModel")(metadata=[(TOKEN, token)])
            with ours("here"):
                for chunk in chunks:
                    await call.write(encode(chunk))
                if ends:
                    await call.done_writing()
                await call

        with pytest.raises(UnknownLearner):
            await send(*frames, token="wrong")
        for wrong in ([], frames[1:], frames[:-1], [frames[0], frames[0]]):
            with pytest.raises(CodecError):
                await send(*wrong)
        with pytest.raises(TransportError, match=r"nothing of the model came for 0\.1 s"):
            await send(*frames[:1], ends=False)
        link._joined = replace(link._joined, max_model_bytes=1000)
        with pytest.raises(TooLarge):
            await send(*frames)
        assert learner.taken_over == []


async def test_a_message_beyond_the_limit_is_refused_by_the_transport() -> None:
    async with joined(Adds(1)) as listener, grpc.aio.insecure_channel(listener.params.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{LEARNER_SERVICE}/Train")(bytes(MAX_FRAME_BYTES + 4096))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_standard_health_service_answers() -> None:
    async with joined(Adds(1)) as listener, grpc.aio.insecure_channel(listener.params.address) as channel:
        for service in ("", LEARNER_SERVICE):
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_weights_are_asked_for_while_it_trains_and_come_afterwards() -> None:
    class Alone(AddsOnLoop):
        async def train(self, parameters: list[Array], config: Config) -> TrainResult:  # type: ignore[override]
            result = await super().train(parameters, config)
            assert not asked.done()
            return result

    learner = Alone(1)
    learner.may_train.clear()
    async with Controller(ServerParams()) as controller, listening(controller.client_params, learner) as listener:
        running = asyncio.create_task(DriverSession(controller, [listener.params], ROUND).run())
        await learner.is_training.wait()
        asked = asyncio.create_task(listener.dialled.get_model(listener.token, 2**20))
        await until(lambda: connections_to(listener.params.port) == 1)
        learner.may_train.set()
        assert len((await asked).arrays()) == 2
        result = await running
    assert not result.rounds[0].learners[listener.params.address].failures


# --- running it ------------------------------------------------------------------------------------------------------


def test_app_has_the_signature_of_metisfl() -> None:
    async def serve() -> int:
        async with Controller(ServerParams()) as controller:
            params = controller.client_params
            with socket.create_server(("127.0.0.1", 0)) as free:
                own = ServerParams("127.0.0.1", free.getsockname()[1])
            thread = threading.Thread(target=lambda: app(Adds(1), params, own))
            thread.start()
            result = await DriverSession(controller, [own], ROUND).run()
            thread.join()
            return result.model_version or 0

    assert asyncio.run(serve()) == 1


async def test_cancelled_at_any_await_nothing_is_left() -> None:
    async with nothing_left_behind(), Controller(ServerParams()) as controller:
        with socket.create_server(("127.0.0.1", 0)) as free:
            own = ServerParams("127.0.0.1", free.getsockname()[1])
        controller._open.service.listeners.name([own.client_params()])
        for steps in range(0, 150, 3):
            taking_part = asyncio.create_task(run_learner(Adds(1), controller.client_params, own))
            for _ in range(steps):
                await asyncio.sleep(0)
            taking_part.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking_part
        taking_part = asyncio.create_task(run_learner(Adds(1), controller.client_params, own))
        await until(lambda: bool(controller.snapshot().connected))
        taking_part.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking_part


async def test_a_port_that_is_taken_is_named() -> None:
    async with Controller(ServerParams()) as controller:
        params = controller.client_params
        with pytest.raises(TransportError, match=f"{params.address}: cannot listen there"):
            await run_learner(Adds(1), params, ServerParams(port=params.port))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"server_params": ServerParams("0.0.0.0", 5)}, "server_params.hostname is '0.0.0.0'; .* public_address"),
        ({"server_params": ServerParams()}, "server_params.port is 0; .* public_address"),
        ({"server_params": ServerParams(), "public_address": "host"}, "public_address is 'host'; allowed: 'host:port'"),
        ({"server_params": ServerParams(), "public_address": "host:0"}, "port is 0"),
        ({"server_params": ClientParams()}, "server_params is ClientParams"),
        ({"public_address": "host:5"}, "public_address is 'host:5'; allowed: nothing, or give server_params"),
    ],
)
async def test_an_address_that_nobody_can_know_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        await run_learner(Adds(1), ClientParams(), **arguments)


# --- the conversation ------------------------------------------------------------------------------------------------


async def test_a_message_that_was_not_dealt_with_when_the_conversation_ended_is_to_be_sent_again() -> None:
    """Else a task could be acknowledged, and lost while the learner connects anew."""

    async def report(message: LearnerMessage) -> None:
        raise AssertionError(message)

    conversation = module._Conversation(Token("t"), "host:1", report)
    in_hand = asyncio.create_task(conversation.take(1, [Settled(TaskId("a"))]))
    assert await conversation.receive() == [Settled(TaskId("a"))]
    in_inbox = asyncio.create_task(conversation.take(2, [Settled(TaskId("b"))]))
    await asyncio.wait([in_inbox], timeout=0)
    conversation.end()
    for taken in (in_hand, in_inbox):
        with pytest.raises(ConnectionLost, match="host:1: the learner has ended this conversation"):
            await taken
    with pytest.raises(ConnectionLost):
        await conversation.take(3, [Settled(TaskId("c"))])


async def test_whoever_asks_for_the_next_message_has_dealt_with_the_one_before() -> None:
    said: list[LearnerMessage] = []

    async def report(message: LearnerMessage) -> None:
        said.append(message)

    conversation = module._Conversation(Token("t"), "host:1", report)
    taken = asyncio.create_task(conversation.take(1, [Settled(TaskId("a"))]))
    await conversation.receive()
    assert not taken.done()
    await conversation.send(Accept(TaskId("x")))
    await conversation.send(Heartbeat())
    await conversation.send(Evaluated(TaskId("x"), {}))
    await conversation.send(Failed(TaskId("y"), "ValueError", "no"))
    assert [await conversation.receive() for _ in range(3)] == [
        [Heartbeat()],
        [Settled(TaskId("x"))],
        [Settled(TaskId("y"))],
    ]
    await taken
    assert said == [Heartbeat(), Evaluated(TaskId("x"), {}), Failed(TaskId("y"), "ValueError", "no")]
