"""Finds out why a connection over TLS fails: gRPC says little more than that it does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from metisfl_async.core.config import ClientParams
from metisfl_async.core.errors import ConnectionLost, TlsFailure

__all__ = ["explaining"]

PROBE_S = 3.0  #: for one connection
WORD_S = 0.5  #: in which a server that lets us in says so
ANOTHER_HOSTS = (62, 64)  #: OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH


@asynccontextmanager
async def explaining(params: ClientParams) -> AsyncIterator[None]:
    """Around the first call of a connection: where TLS is why it fails, say whose file is wrong."""
    try:
        yield
    except ConnectionLost as error:
        if (why := await _why_not(params)) is None:
            raise
        raise TlsFailure(error.address, why) from error


async def _why_not(params: ClientParams) -> str | None:
    """Try a handshake, and say what is wrong with whose file; None if it works, or nobody answers."""
    try:
        async with asyncio.timeout(PROBE_S):
            return await (_over_tls(params) if params.root_certificate is not None else _in_clear(params))
    except (OSError, TimeoutError):
        return None


async def _in_clear(params: ClientParams) -> str | None:
    """Look whether the server speaks TLS; whose it is does not matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    await _lets_in(params, context)
    return "the server speaks TLS; give its root_certificate"


async def _over_tls(params: ClientParams) -> str | None:
    pair = _pair(params)
    try:
        is_in = await _lets_in(params, _trusting(params, ssl.PROTOCOL_TLS_CLIENT, pair))
    except ssl.SSLCertVerificationError as error:
        what = f"it is not for {params.hostname}" if error.verify_code in ANOTHER_HOSTS else error.verify_message
        given = "what was given" if isinstance(params.root_certificate, bytes) else params.root_certificate
        return f"the server's server_certificate does not fit root_certificate={given}: {what}"
    except ssl.SSLError as error:
        if "WRONG_VERSION_NUMBER" in str(error.reason):
            return "the server speaks without TLS; give no root_certificate, or give the server its certificates"
        return f"TLS fails: {error.reason}"
    if is_in or (pair is None and params.certificate is not None):  # it is in bytes, and was not shown
        return None
    if pair is None:
        return "the server asks for a certificate; give your certificate and private_key"
    problem = _problem_at_the_server(params, pair) or "its client_root_certificate must hold who issued that"
    return f"the server refuses certificate={pair[0]}: {problem}"


async def _lets_in(params: ClientParams, context: ssl.SSLContext) -> bool:
    """Make a connection, and say whether the server lets us in.

    In TLS 1.3 the client is done first. A gRPC server that refuses its certificate closes the connection without a
    word; any other begins HTTP/2.
    """
    context.set_alpn_protocols(["h2"])
    reader, writer = await asyncio.open_connection(params.hostname.strip("[]"), params.port, ssl=context)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(WORD_S):
                return await reader.read(1) != b""
        return True
    finally:
        writer.transport.abort()


def _problem_at_the_server(params: ClientParams, pair: tuple[str | Path, str | Path]) -> str | None:
    """Say what a server has against our certificate that trusts whom we trust; None: nothing."""
    server = _trusting(params, ssl.PROTOCOL_TLS_SERVER, pair)
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.load_cert_chain(*pair, password="")
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours, theirs = client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)
    for end in (ours, theirs, ours, theirs):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
    return None


def _trusting(
    params: ClientParams, protocol: ssl._SSLMethod, pair: tuple[str | Path, str | Path] | None
) -> ssl.SSLContext:
    """Make one side of TLS that trusts our root certificate, and shows our own."""
    context, root = ssl.SSLContext(protocol), params.root_certificate_bytes
    assert root is not None
    context.load_verify_locations(cadata=root.decode("ascii"))
    if pair is not None:
        context.load_cert_chain(*pair, password="")
    return context


def _pair(params: ClientParams) -> tuple[str | Path, str | Path] | None:
    """Our certificate and key, if they are in files; `ssl` takes no others."""
    certificate, key = params.certificate, params.private_key
    if isinstance(certificate, str | Path) and isinstance(key, str | Path):
        return certificate, key
    return None
