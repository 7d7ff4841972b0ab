"""Where servers listen and clients dial, as users decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metisfl_async.core.checks import hostname, integer
from metisfl_async.core.errors import ConfigError

__all__ = ["ClientParams", "ServerParams", "address_of", "named_learners"]


@dataclass(frozen=True, slots=True)
class ServerParams:
    """Where a server listens. With TLS, all three files; without, none."""

    hostname: str = "127.0.0.1"
    port: int = 0  #: 0 = any free one
    root_certificate: str | Path | None = None  #: PEM; what clients check the server's certificate against
    server_certificate: str | Path | None = None  #: PEM; the server's certificate, and its chain
    private_key: str | Path | None = None  #: PEM

    def __post_init__(self) -> None:
        hostname("hostname", self.hostname)
        integer("port", self.port, 0, 65_535)
        files = {name: getattr(self, name) for name in ("root_certificate", "server_certificate", "private_key")}
        missing = [name for name, file in files.items() if file is None]
        if missing and len(missing) < len(files):
            raise ConfigError(missing[0], None, f"all of {', '.join(files)}, or none of them")
        for name, file in files.items():
            if file is not None:
                _pem_file(name, file)

    def client_params(self, port: int | None = None) -> ClientParams:
        """How to reach this server from the same machine; `port` is the one it got if it asked for any."""
        host = "127.0.0.1" if self.hostname in ("0.0.0.0", "::", "[::]") else self.hostname
        return ClientParams(host, self.port if port is None else port, self.root_certificate)


@dataclass(frozen=True, slots=True)
class ClientParams:
    """Which server to dial. With a root certificate, over TLS."""

    hostname: str = "127.0.0.1"
    port: int = 50051
    root_certificate: str | Path | bytes | None = None  #: PEM: a file, or what is in it

    def __post_init__(self) -> None:
        hostname("hostname", self.hostname)
        integer("port", self.port, 1, 65_535)
        if isinstance(self.root_certificate, bytes):
            _pem("root_certificate", self.root_certificate, self.root_certificate, "bytes")
        elif self.root_certificate is not None:
            _pem_file("root_certificate", self.root_certificate)

    @property
    def address(self) -> str:
        return address_of(self.hostname, self.port)

    @property
    def root_certificate_bytes(self) -> bytes | None:
        """The root certificate itself."""
        certificate = self.root_certificate
        return Path(certificate).read_bytes() if isinstance(certificate, str | Path) else certificate


def named_learners(field: str, learners: object) -> tuple[ClientParams, ...]:
    """Check addresses of learners that listen, and turn those that are given as MetisFL does, as `ServerParams`."""
    allowed = "a list of the ClientParams or ServerParams of learners that listen"
    if not isinstance(learners, Sequence) or isinstance(learners, str):
        raise ConfigError(field, learners, allowed)
    named: dict[str, ClientParams] = {}
    for learner in learners:
        params = learner.client_params() if isinstance(learner, ServerParams) else learner
        if not isinstance(params, ClientParams):
            raise ConfigError(field, learner, allowed)
        if params.address in named:
            raise ConfigError(field, params.address, "each address once")
        named[params.address] = params
    return tuple(named.values())


def address_of(hostname: str, port: int) -> str:
    """Put a host and a port together; an IPv6 address gets its brackets."""
    return f"[{hostname}]:{port}" if ":" in hostname and not hostname.startswith("[") else f"{hostname}:{port}"


def _pem_file(field: str, file: object) -> None:
    if not isinstance(file, str | Path) or not Path(file).is_file():
        raise ConfigError(field, file, "the path of a PEM file that exists")
    _pem(field, str(file), Path(file).read_bytes(), "a file")


def _pem(field: str, value: str | bytes, content: bytes, kind: str) -> None:
    if b"-----BEGIN" not in content:
        raise ConfigError(field, value, f"{kind} in PEM form (it has a line '-----BEGIN ...-----')")
