"""Certificates that are read again when their files change, so that new ones need no restart."""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import grpc

from metisfl_async.core.config import ClientParams, ServerParams
from metisfl_async.core.errors import ConfigError

__all__ = ["FreshParams", "ServerCertificate"]

logger = logging.getLogger(__name__)

_Stamp: TypeAlias = tuple[int, int, int] | None


class FreshParams:
    """Whom to dial, with certificates as they are in their files now; if those are no good, as they were last."""

    def __init__(self, params: ClientParams) -> None:
        self.given = params
        root, pair = params.root_certificate_bytes, params.pair_bytes
        if root is not None and not _is_good(root):
            raise ConfigError("root_certificate", params.root_certificate, "PEM certificates that can be read")
        if (problem := _problem_of_pair(params)) is not None:
            allowed = f"a PEM certificate that belongs to the private_key ({problem})"
            raise ConfigError("certificate", params.certificate, allowed)
        self._root, self._pair = root, pair

    def read(self) -> ClientParams:
        """Read the files, if there are any."""
        given = self.given
        with suppress(OSError):
            root = given.root_certificate_bytes
            self._root = root if root is not None and _is_good(root) else self._root
        with suppress(OSError):
            self._pair = self._pair if _problem_of_pair(given) else given.pair_bytes
        key, certificate = self._pair or (None, None)
        return replace(given, root_certificate=self._root, certificate=certificate, private_key=key)


def _problem_of_pair(params: ClientParams) -> str | None:
    """Say what is wrong with a key and a certificate in files, if anything is."""
    certificate, key = params.certificate, params.private_key
    if isinstance(certificate, str | Path) and isinstance(key, str | Path):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            return str(error)
    return None


class ServerCertificate:
    """A server's certificate and key. gRPC asks before each handshake whether they have changed."""

    def __init__(self, params: ServerParams) -> None:
        assert params.server_certificate is not None
        assert params.private_key is not None
        self._certificate, self._key = Path(params.server_certificate), Path(params.private_key)
        self._asks = params.require_client_certificate
        roots = params.client_root_certificate or params.root_certificate
        self._roots = Path(roots) if self._asks and roots is not None else None
        self._seen: tuple[_Stamp, ...] | None = None  # the files that were looked at last, good or not

    def credentials(self) -> grpc.ServerCredentials:
        """Read them for the first time; `ConfigError` if they are no good."""
        self._seen = self._stamps()
        try:
            first = self._read()
        except (OSError, ValueError) as error:
            allowed = f"a PEM certificate that belongs to the private_key in {self._key} ({error})"
            raise ConfigError("server_certificate", str(self._certificate), allowed) from error
        return grpc.dynamic_ssl_server_credentials(first, self._changed, self._asks)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Read them again if they have changed; runs in a thread of gRPC's. None leaves it at what there is."""
        stamps = self._stamps()
        if stamps == self._seen:
            return None
        try:
            pair = self._read()
        except (OSError, ValueError) as error:
            pair = None
            logger.warning(
                "the certificate in %s and the key in %s have changed and cannot be used, those from before stay: %s",
                self._certificate,
                self._key,
                error,
            )
        if self._stamps() != stamps:
            return None  # they are being written; the next handshake looks again
        self._seen = stamps
        return pair

    def _read(self) -> grpc.ServerCertificateConfiguration:
        pair = self._key.read_bytes(), self._certificate.read_bytes()
        # An ssl.SSLError is an OSError. A key with a password cannot be used, and nobody is asked for it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key, password="")
        roots = None if self._roots is None else self._roots.read_bytes()
        if roots is not None and not _is_good(roots):
            raise ValueError(f"no certificates can be read in {self._roots}")
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=roots)

    def _stamps(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(file) for file in (self._certificate, self._key, self._roots) if file is not None)


def _stamp(file: Path) -> _Stamp:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_good(certificate: bytes) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=certificate.decode("ascii"))
    except (OSError, ValueError):
        return False
    return True
