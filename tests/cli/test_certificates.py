"""Certificates that the command makes, and who believes them."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from federations import PATIENCE_S, Adds, nothing_left_behind

from metisfl_async import (
    ClientParams,
    ConfigError,
    Controller,
    DriverSession,
    ServerParams,
    TerminationSignals,
    run_learner,
)
from metisfl_async.cli.certificates import make_certificates
from metisfl_async.core.errors import TlsFailure


def make(folder: Path, *names: str, hosts: tuple[str, ...] = (), force: bool = False) -> list[str]:
    files = make_certificates(folder, names or ("server", "client"), hosts, 30, force=force)
    return [file.name for file in files]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def server_params(folder: Path, hostname: str = "127.0.0.1") -> ServerParams:
    return ServerParams(hostname, 0, folder / "ca.pem", folder / "server.pem", folder / "server.key")


def test_an_authority_and_two_pairs_are_made(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "certs"
    names = ["ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key"]
    assert make(folder, hosts=("controller.example", "192.0.2.7", "2001:db8::7")) == names
    assert {
        file.name: file.stat().st_mode & 0o777 for file in folder.iterdir() if file.suffix == ".key"
    } == dict.fromkeys(["ca.key", "server.key", "client.key"], 0o600)
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    alternatives = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(alternatives, x509.SubjectAlternativeName)
    assert alternatives.get_values_for_type(x509.DNSName) == ["controller.example", "localhost"]
    addresses = map(str, alternatives.get_values_for_type(x509.IPAddress))
    assert list(addresses) == ["192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"]


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    make(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"server\.pem.* --force overwrites it"):
        make(tmp_path)
    assert contents(tmp_path) == before
    assert make(tmp_path, "server", force=True) == ["server.pem", "server.key"]
    changed = {name for name, data in contents(tmp_path).items() if data != before[name]}
    assert changed == {"server.pem", "server.key"}
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600


def test_another_pair_has_the_same_authority(tmp_path: Path) -> None:
    make(tmp_path)
    assert make(tmp_path, "site-1", hosts=("site-1.example",)) == ["site-1.pem", "site-1.key"]
    authority, site = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes()) for name in ("ca.pem", "site-1.pem")
    )
    site.verify_directly_issued_by(authority)


@pytest.mark.parametrize("name", ["ca", "", "a/b", "../a", ".a", "-"])
def test_names_that_are_no_names_of_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="--name"):
        make(tmp_path, name)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("host", ["", "a:1", "https://a", "a b", "bücher.example"])
def test_hosts_that_are_no_hosts_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        make(tmp_path, hosts=(host,))
    assert contents(tmp_path) == {}


def test_a_foreign_authority_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make(tmp_path / name)
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "two" / "ca.key").read_bytes())
    with pytest.raises(ConfigError, match=r"ca\.key is another one's"):
        make(tmp_path / "one", "more")
    (tmp_path / "two" / "ca.key").unlink()
    with pytest.raises(ConfigError, match="an authority that this command made"):
        make(tmp_path / "two", "more")


@pytest.mark.parametrize("hostname", ["127.0.0.1", "localhost"])
async def test_a_federation_runs_over_tls_with_them(tmp_path: Path, hostname: str) -> None:
    make(tmp_path)
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S):
        controller = Controller(server_params(tmp_path, hostname))
        session = DriverSession(controller, [Adds(1), Adds(1)], TerminationSignals(federation_rounds=2))
        assert (await session.run()).model_version == 2


async def test_who_trusts_another_authority_does_not_get_in(tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        make(tmp_path / name)
    async with nothing_left_behind(), asyncio.timeout(PATIENCE_S), Controller(server_params(tmp_path / "ours")) as ours:
        stranger = ClientParams("127.0.0.1", ours.client_params.port, tmp_path / "theirs" / "ca.pem")
        with pytest.raises(TlsFailure, match=r"does not fit root_certificate=.*: unable to get local issuer"):
            await run_learner(Adds(1), stranger, connect_timeout_secs=0.5)


def test_the_pair_of_the_client_is_believed_where_one_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path, hosts=("controller.example",))
    for_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca.pem")
    for_server.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    for_server.verify_mode = ssl.CERT_REQUIRED
    for_client = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    for_client.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    for_client.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = for_server.wrap_bio(up, down, server_side=True)
    client = for_client.wrap_bio(down, up, server_hostname="controller.example")
    waiting = [client, server]
    for _ in range(6):
        for end in list(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
    assert waiting == []
    certificate = server.getpeercert()
    assert certificate is not None
    assert certificate["subject"] == ((("commonName", "client"),),)
