"""Where a party of an environment listens, as everybody who reads the file sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from metisfl_async.core.config import ClientParams, ServerParams, address_of
from metisfl_async.core.errors import ConfigError
from metisfl_async.environment.gathering import Gathering

__all__ = ["Endpoint"]

EVERYWHERE = ("0.0.0.0", "::", "[::]")
ACCESS = ("require_client_certificate", "client_root_certificate", "subjects", "revoked", "tokens", "insecure")
FILES = ("root_certificate", "server_certificate", "private_key")


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An address, and the files that TLS needs there; each party has only its own, so files are looked at when used."""

    hostname: str = "127.0.0.1"  #: what others dial
    port: int = 50051
    listen_hostname: str | None = None  #: the interface to listen on, "0.0.0.0" for all; None = `hostname`
    root_certificate: Path | None = None  #: PEM; what whoever dials checks the server's certificate against
    server_certificate: Path | None = None  #: PEM; needed where it listens
    private_key: Path | None = None  #: PEM; needed where it listens
    require_client_certificate: bool = False  #: whoever dials shows a certificate, which says who it is
    client_root_certificate: Path | None = None  #: PEM; who signs those; None: root_certificate
    subjects: Path | None = None  #: a file that says whose certificate is whose
    revoked: Path | None = None  #: a file of serial numbers of certificates that are not good any more
    tokens: Path | None = None  #: a file of tokens, one of which whoever dials shows
    insecure: bool = False  #: let anybody do everything who can reach it
    _found: Gathering[Endpoint] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def made_of(cls, found: Gathering[Endpoint]) -> Endpoint:
        """Make it of what a file says, and remember where the file says it."""
        endpoint = found.make()
        object.__setattr__(endpoint, "_found", found)
        return endpoint

    def __post_init__(self) -> None:
        ClientParams(self.hostname, self.port)  # checks both
        if self.hostname in EVERYWHERE:
            allowed = f"the name or address that others dial; to listen everywhere, listen_hostname: {self.hostname}"
            raise ConfigError("hostname", self.hostname, allowed)
        if self.listen_hostname is not None:
            try:
                ServerParams(self.listen_hostname)
            except ConfigError as error:
                raise ConfigError("listen_hostname", error.value, error.allowed) from None
        for name in FILES:
            if not isinstance(getattr(self, name), Path | None):
                raise ConfigError(name, getattr(self, name), "the path of a PEM file")
        missing = [name for name in FILES if getattr(self, name) is None]
        if missing and len(missing) < len(FILES):
            raise ConfigError(missing[0], None, f"all of {', '.join(FILES)}, or none of them")
        for name in ("require_client_certificate", "insecure"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(name, getattr(self, name), "true, false")

    @property
    def address(self) -> str:
        """What others dial."""
        return address_of(self.hostname, self.port)

    def server_params(self) -> ServerParams:
        """Listen there; the three files must be here."""
        with self._located():
            host = self.listen_hostname or self.hostname
            return ServerParams(
                host,
                self.port,
                self.root_certificate,
                self.server_certificate,
                self.private_key,
                **{name: getattr(self, name) for name in ACCESS},
            )

    def client_params(self) -> ClientParams:
        """Dial it; only the root certificate must be here."""
        with self._located():
            return ClientParams(self.hostname, self.port, self.root_certificate)  # credentials are not in the file

    @contextmanager
    def _located(self) -> Iterator[None]:
        try:
            yield
        except ConfigError as error:
            raise (error if self._found is None else self._found.located(error)) from None
