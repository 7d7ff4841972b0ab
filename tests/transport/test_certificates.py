"""New certificates in the same files serve new connections, without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from federations import PATIENCE_S

from metisfl_async import ClientParams, ConfigError, Controller, ServerParams
from metisfl_async.core.errors import ConnectionLost
from metisfl_async.core.ids import LearnerId, Token
from metisfl_async.core.messages import JoinRequest
from metisfl_async.transport.grpc_certificates import FreshParams
from metisfl_async.transport.grpc_learner import DialledLearner
from metisfl_async.transport.grpc_link import GrpcLink

ANYONE = JoinRequest(LearnerId(""), Token(""))


class Files:
    """The certificate files of a server, and of those who dial it."""

    def __init__(self, folder: Path) -> None:
        self.root, self.certificate, self.key = (folder / f"{name}.pem" for name in ("root", "server", "key"))
        self.issue(trustme.CA())

    def issue(self, authority: trustme.CA) -> None:
        """Write a new certificate of an authority."""
        issued = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(self.root)
        issued.cert_chain_pems[0].write_to_path(self.certificate)
        issued.private_key_pem.write_to_path(self.key)

    @property
    def server_params(self) -> ServerParams:
        return ServerParams("localhost", 0, self.root, self.certificate, self.key)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@asynccontextmanager
async def link_to(controller: Controller, root: bytes | None = None) -> AsyncIterator[GrpcLink]:
    params = controller.client_params
    link = GrpcLink(ClientParams(params.hostname, params.port, root) if root else params)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield link
    finally:
        await link.close()


async def test_a_new_certificate_serves_new_connections_and_the_old_ones_stay(files: Files) -> None:
    async with Controller(files.server_params) as controller, link_to(controller) as before:
        old_root = files.root.read_bytes()
        await before.join(ANYONE)
        files.issue(trustme.CA())
        async with link_to(controller) as after:
            await after.join(ANYONE)
        async with link_to(controller, old_root) as late:
            with pytest.raises(ConnectionLost):
                await late.join(ANYONE)
        assert not (await before.status()).is_finished  # over the connection that it has


@pytest.mark.parametrize("damage", ["garbage", "another key", "gone"])
async def test_a_pair_that_is_no_good_changes_nothing_and_is_told_once(
    files: Files, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Controller(files.server_params) as controller:
        match damage:
            case "garbage":
                files.certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
            case "another key":
                trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(files.key)
            case "gone":
                files.key.unlink()
        for _ in range(3):
            async with link_to(controller) as link:
                await link.join(ANYONE)
        told = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(told) == 1
        assert str(files.certificate) in told[0].getMessage()
        assert str(files.key) in told[0].getMessage()
        files.issue(trustme.CA())
        async with link_to(controller) as link:
            await link.join(ANYONE)


async def test_a_server_that_begins_with_a_pair_that_is_no_good_says_which(files: Files) -> None:
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(files.key)
    with pytest.raises(ConfigError, match=rf"server_certificate.*{files.certificate.name}.*{files.key.name}"):
        await Controller(files.server_params).__aenter__()


async def test_who_dials_again_trusts_what_the_root_file_says_now(files: Files) -> None:
    async with Controller(files.server_params) as controller, link_to(controller) as link:
        await link.join(ANYONE)
        files.issue(trustme.CA())
        await link.join(ANYONE)


async def test_a_controller_that_dials_a_learner_trusts_what_the_root_file_says_now(files: Files) -> None:
    params = files.server_params
    dialled = DialledLearner(params.client_params(1))
    new = trustme.CA()
    files.issue(new)
    assert dialled._params.read().root_certificate == new.cert_pem.bytes()


@pytest.mark.parametrize("damage", ["garbage", "gone"])
async def test_a_root_file_that_is_no_good_leaves_the_one_before(files: Files, damage: str) -> None:
    fresh, root = FreshParams(ClientParams("localhost", 1, files.root)), files.root.read_bytes()
    if damage == "garbage":
        files.root.write_bytes(b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    else:
        files.root.unlink()
    assert fresh.read().root_certificate == root
    files.issue(trustme.CA())
    assert fresh.read().root_certificate == files.root.read_bytes() != root


def test_a_root_certificate_that_is_no_good_from_the_start_is_refused() -> None:
    garbage = b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
    with pytest.raises(ConfigError, match="root_certificate"):
        GrpcLink(ClientParams("localhost", 1, garbage))
