"""Certificates that are read again when their files change, so that new ones need no restart."""

from __future__ import annotations

import logging
import ssl
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
    """Whom to dial, with the root certificate as it is in its file now; if that is gone or no good, as it was last."""

    def __init__(self, params: ClientParams) -> None:
        self._given, self._last = params, params
        certificate = params.root_certificate_bytes
        if certificate is not None and not _is_good(certificate):
            raise ConfigError("root_certificate", params.root_certificate, "PEM certificates that can be read")
        self._last = replace(params, root_certificate=certificate)

    def read(self) -> ClientParams:
        """Read the file, if there is one."""
        try:
            certificate = self._given.root_certificate_bytes
        except OSError:
            return self._last
        if certificate is not None and _is_good(certificate):
            self._last = replace(self._given, root_certificate=certificate)
        return self._last


class ServerCertificate:
    """A server's certificate and key. gRPC asks before each handshake whether they have changed."""

    def __init__(self, params: ServerParams) -> None:
        assert params.server_certificate is not None
        assert params.private_key is not None
        self._certificate, self._key = Path(params.server_certificate), Path(params.private_key)
        self._seen: tuple[_Stamp, _Stamp] | None = None  # the files that were looked at last, good or not

    def credentials(self) -> grpc.ServerCredentials:
        """Read them for the first time; `ConfigError` if they are no good."""
        self._seen = self._stamps()
        try:
            first = self._read()
        except (OSError, ValueError) as error:
            allowed = f"a PEM certificate that belongs to the private_key in {self._key} ({error})"
            raise ConfigError("server_certificate", str(self._certificate), allowed) from error
        return grpc.dynamic_ssl_server_credentials(first, self._changed)

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
        return grpc.ssl_server_certificate_configuration([pair])

    def _stamps(self) -> tuple[_Stamp, _Stamp]:
        return _stamp(self._certificate), _stamp(self._key)


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
