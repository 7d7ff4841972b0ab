"""What the gRPC border promises, over real connections on loopback."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import weakref
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import psutil
import pytest
import trustme
from federations import PATIENCE_S, Adds, nothing_left_behind, session_of, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from proxy import proxy_to
from puppet import FEDERATION, begun, puppet, weights

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    TransportError,
    run_learner,
)
from metisfl_async.codec.frame import MAX_FRAME_BYTES, encode
from metisfl_async.controller import conversations
from metisfl_async.core.errors import (
    CodecError,
    ConnectionLost,
    MetisError,
    Superseded,
    TooLarge,
    UnexpectedMessage,
    UnknownFederation,
    UnknownLearner,
    WrongProtocol,
)
from metisfl_async.core.federation.events import Event, LearnerJoined
from metisfl_async.core.ids import NO_FEDERATION, FederationId, LearnerId, Token
from metisfl_async.core.messages import PROTOCOL, JoinRequest, StartRequest, Status
from metisfl_async.core.model import Array, Model
from metisfl_async.learner.learner import Config, TrainResult
from metisfl_async.transport import convert, convert_driver, grpc_host
from metisfl_async.transport.convert import GO_AHEAD
from metisfl_async.transport.grpc_errors import ours, theirs
from metisfl_async.transport.grpc_link import GrpcLink
from metisfl_async.transport.grpc_options import SERVICE, TOKEN

ROUND = TerminationSignals(federation_rounds=1)
OTHER = FederationId("g")
WITH_MODEL = StartRequest(ROUND, 1, 0, None, FEDERATION, has_model=True)


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, Path]:
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    files = {name: tmp_path / f"{name}.pem" for name in ("root", "server", "key", "other")}
    authority.cert_pem.write_to_path(files["root"])
    other.cert_pem.write_to_path(files["other"])
    issued.cert_chain_pems[0].write_to_path(files["server"])
    issued.private_key_pem.write_to_path(files["key"])
    return files


async def test_tls_from_end_to_end(certificates: dict[str, Path]) -> None:
    params = ServerParams("localhost", 0, certificates["root"], certificates["server"], certificates["key"])
    async with nothing_left_behind():
        result = await DriverSession(Controller(params), [Adds(1)], ROUND).run()
    assert result.model_version == 1


@pytest.mark.parametrize("root", ["other", None])
async def test_a_client_that_does_not_trust_the_server_never_connects(
    certificates: dict[str, Path], root: str | None
) -> None:
    params = ServerParams("localhost", 0, certificates["root"], certificates["server"], certificates["key"])
    async with Controller(params) as controller:
        wrong = ClientParams("localhost", controller.client_params.port, certificates[root] if root else None)
        with pytest.raises(TransportError, match=f"localhost:{wrong.port}"):
            await run_learner(Adds(1), wrong, connect_timeout_secs=0.3)


async def test_nobody_there_is_a_transport_error_after_the_time_given() -> None:
    async with Controller(ServerParams()) as controller:
        params = controller.client_params
    async with nothing_left_behind():
        with pytest.raises(ConnectionLost, match=params.address):
            await run_learner(Adds(1), params, connect_timeout_secs=0.2)
        session = DriverSession(params, 1, ROUND, join_timeout_secs=0.2)
        with pytest.raises(ConnectionLost, match=params.address):
            await session.run()


async def test_a_connection_that_is_slow_to_be_made_is_waited_for() -> None:
    async with Controller(ServerParams()) as controller, proxy_to(controller) as proxy:
        proxy.answers_after_s = 0.5
        link = GrpcLink(proxy.params)
        try:
            await link.join(JoinRequest(LearnerId("far-away"), Token("")))
        finally:
            await link.close()
        assert proxy.connections == 1


async def test_nobody_is_sent_away_however_many_come_at_once() -> None:
    async with Controller(ServerParams()) as controller:
        link = GrpcLink(controller.client_params)
        try:
            async with asyncio.timeout(PATIENCE_S):
                request = convert.join_request(JoinRequest(LearnerId(""), Token("")))
                replies = await asyncio.gather(*(link._caller.ask("JoinFederation", request) for _ in range(1_500)))
        finally:
            await link.close()
    assert len({convert.from_join_reply(reply).learner_id for reply in replies}) == 1_500


async def test_a_second_controller_on_the_same_port_fails() -> None:
    async with Controller(ServerParams()) as controller:
        second = Controller(ServerParams(port=controller.client_params.port))
        with pytest.raises(TransportError, match="is the port taken"):
            await second.__aenter__()
        assert not second.is_open


async def test_a_name_whose_port_is_taken_at_one_address_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        controller = Controller(ServerParams(hostname="localhost", port=port))
        with pytest.raises(TransportError, match=f"localhost:{port}: .*the port is taken at 127.0.0.1:{port}"):
            await controller.__aenter__()
        assert not controller.is_open


async def test_a_port_is_free_again_once_its_controller_has_closed() -> None:
    async with Controller(ServerParams(hostname="localhost")) as controller:
        port = controller.client_params.port
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await channel.channel_ready()
    async with Controller(ServerParams(hostname="localhost", port=port)) as again:
        assert again.client_params.port == port


async def test_a_request_that_is_not_whole_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_host, "STALL_S", 0.05)
    async with Controller(ServerParams()) as controller, grpc.aio.insecure_channel(controller.address) as channel:
        for method in (f"{SERVICE}/GetStatus", f"{SERVICE}/FetchModel", "grpc.health.v1.Health/Check"):
            call = channel.stream_stream(f"/{method}")()
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
            assert "not whole within" in await call.details()


async def test_a_wrong_request_to_the_health_service_is_damaged() -> None:
    async with Controller(ServerParams()) as controller, grpc.aio.insecure_channel(controller.address) as channel:
        with pytest.raises(CodecError, match="Check"), ours(""):
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff")


async def test_the_standard_health_service_answers() -> None:
    async with Controller(ServerParams()) as controller, grpc.aio.insecure_channel(controller.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            reply = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def _services(controller: Controller) -> set[str]:
    async with grpc.aio.insecure_channel(controller.address) as channel:
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        reply = await call.read()
        await call.done_writing()
        return {service.name for service in reply.list_services_response.service}


async def test_reflection_is_off_unless_asked_for() -> None:
    async with Controller(ServerParams(), reflection=True) as controller:
        assert SERVICE in await _services(controller)
    async with Controller(ServerParams()) as controller:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _services(controller)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(ConfigError, match="reflection"):
        Controller(reflection=True)


async def test_a_server_of_another_kind_is_named() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    link = GrpcLink(ClientParams("127.0.0.1", port))
    with pytest.raises(UnexpectedMessage, match="does not serve metisfl_async"):
        await link.join(JoinRequest(LearnerId("a"), Token("")))
    await link.close()
    await server.stop(0)


@pytest.mark.parametrize(
    "method", ["JoinFederation", "LeaveFederation", "StartTraining", "StopTraining", "FetchModel", "Tasks", "TrainDone"]
)
async def test_garbage_is_answered_and_hurts_nobody(method: str) -> None:
    async with Controller(ServerParams()) as controller, grpc.aio.insecure_channel(controller.address) as channel:
        joined = await controller.connect().join(JoinRequest(LearnerId("a"), Token("")))
        call = channel.stream_unary(f"/{SERVICE}/{method}")(metadata=[(TOKEN, joined.token)])
        await call.write(b"\xff\xff\xff")
        with pytest.raises(CodecError), ours("here"):
            await call
        result = await DriverSession(controller, [Adds(1)], ROUND).run()
        assert result.model_version == 1


async def test_a_message_beyond_the_limit_is_refused_by_the_transport() -> None:
    async with Controller(ServerParams()) as controller, grpc.aio.insecure_channel(controller.address) as channel:
        join = channel.unary_unary(f"/{SERVICE}/JoinFederation")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await join(bytes(MAX_FRAME_BYTES + 4096))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("port", 0, "an integer"),
        TooLarge("header", "huge"),
        UnknownLearner("abc"),
        Superseded("a"),
        UnexpectedMessage("no"),
        UnknownFederation("f", ""),
        WrongProtocol("the driver", 1, 2),
    ],
)
async def test_our_errors_travel_with_their_facts(error: MetisError) -> None:
    async def raises(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async with theirs(context, "test"):
            raise error
        return b""

    with pytest.raises(type(error)) as caught:
        await _call(raises)
    assert caught.value.args == error.args


async def test_a_bug_is_logged_where_it_is_and_only_named_to_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    async def raises(_: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async with theirs(context, "test"):
            raise ZeroDivisionError("secret")
        return b""

    with pytest.raises(ConnectionLost, match="it failed in test") as caught:
        await _call(raises)
    assert "secret" not in str(caught.value)
    assert "ZeroDivisionError: secret" in caplog.text


async def _call(handler: object) -> bytes:
    server = grpc.aio.server()
    methods = {"M": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("S", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with ours("here"):
                return bytes(await channel.unary_unary("/S/M")(b""))
    finally:
        await server.stop(0)


async def test_an_initial_model_that_cannot_be_used_is_refused() -> None:
    config = ControllerConfig(max_model_bytes=1000)
    async with Controller(ServerParams(), config) as controller:
        link, mine = controller.connect(), FederationId("a")
        with pytest.raises(TooLarge, match="max_model_bytes=1000"):
            await link.set_initial_model(mine, Model.from_arrays(weights(0, 2**22)))  # the answer comes before its end
        with pytest.raises(UnexpectedMessage, match="not finite"):
            await link.set_initial_model(mine, Model.from_arrays(weights(np.nan)))
        with pytest.raises(UnexpectedMessage, match="no tensors"):
            await link.set_initial_model(mine, Model.from_arrays([]))
        with pytest.raises(UnknownFederation, match="'a' is meant, but this controller runs none"):
            await link.get_model(mine)
        with pytest.raises(UnexpectedMessage, match="the first weights are not here"):
            await link.start_training(StartRequest(ROUND, 1, 0, None, mine, has_model=True))
        await link.set_initial_model(mine, Model.from_arrays(weights(5)))
        await link.start_training(StartRequest(ROUND, 1, 0, None, mine, has_model=True))
        with pytest.raises(UnexpectedMessage, match="was started before"):
            await link.set_initial_model(mine, Model.from_arrays(weights(6)))
        assert (await link.get_model(mine)).arrays()[0][0] == 5.0
        await link.start_training(StartRequest(ROUND, 1, 0, None, mine))  # changes nothing
        with pytest.raises(UnexpectedMessage, match="federation a runs here; one ends before the next one starts"):
            await link.start_training(StartRequest(ROUND, 1, 0, None, FederationId("b")))
        await link.close()


async def test_a_driver_that_means_another_federation_is_refused_and_changes_nothing() -> None:
    async with Controller(ServerParams()) as controller:
        link = controller.connect()
        assert await link.status() == Status(NO_FEDERATION)
        await link.start_training(StartRequest(ROUND, 1, 0, None, FEDERATION))
        assert await link.status() == Status(FEDERATION, signals=ROUND)
        with pytest.raises(UnexpectedMessage, match="no global model yet"):
            await link.get_model(FEDERATION)
        for other in (OTHER, NO_FEDERATION):
            for call in (
                link.get_model(other),
                link.stop_training(other, "enough"),
                link.shut_down(other),
                link.shut_down(other, keep_running=True),
                anext(link.watch_events(other)),
                anext(link.get_logs(other)),
            ):
                with pytest.raises(UnknownFederation, match=f"this controller runs federation {FEDERATION}"):
                    await call
        assert await link.status() == Status(FEDERATION, signals=ROUND)
        await link.stop_training(FEDERATION, "enough")
        assert await link.status() == Status(FEDERATION, is_finished=True, signals=ROUND)
        await link.close()


async def test_a_driver_or_a_learner_of_another_protocol_is_refused_and_both_versions_are_named() -> None:
    async with Controller(ServerParams()) as controller:
        link = controller.connect()
        theirs_and_ours = f"speaks version 7 of the protocol, this side version {PROTOCOL}"
        with pytest.raises(WrongProtocol, match=f"the learner {theirs_and_ours}"):
            await link.join(JoinRequest(LearnerId("a"), Token(""), protocol=7))
        with pytest.raises(WrongProtocol, match=f"the driver {theirs_and_ours}"):
            await link.start_training(StartRequest(ROUND, 1, 0, None, FEDERATION, protocol=7))
        with pytest.raises(WrongProtocol, match="the learner speaks a version without a number"):
            await link.join(JoinRequest(LearnerId("a"), Token(""), protocol=0))
        assert not len(controller._open.registry)
        assert await link.status() == Status(NO_FEDERATION)
        await link.close()


@pytest.mark.slow
async def test_what_nobody_reads_is_bounded_by_the_flow_control() -> None:
    """A stream without room is not read: its sender is held back before the body, not buffered."""
    size = 2**20
    config = ControllerConfig(max_inflight_bytes=4 * size)
    async with Controller(ServerParams(), config) as controller:
        session = DriverSession(controller, 2, ROUND, initial_weights=weights(0, size))
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as a, puppet(controller, "b") as b:
            offer_a, offer_b = await a.task(), await b.task()
            first, second = a.upload(), b.upload()
            await first.write(encode(a.frames(offer_a, weights(1, size))[0]))
            assert await first.read() == GO_AHEAD
            await second.write(encode(b.frames(offer_b, weights(1, size))[0]))
            waiting = asyncio.create_task(second.read())
            assert not (await asyncio.wait([waiting], timeout=0.1))[0]
            first.cancel()  # its room is given back, and the next one may come
            assert await waiting == GO_AHEAD
        running.cancel()
        await asyncio.wait([running])


async def test_a_cancelled_remote_driver_ends_the_federation() -> None:
    async with Controller(ServerParams()) as controller:
        learner = asyncio.create_task(run_learner(Adds(1), controller.client_params, learner_id="a"))
        session = DriverSession(controller.client_params, 1, TerminationSignals(execution_cutoff_time_mins=10))
        running = asyncio.create_task(session.run())
        async for _ in session.events():
            break
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await controller.serve()
        await learner


async def test_learners_of_one_process_have_a_connection_each() -> None:
    async with Controller(ServerParams()) as controller, puppet(controller, "a") as a, puppet(controller, "b") as b:
        assert a.link._caller.channel is not b.link._caller.channel
        port = controller.client_params.port
        made = [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == port]
        assert len(made) == 2


async def test_the_file_of_a_certificate_may_go_once_a_learner_has_started(
    certificates: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations, "FEW", 0)  # the update has a connection of its own

    class Removes(Adds):
        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            certificates["root"].unlink()
            return parameters, {}

    params = ServerParams("localhost", 0, certificates["root"], certificates["server"], certificates["key"])
    session = DriverSession(Controller(params), [Removes(1, 2**19)], ROUND, initial_weights=weights(0, 2**19))
    assert len((await session.run()).rounds[0].participants) == 1


async def test_in_memory_and_over_grpc_give_the_same_bits() -> None:
    rng = np.random.default_rng(5)

    class Random(Adds):
        def train(self, parameters, config):  # type: ignore[no-untyped-def]
            noise = np.random.default_rng(self.number).standard_normal(self.size, np.float32)
            return [parameters[0] + noise, parameters[1]], {}

    start: list[Array] = [rng.standard_normal(1000, np.float32), np.array(1, np.int64)]
    finals = []
    for over_grpc in (False, True):
        controller = Controller(ServerParams() if over_grpc else None)
        session = DriverSession(controller, [Random(3, 1000)], ROUND, initial_weights=start)
        finals.append((await session.run()).final_model)
    assert finals[0] is not None
    assert finals[1] is not None
    np.testing.assert_array_equal(finals[0][0], finals[1][0])


async def test_metrics_and_metadata_arrive_as_sent() -> None:
    result = await session_of([Adds(2)], rounds=1, over_grpc=True).run()
    part = result.rounds[0].learners["learner-0"]
    assert part.train_metrics == {"loss": 0.5}
    assert part.train_metadata == {"num_training_examples": 2}


async def test_a_refusal_arrives_however_long_what_was_refused() -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        with pytest.raises(ConfigError, match="learner_id is 'xxx"):
            await run_learner(Adds(1), controller.client_params, learner_id="x" * 60_000)


@pytest.mark.slow
async def test_a_driver_is_told_of_more_learners_than_a_frame_holds() -> None:
    """RoundFinished and the log of a round have the metrics of all learners in one message."""

    class Measures(Adds):
        def train(self, parameters: list[Array], config: Config) -> TrainResult:
            return parameters, {f"{name:0100d}": 0.5 for name in range(480)}

    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        learners = [asyncio.create_task(run_learner(Measures(1), controller.client_params)) for _ in range(90)]
        result = await DriverSession(controller, 90, ROUND).run()
        await asyncio.gather(*learners)
    assert sum(len(part.train_metrics) for part in result.rounds[0].learners.values()) == 90 * 480


@pytest.mark.parametrize(("method", "is_taken"), [("WatchEvents", True), ("GetLogs", True), ("JoinFederation", False)])
async def test_only_news_for_a_driver_may_be_larger_than_a_frame(method: str, is_taken: bool) -> None:
    async def answer(_: bytes, __: grpc.aio.ServicerContext) -> bytes:
        return bytes(2 * MAX_FRAME_BYTES)

    server = grpc.aio.server(options=[("grpc.max_send_message_length", -1)])
    methods = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    link = GrpcLink(ClientParams("127.0.0.1", server.add_insecure_port("127.0.0.1:0")))
    await server.start()
    if is_taken:
        assert len(await link._caller.ask(method, b"")) == 2 * MAX_FRAME_BYTES
    else:
        with pytest.raises(ConnectionLost, match="larger than max"):
            await link._caller.ask(method, b"")
    await link.close()
    await server.stop(0)


async def test_a_driver_is_told_together_of_what_happened_meanwhile() -> None:
    happened: list[Event] = [LearnerJoined(str(number), number) for number in range(500)]
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        link = GrpcLink(controller.client_params)
        await begun(link, Model.from_arrays(weights(0)))
        log, run = controller._open.job.events, controller._open.job.run_id
        request = convert_driver.watch((FEDERATION, len(log.kept()), run))
        call = link._caller.channel.unary_stream(f"/{SERVICE}/WatchEvents")(request)
        told = []
        for event in happened:
            log.append(event)
        log.close()
        while (message := await call.read()) is not grpc.aio.EOF:
            told.append(convert_driver.from_events(message))
        assert [event for events in told for event in events] == happened
        assert [len(events) for events in told] == [256, 244]
        await link.close()


@pytest.mark.slow
async def test_who_waits_for_a_turn_gets_the_model_of_when_it_comes_and_keeps_none() -> None:
    """Without rounds, models would pile up in memory behind a slow reader."""
    config = ControllerConfig(scheduler="Asynchronous", evaluate_every=0, max_downloads=1)
    async with Controller(ServerParams(), config) as controller:
        signals = TerminationSignals(global_updates=3)
        session = DriverSession(controller, 1, signals, initial_weights=weights(0, 2**20))
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as learner, puppet(controller, "b") as other:
            offer = await learner.task()
            request = convert.fetch_model((learner.token, offer.model))
            fetch = learner.link._caller.channel.unary_stream(f"/{SERVICE}/FetchModel")
            slow = fetch(request)
            await slow.read()
            waiting = asyncio.create_task(other.link.fetch_model(other.token, offer.model, 2**30, None, lambda: None))
            await until(lambda: controller.snapshot().downloads_waiting == 1)
            first = weakref.ref(controller._open.job.published())
            assert (await learner.push(learner.frames(offer, weights(1, 2**20)))).is_taken
            await learner.task()
            assert not waiting.done()
            slow.cancel()
            assert (await waiting).version == 1
            await until(lambda: gc.collect() >= 0 and first() is None)
        running.cancel()
        await asyncio.wait([running])


async def test_chunks_of_the_old_model_are_given_up_when_the_next_is_made() -> None:
    async with Controller(ServerParams(), ControllerConfig(evaluate_every=0)) as controller:
        session = DriverSession(controller, 1, ROUND, initial_weights=weights(0))
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as learner:
            offer = await learner.task()
            old = controller._open.job.published()
            await learner.link.fetch_model(learner.token, offer.model, 2**30, None, lambda: None)
            assert old._chunks
            assert (await learner.push(learner.frames(offer, weights(1)))).is_taken
            await until(lambda: controller._open.job.published() is not old)
            assert not old._chunks
        running.cancel()
        await asyncio.wait([running])


async def test_a_reader_that_stalls_does_not_keep_an_old_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_host, "STALL_S", 0.1)
    size = 2**21
    async with Controller(ServerParams(), ControllerConfig(evaluate_every=0)) as controller:
        signals = TerminationSignals(federation_rounds=2)
        session = DriverSession(controller, 1, signals, initial_weights=weights(0, size))
        running = asyncio.create_task(session.run())
        async with puppet(controller, "a") as learner:
            offer = await learner.task()
            old = weakref.ref(controller._open.job.published())
            request = convert.fetch_model((learner.token, offer.model))
            stalled = learner.link._caller.channel.unary_stream(f"/{SERVICE}/FetchModel")(request)
            await stalled.read()
            assert (await learner.push(learner.frames(offer, weights(1, size)))).is_taken
            await learner.task()
            await until(lambda: gc.collect() >= 0 and old() is None)
            stalled.cancel()
            await learner.link.leave(learner.token)
        running.cancel()
        await asyncio.wait([running])


async def test_a_caller_that_goes_away_in_the_middle_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    async with Controller(ServerParams()) as controller:
        link = controller.connect()
        await begun(link, Model.from_arrays(weights(0, 2**22)))
        request = convert_driver.federation(FEDERATION)
        for _ in range(5):
            async with grpc.aio.insecure_channel(controller.address) as channel:
                await channel.unary_stream(f"/{SERVICE}/GetModel")(request).read()
        await link.get_model(FEDERATION)
        await link.close()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_address_of_ipv6_reads_as_everywhere() -> None:
    told = "last error: UNKNOWN: ipv6:%5B::1%5D:50051: Connection refused"
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=told)
    with (
        pytest.raises(ConnectionLost, match=r"UNKNOWN: ipv6:\[::1\]:50051: Connection refused"),
        ours("localhost:50051"),
    ):
        raise error
