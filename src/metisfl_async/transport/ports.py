"""Whether a port is free at every address of a name, before gRPC listens there."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from ipaddress import ip_address

from metisfl_async.core.config.endpoints import address_of, is_loopback
from metisfl_async.core.errors import TransportError

__all__ = ["check_free"]

LOOPBACK = ("127.0.0.1", "::1")  #: what gRPC takes localhost for, whatever the machine's own tables say


async def check_free(hostname: str, port: int) -> None:
    """Refuse a port that another program has at one of the name's addresses: gRPC would listen at the others alone.

    Raises
    ------
    TransportError
        It names the address that is taken.
    """
    for host in await _addresses(hostname) if port else ():
        try:
            _bind(host, port)
        except OSError as error:  # of another kind, such as no IPv6 here, gRPC passes over the address as well
            if error.errno == errno.EADDRINUSE:
                raise TransportError(
                    address_of(hostname, port), f"cannot listen there; the port is taken at {address_of(host, port)}"
                ) from error


async def _addresses(hostname: str) -> list[str]:
    """Find a name's addresses; an address is none, and gRPC says whether it is taken."""
    with suppress(ValueError):
        ip_address(hostname.strip("[]"))
        return []
    found = set(LOOPBACK if is_loopback(hostname) else ())
    with suppress(OSError):  # gRPC, which resolves it again, says what is wrong
        infos = await asyncio.get_running_loop().getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
        found |= {str(info[4][0]) for info in infos}
    return sorted(found)


def _bind(host: str, port: int) -> None:
    is_v6 = ":" in host
    with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET) as probe:
        if os.name == "posix":  # elsewhere it allows what is to be found out
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_v6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((host, port))
