"""Where TLS is why nobody answers, the error says whose file is wrong."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from federations import PATIENCE_S, Adds, nothing_left_behind, until

from metisfl_async import ClientParams, Controller, ServerParams, run_learner
from metisfl_async.cli.certificates import make_certificates
from metisfl_async.core.access import Identity, Role
from metisfl_async.core.errors import ConnectionLost, TlsFailure
from metisfl_async.transport.grpc_learner import DialledLearner, GrpcLearnerServer
from metisfl_async.transport.grpc_link import GrpcLink

SITE = Identity(Role.LEARNER, "site-1")


def certificates(folder: Path, *, days: int = 30, of: Path | None = None) -> Path:
    """Make a server's and a learner's files, by a new authority or by that of another folder."""
    folder.mkdir()
    for name in ("ca.pem", "ca.key") if of else ():
        (folder / name).write_bytes((of / name).read_bytes() if of else b"")
    make_certificates(folder, ["server"], [], days, identities=[SITE], force=False)
    return folder


def serving(folder: Path, *, asks: bool = False) -> ServerParams:
    files = (folder / "ca.pem", folder / "server.pem", folder / "server.key")
    return ServerParams("127.0.0.1", 0, *files, require_client_certificate=asks)


def shown(params: ClientParams, folder: Path) -> ClientParams:
    return replace(params, certificate=folder / "site-1.pem", private_key=folder / "site-1.key")


async def failure(params: ClientParams) -> ConnectionLost:
    link = GrpcLink(params)
    try:
        with pytest.raises(ConnectionLost) as caught:
            await link.status()
    finally:
        await link.close()
    assert caught.value.address == params.address
    return caught.value.with_traceback(None)


async def refusal(params: ClientParams) -> str:
    error = await failure(params)
    assert isinstance(error, TlsFailure)
    return error.reason


async def test_the_servers_certificate_is_of_another_authority(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(serving(ours)) as controller:
        wrong = replace(controller.client_params, root_certificate=others / "ca.pem")
        reason = await refusal(wrong)
        assert reason.startswith(f"the server's server_certificate does not fit root_certificate={others / 'ca.pem'}: ")
        in_bytes = replace(wrong, root_certificate=(others / "ca.pem").read_bytes())
        assert "does not fit root_certificate=what was given: " in await refusal(in_bytes)


async def test_the_servers_certificate_has_expired(tmp_path: Path) -> None:
    ours = certificates(tmp_path / "ours")
    expired = certificates(tmp_path / "expired", days=-2, of=ours)
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(serving(expired)) as controller:
        assert (await refusal(controller.client_params)).endswith(": certificate has expired")


async def test_the_servers_certificate_is_another_hosts(tmp_path: Path) -> None:
    params = replace(serving(certificates(tmp_path / "ours")), hostname="127.0.0.2")
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(params) as controller:
        assert (await refusal(controller.client_params)).endswith(": it is not for 127.0.0.2")


async def test_a_server_that_asks_for_a_certificate_is_shown_none(tmp_path: Path) -> None:
    ours = certificates(tmp_path / "ours")
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(serving(ours, asks=True)) as controller:
        assert "asks for a certificate; give your" in await refusal(controller.client_params)


async def test_the_servers_side_refuses_a_certificate(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    expired = certificates(tmp_path / "expired", days=-2, of=ours)
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(serving(ours, asks=True)) as controller:
        params = controller.client_params
        refused = "the server refuses certificate={}: {}".format
        assert await refusal(shown(params, expired)) == refused(expired / "site-1.pem", "certificate has expired")
        reason = "unable to get local issuer certificate"
        assert await refusal(shown(params, others)) == refused(others / "site-1.pem", reason)


async def test_a_server_may_trust_others_than_its_clients_do(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    server_params = replace(serving(ours, asks=True), client_root_certificate=others / "ca.pem")
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(server_params) as controller:
        reason = await refusal(shown(controller.client_params, ours))
        assert reason.endswith("/site-1.pem: its client_root_certificate must hold who issued that")


async def test_of_a_certificate_in_bytes_there_is_grpcs_word_alone(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(serving(ours, asks=True)) as controller:
        certificate, key = ((others / f"site-1.{kind}").read_bytes() for kind in ("pem", "key"))
        params = replace(controller.client_params, certificate=certificate, private_key=key)
        assert type(await failure(params)) is ConnectionLost


async def test_one_side_speaks_without_tls(tmp_path: Path) -> None:
    ours = certificates(tmp_path / "ours")
    async with asyncio.timeout(PATIENCE_S):
        async with Controller(serving(ours)) as controller:
            params = replace(controller.client_params, root_certificate=None)
            assert await refusal(params) == "the server speaks TLS; give its root_certificate"
        async with Controller(ServerParams("127.0.0.1", 0)) as controller:
            params = replace(controller.client_params, root_certificate=ours / "ca.pem")
            assert (await refusal(params)).startswith("the server speaks without TLS; give no root_certificate, or")


async def test_a_learner_waits_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    async with asyncio.timeout(PATIENCE_S), nothing_left_behind(), Controller(serving(ours)) as controller:
        wrong = replace(controller.client_params, root_certificate=others / "ca.pem")
        with caplog.at_level(logging.WARNING):
            learner = asyncio.create_task(run_learner(Adds(1), wrong))
            await until(lambda: any("does not fit root_certificate" in record.message for record in caplog.records))
        learner.cancel()
        await asyncio.wait([learner])


async def test_a_learner_that_listens_is_dialled_with_the_wrong_authority(tmp_path: Path) -> None:
    ours, others = certificates(tmp_path / "ours"), certificates(tmp_path / "others")
    async with asyncio.timeout(PATIENCE_S):
        server = GrpcLearnerServer(None, serving(ours))  # type: ignore[arg-type]  # nobody gets so far
        await server.start()
        dialled = DialledLearner(replace(serving(ours).client_params(server.port), root_certificate=others / "ca.pem"))
        with pytest.raises(TlsFailure, match="does not fit root_certificate"):
            await dialled.confirm_join("secret")
        await server.stop(0.0)
