"""Nobody gets in who does not belong: every method is tried with every wrong credential."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias
from unittest.mock import Mock

import grpc
import grpc.aio
import pytest
from cryptography import x509
from federations import PATIENCE_S, Adds, AddsOnLoop, until
from puppet import weights

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.cli.certificates import make_certificates
from metisfl_async.cli.tokens import add_tokens
from metisfl_async.core.access import MAY_CALL, Identity, Role
from metisfl_async.core.errors import AccessDenied, ConnectionLost, UnexpectedMessage, UnknownLearner
from metisfl_async.core.federation.events import LearnerLeft
from metisfl_async.core.ids import LearnerId, Token
from metisfl_async.core.messages import Hello, JoinRequest
from metisfl_async.transport.grpc_access import MOST_CALLS, MOST_PAUSE_S, OFTEN_S, REFUSALS_PER_S, Access, Refusals
from metisfl_async.transport.grpc_caller import GrpcCaller
from metisfl_async.transport.grpc_host import Method
from metisfl_async.transport.grpc_link import GrpcLink
from metisfl_async.transport.grpc_options import SERVICE

Codes: TypeAlias = asyncio.Future[grpc.StatusCode]
ROUND = TerminationSignals(federation_rounds=1)
WHO = [Identity(role, f"a-{role}") for role in Role] + [Identity(Role.LEARNER, "site-2")]


class Door:
    """A controller's files, and what each party shows."""

    def __init__(self, folder: Path, *, tokens: bool) -> None:
        self.folder, self.tokens = folder, folder / "tokens.txt"
        make_certificates(folder, ["server"], [], 30, identities=[] if tokens else WHO, force=False)
        self.secrets = dict(add_tokens(self.tokens, WHO)) if tokens else {}
        self.revoked = folder / "revoked.txt"
        self.revoked.write_text("")
        asks: dict[str, object] = (
            {"tokens": self.tokens} if tokens else {"require_client_certificate": True, "revoked": self.revoked}
        )
        files = (folder / "ca.pem", folder / "server.pem", folder / "server.key")
        self.server_params = ServerParams("127.0.0.1", 0, *files, **asks)  # type: ignore[arg-type]

    def shown(self, params: ClientParams, who: Identity) -> ClientParams:
        if self.secrets:
            return replace(params, token=self.secrets[who])
        return replace(params, certificate=self.folder / f"{who.name}.pem", private_key=self.folder / f"{who.name}.key")

    def revoke(self, who: Identity) -> None:
        if self.secrets:
            lines = [line for line in self.tokens.read_text().splitlines() if not line.startswith(f"{who} ")]
            self.tokens.write_text("\n".join(lines) + "\n")
        else:
            certificate = x509.load_pem_x509_certificate((self.folder / f"{who.name}.pem").read_bytes())
            self.revoked.write_text(f"{certificate.serial_number:x}\n")


@pytest.fixture(params=["certificates", "tokens"])
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Door:
    return Door(tmp_path, tokens=request.param == "tokens")


def who(role: Role) -> Identity:
    return Identity(role, f"a-{role}")


@asynccontextmanager
async def calling(params: ClientParams, service: str) -> AsyncIterator[Callable[[str], Codes]]:
    """Give what calls a method with an empty message, and says how the call ended."""
    caller = GrpcCaller(params, service)

    async def call(method: str) -> grpc.StatusCode:
        while (code := await call_once(method)) is grpc.StatusCode.INTERNAL:
            pass  # gRPC's client gave up a write that met the answer
        return code

    async def call_once(method: str) -> grpc.StatusCode:
        under_way = caller.channel.stream_stream(f"/{service}/{method}")(metadata=caller.metadata, timeout=10)
        try:
            await under_way.write(b"")
            await under_way.done_writing()
            await under_way.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        code: grpc.StatusCode = await under_way.code()
        return code

    try:
        yield lambda method: asyncio.ensure_future(call(method))
    finally:
        await caller.close()


OPEN = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize("wrong", ["nothing", "another authority", "expired", "unknown token", "revoked"])
async def test_no_method_is_served_to_whoever_does_not_belong(door: Door, wrong: str, tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params, reflection=True) as controller:
        params = controller.client_params
        if wrong in ("another authority", "expired"):
            if door.secrets:
                return  # those are certificates
            folder = tmp_path / "others"
            if wrong == "expired":
                folder.mkdir()
                for name in ("ca.pem", "ca.key"):
                    (folder / name).write_bytes((door.folder / name).read_bytes())
            days = -2 if wrong == "expired" else 30
            make_certificates(folder, [], [], days, identities=[who(Role.DRIVER)], force=False)
            shown = replace(params, certificate=folder / "a-driver.pem", private_key=folder / "a-driver.key")
        elif wrong == "unknown token":
            shown = replace(params, token="mfl_" + "x" * 43)
        elif wrong == "revoked":
            shown = door.shown(params, who(Role.DRIVER))
            link = GrpcLink(shown)
            await link.status()
            await link.close()
            door.revoke(who(Role.DRIVER))
            await until(lambda: not _is_in(controller, door))
        else:
            shown = params
        for service, methods in MAY_CALL.items():
            async with calling(shown, service) as call:
                codes = {method: await call(method) for method in methods}
            if service == "metisfl_async.v1.Learner":
                continue  # that is served elsewhere
            refused = OPEN if service != "grpc.health.v1.Health" else (*OPEN, grpc.StatusCode.UNIMPLEMENTED)
            assert all(code in refused for code in codes.values()), codes


def _is_in(controller: Controller, door: Door) -> bool:
    server = controller._open.server
    assert server is not None
    access = server._access
    return bool(access._tokens.value.owner(_digest(door)) if door.secrets else not access._revoked.value)


def _digest(door: Door) -> str:
    from metisfl_async.core.credentials import digest_of

    return digest_of(door.secrets[who(Role.DRIVER)])


@pytest.mark.parametrize("role", Role)
async def test_each_role_is_served_what_the_table_says_and_nothing_else(door: Door, role: Role) -> None:
    service = "metisfl_async.v1.Controller"
    async with (
        asyncio.timeout(PATIENCE_S),
        Controller(door.server_params) as controller,
        calling(door.shown(controller.client_params, who(role)), service) as call,
    ):
        codes = {method: await call(method) for method in MAY_CALL[service]}
    refused = {method for method, code in codes.items() if code is grpc.StatusCode.UNAUTHENTICATED}
    assert refused == {method for method, roles in MAY_CALL[service].items() if role not in roles}, codes


async def test_a_federation_runs_between_those_who_belong(door: Door) -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params) as controller:
        params = controller.client_params
        learners = [
            asyncio.create_task(run_learner(Adds(number), door.shown(params, Identity(Role.LEARNER, name))))
            for number, name in ((1, "a-learner"), (2, "site-2"))
        ]
        result = await DriverSession(door.shown(params, who(Role.DRIVER)), 2, ROUND, initial_weights=weights(0)).run()
        await asyncio.gather(*learners)
        await controller.serve()
    assert result.rounds[0].participants == ["a-learner", "site-2"]  # their ids are those of their credentials


async def test_a_learner_is_nobody_else(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "metisfl_async.audit")
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params) as controller:
        first, second = (
            GrpcLink(door.shown(controller.client_params, Identity(Role.LEARNER, name)))
            for name in ("a-learner", "site-2")
        )
        with pytest.raises(AccessDenied):
            await second.join(JoinRequest(LearnerId("a-learner"), Token("")))
        line = json.loads(caplog.messages[-1])
        said = (line["what"], line["who"], line["method"], line["why"])
        assert said == ("refused", "learner/site-2", "JoinFederation", "the learner_id that it says is not its own")
        reply = await first.join(JoinRequest(LearnerId(""), Token("")))
        assert reply.learner_id == "a-learner"
        for call in (second.leave(reply.token), second.report(reply.token, Hello(reply.token))):
            with pytest.raises(UnknownLearner):
                await call
        async with second.tasks() as stream:
            await stream.send(Hello(reply.token))
            with pytest.raises(UnknownLearner):
                await stream.receive()
        async with first.tasks() as stream:
            await stream.send(Hello(reply.token))
            await stream.receive()
            again = await first.join(JoinRequest(LearnerId("a-learner"), Token("")))  # it was started again
            assert again.incarnation == 2
        for link in (first, second):
            await link.close()


async def test_a_session_in_the_controllers_own_process_needs_no_credentials(door: Door) -> None:
    async with asyncio.timeout(PATIENCE_S):
        result = await DriverSession(Controller(door.server_params), [Adds(1), Adds(2)], ROUND).run()
    assert result.rounds[0].participants == ["learner-0", "learner-1"]


async def test_whoever_is_revoked_is_out_at_once_and_the_record_says_so(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "metisfl_async.audit")
    config = ControllerConfig(min_learners=1, lease_secs=PATIENCE_S)
    slow = AddsOnLoop(1)
    slow.may_train.clear()
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params, config) as controller:
        params = controller.client_params
        out = asyncio.create_task(run_learner(slow, door.shown(params, Identity(Role.LEARNER, "site-2"))))
        stays = asyncio.create_task(run_learner(Adds(2), door.shown(params, who(Role.LEARNER))))
        session = DriverSession(door.shown(params, who(Role.DRIVER)), 2, ROUND, initial_weights=weights(0))
        running = asyncio.create_task(session.run())
        await slow.is_training.wait()
        door.revoke(Identity(Role.LEARNER, "site-2"))
        with pytest.raises(AccessDenied):
            await out
        result = await running
        await stays
        left = [event async for event in session.events() if isinstance(event, LearnerLeft)]
    assert result.rounds[0].participants == ["a-learner"]
    (failure,) = result.rounds[0].learners["site-2"].failures
    assert failure.message == "its certificate or token was revoked"
    assert [event.reason for event in left if event.learner == "site-2"] == ["its certificate or token was revoked"]
    lines = [json.loads(record.message) for record in caplog.records if record.name == "metisfl_async.audit"]
    assert {"joined", "started", "revoked", "shut down"} <= {line["what"] for line in lines}
    assert not any(secret in caplog.text for secret in door.secrets.values())


async def test_a_file_that_says_nothing_clear_leaves_everybody_as_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(tmp_path, tokens=True)
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params) as controller:
        link = GrpcLink(door.shown(controller.client_params, who(Role.DRIVER)))
        await link.status()
        door.tokens.write_text("nonsense\n")
        await until(lambda: "what it said before stays" in caplog.text)
        await link.status()
        door.tokens.write_text("")
        await until(lambda: not _is_in(controller, door))
        with pytest.raises(AccessDenied):
            await link.status()
        await link.close()


async def test_a_stranger_is_written_down_once_a_minute(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "metisfl_async.audit")
    door = Door(tmp_path, tokens=True)
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params) as controller:
        link = GrpcLink(controller.client_params)
        for _ in range(20):
            with pytest.raises(AccessDenied):
                await link.status()
        await link.close()
    lines = [json.loads(record.message) for record in caplog.records if record.name == "metisfl_async.audit"]
    (line,) = lines
    assert (line["what"], line["who"], line["method"]) == ("refused", "", "GetStatus")


async def test_a_clear_connection_to_a_tls_port_is_no_way_in(door: Door) -> None:
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params) as controller:
        link = GrpcLink(ClientParams("127.0.0.1", controller.client_params.port))
        with pytest.raises(ConnectionLost):
            await link.status()
        await link.close()


class Gone:
    """The context of a call whose caller is gone."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def invocation_metadata(self) -> None:
        return None

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise grpc.aio.InternalError("the call is over")


async def test_whoever_is_refused_and_gone_before_it_hears_so_makes_no_error(tmp_path: Path) -> None:
    async def never(*_: object) -> None:
        raise AssertionError

    access = Access(SERVICE, Door(tmp_path, tokens=True).server_params, lambda _: None)
    handler = Method.unary_stream(never).guarded(access, "WatchEvents")
    assert await handler.stream_stream(None, Gone()) == b""


class Known(Gone):
    """The context of a call with a token, whose caller hears the answer."""

    def __init__(self, token: str) -> None:
        self._token = token

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:  # type: ignore[override]
        return (("authorization", f"Bearer {self._token}"),)

    def add_done_callback(self, callback: Callable[[object], None]) -> None:
        callback(self)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise grpc.aio.AbortError


async def test_whoever_has_a_credential_waits_too_when_it_is_refused_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(*_: object) -> None:
        raise UnexpectedMessage("not now")

    async def serves(*_: object) -> None:
        """Refuse nobody."""

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    door = Door(tmp_path, tokens=True)
    access, pauses = Access(SERVICE, door.server_params, lambda _: None), list[float]()
    monkeypatch.setattr(asyncio, "sleep", sleep)
    learner, other = (Known(door.secrets[Identity(Role.LEARNER, name)]) for name in ("a-learner", "site-2"))
    tasks, fetches = (Method.stream_stream(run).guarded(access, "Tasks") for run in (refuses, serves))
    for _ in range(3):
        with pytest.raises(grpc.aio.AbortError):
            await tasks.stream_stream(None, learner)
    with pytest.raises(grpc.aio.AbortError):  # its role may not
        await Method.stream_stream(serves).guarded(access, "StartTraining").stream_stream(None, learner)
    assert pauses[0] == 0.0 < pauses[1] < pauses[2] < pauses[3]
    with pytest.raises(grpc.aio.AbortError):
        await tasks.stream_stream(None, other)
    assert pauses[4:] == [0.0]  # the other one is not held back
    await fetches.stream_stream(None, learner)
    assert len(pauses) == 5  # who is not refused does not wait


async def test_who_is_refused_again_and_again_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuses(*_: object) -> None:
        raise UnexpectedMessage("not now")

    async def sleep(_: float) -> None:
        """Take no time."""

    caplog.set_level(logging.INFO, "metisfl_async.audit")
    door = Door(tmp_path, tokens=True)
    handler = Method.stream_stream(refuses).guarded(Access(SERVICE, door.server_params, lambda _: None), "Tasks")
    monkeypatch.setattr(asyncio, "sleep", sleep)
    for pause_s in (0.0, OFTEN_S, 2 * OFTEN_S, 3 * OFTEN_S):
        monkeypatch.setattr(Refusals, "pause_s", Mock(return_value=pause_s))
        with pytest.raises(grpc.aio.AbortError):
            await handler.stream_stream(None, Known(door.secrets[who(Role.LEARNER)]))
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "metisfl_async.audit"]
    assert (line["what"], line["who"], line["why"]) == ("refused", "learner/a-learner", "again and again")


async def test_the_calls_of_one_party_are_bounded_and_count_for_as_long_as_they_are_open(tmp_path: Path) -> None:
    door = Door(tmp_path, tokens=True)
    async with asyncio.timeout(PATIENCE_S), Controller(door.server_params) as controller:
        caller = GrpcCaller(door.shown(controller.client_params, who(Role.LEARNER)), SERVICE)
        status = GrpcLink(door.shown(controller.client_params, who(Role.DRIVER)))

        def tasks() -> grpc.aio.StreamStreamCall:
            return caller.channel.stream_stream(caller.path("Tasks"))(metadata=caller.metadata)

        calls = [tasks() for _ in range(MOST_CALLS)]
        server = controller._open.server
        assert server is not None
        await until(lambda: server._access._open.total() == MOST_CALLS)
        assert await tasks().code() is grpc.StatusCode.UNAVAILABLE
        assert server._access._open.total() == MOST_CALLS
        for _ in range(2 * MOST_CALLS):
            await status.status()  # others are not held up, and what has been answered does not count
        calls.pop().cancel()
        await until(lambda: server._access._open.total() == MOST_CALLS - 1)
        calls.append(tasks())
        await until(lambda: server._access._open.total() == MOST_CALLS)
        for call in calls:
            call.cancel()
        await until(lambda: not server._access._open)
        await caller.close()
        await status.close()


def test_refusals_come_one_after_another_and_none_waits_long() -> None:
    refusals = Refusals()
    at_once = [refusals.pause_s(5.0) for _ in range(300)]
    assert at_once[:3] == pytest.approx([0.0, 1 / REFUSALS_PER_S, 2 / REFUSALS_PER_S])
    assert max(at_once) <= MOST_PAUSE_S
    due = Counter(round(pause * REFUSALS_PER_S) % round(MOST_PAUSE_S * REFUSALS_PER_S) for pause in at_once)
    assert set(due.values()) == {300 // round(MOST_PAUSE_S * REFUSALS_PER_S)}  # no moment has more of them than another
    assert refusals.pause_s(60.0) == 0.0
