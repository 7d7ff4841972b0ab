"""Where servers listen and clients dial, as users decide it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from ipaddress import ip_address
from pathlib import Path

from metisfl_async.core.checks import hostname, integer
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.spelling import spelled

__all__ = ["ClientParams", "ServerParams", "address_of", "is_loopback", "named_learners"]


INSECURE = (
    "the address of this machine's own (127.0.0.1), or one of these: say who may come in, or that anybody may:\n"
    "  require_client_certificate=True, with the three files of TLS; `metisfl-async certs` makes all certificates\n"
    "  tokens='tokens.txt', with the three files of TLS; `metisfl-async token` makes tokens\n"
    "  insecure=True, where nobody but your own can reach it"
)


@spelled
@dataclass(frozen=True, slots=True)
class ServerParams:
    """Where a server listens, and whom it lets in. With TLS, all three files; without, none.

    A server that others than this machine can reach asks for certificates or tokens, or is `insecure` as you say.
    """

    hostname: str = "127.0.0.1"
    port: int = 0  #: 0 = any free one
    root_certificate: str | Path | None = None  #: PEM; what clients check the server's certificate against
    server_certificate: str | Path | None = None  #: PEM; the server's certificate, and its chain
    private_key: str | Path | None = None  #: PEM
    _: KW_ONLY
    require_client_certificate: bool = False  #: whether clients show a certificate, which says who they are
    client_root_certificate: str | Path | None = None  #: PEM; who signs clients' certificates; None: root_certificate
    subjects: str | Path | None = None  #: a file that says whose certificate is whose, for those without our URI
    revoked: str | Path | None = None  #: a file of serial numbers of clients' certificates that are not good any more
    tokens: str | Path | None = None  #: a file of tokens, one of which clients show that have no certificate
    insecure: bool = False  #: let anybody do everything who can reach it

    def __post_init__(self) -> None:
        hostname("hostname", self.hostname)
        integer("port", self.port, 0, 65_535)
        files = {name: getattr(self, name) for name in ("root_certificate", "server_certificate", "private_key")}
        self._check_files(files)
        for name in ("require_client_certificate", "insecure"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, getattr(self, name), "True, False")
        self._check_access()

    def _check_access(self) -> None:
        is_tls, is_here = self.server_certificate is not None, is_loopback(self.hostname)
        if self.require_client_certificate and not is_tls:
            raise ConfigError("require_client_certificate", True, "False, or give the three files of TLS")
        for name in ("client_root_certificate", "subjects", "revoked"):
            if (file := getattr(self, name)) is not None and not self.require_client_certificate:
                raise ConfigError(name, file, "None without require_client_certificate=True")
        if self.client_root_certificate is not None:
            _pem_file("client_root_certificate", self.client_root_certificate)
        for name in ("subjects", "revoked", "tokens"):
            file = getattr(self, name)
            if file is not None and (not isinstance(file, str | Path) or not Path(file).is_file()):
                raise ConfigError(name, file, "the path of a file that exists")
        if self.tokens is not None and self.require_client_certificate:
            raise ConfigError("tokens", self.tokens, "None with require_client_certificate=True, or tokens without it")
        if self.tokens is not None and not is_tls and not is_here:
            raise ConfigError("tokens", self.tokens, "None, or give the three files of TLS: a token would go in clear")
        if self.asks_for_credentials and self.insecure:
            raise ConfigError("insecure", True, "False with require_client_certificate=True or tokens")

    def check_safe(self) -> None:
        """Refuse to listen where others can reach it, and to ask for nothing, unless that is meant.

        Raises
        ------
        ConfigError
            It shows what to do instead.
        """
        if not (is_loopback(self.hostname) or self.insecure or self.asks_for_credentials):
            raise ConfigError("hostname", self.hostname, INSECURE)

    @property
    def asks_for_credentials(self) -> bool:
        """Whether clients must say who they are, and prove it."""
        return self.require_client_certificate or self.tokens is not None

    @staticmethod
    def _check_files(files: dict[str, str | Path | None]) -> None:
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


@spelled
@dataclass(frozen=True, slots=True)
class ClientParams:
    """Which server to dial, and how much to take from it. With a root certificate, over TLS."""

    hostname: str = "127.0.0.1"
    port: int = 50051
    root_certificate: str | Path | bytes | None = None  #: PEM: a file, or what is in it
    _: KW_ONLY
    certificate: str | Path | bytes | None = None  #: PEM; says who you are, to a server that asks for certificates
    private_key: str | Path | bytes | None = field(default=None, repr=False)  #: PEM; that belongs to it
    token: str | None = field(default=None, repr=False)  #: says who you are, to a server that asks for tokens
    max_model_bytes: int = 4 * 2**30  #: a larger model is not taken from there, whatever the server allows

    def __post_init__(self) -> None:
        hostname("hostname", self.hostname)
        integer("max_model_bytes", self.max_model_bytes, 1)
        integer("port", self.port, 1, 65_535)
        self._check_credentials()
        if isinstance(self.root_certificate, bytes):
            _pem("root_certificate", self.root_certificate, self.root_certificate, "bytes")
        elif self.root_certificate is not None:
            _pem_file("root_certificate", self.root_certificate)

    def _check_credentials(self) -> None:
        pair = {"certificate": self.certificate, "private_key": self.private_key}
        missing = [name for name, file in pair.items() if file is None]
        if len(missing) == 1:
            raise ConfigError(missing[0], None, "both of certificate and private_key, or neither")
        for name, file in pair.items():
            if isinstance(file, bytes):
                _pem(name, "(not shown)", file, "bytes")
            elif file is not None:
                _pem_file(name, file)
        if self.certificate is not None and self.root_certificate is None:
            raise ConfigError("certificate", self.certificate, "None, or give a root_certificate: it is for TLS")
        if self.token is None:
            return
        if not isinstance(self.token, str) or not re.fullmatch(r"[!-~]{16,512}", self.token):
            raise ConfigError("token", "(not shown)", "None, or what `metisfl-async token` printed")
        if self.root_certificate is None and not is_loopback(self.hostname):
            raise ConfigError("token", "(not shown)", "None, or give a root_certificate: it would go in clear")

    @property
    def address(self) -> str:
        return address_of(self.hostname, self.port)

    @property
    def root_certificate_bytes(self) -> bytes | None:
        """The root certificate itself."""
        return _bytes_of(self.root_certificate)

    @property
    def pair_bytes(self) -> tuple[bytes, bytes] | None:
        """The private key and the certificate themselves."""
        key, certificate = _bytes_of(self.private_key), _bytes_of(self.certificate)
        return None if key is None or certificate is None else (key, certificate)


def _bytes_of(pem: str | Path | bytes | None) -> bytes | None:
    return Path(pem).read_bytes() if isinstance(pem, str | Path) else pem


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


def is_loopback(hostname: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ip_address(hostname.strip("[]")).is_loopback
    except ValueError:
        return hostname == "localhost" or hostname.endswith(".localhost")


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
