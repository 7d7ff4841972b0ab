"""A slow, lossy link between two processes of one machine, each way with a rate, a delay and a loss of its own.

`Tunnel` needs root: each process gets a network namespace of its own with a TUN device in it, and what the kernel sends
there is read, held back, dropped and passed on by a relay, packet by packet. So TCP is the kernel's, with its own
congestion control, and loses real packets. It does what ``tc netem rate R delay D loss P limit 1000`` does at both
ends, and needs nothing but TUN; many kernels come without netem. Namespaces and devices end with their processes.

`Proxy` needs nothing: a TCP proxy on loopback. It cannot lose bytes, so a lost segment is a pause of its connection, as
long as a retransmission timeout; the kernel would repair most losses sooner, but would also slow down. And the kernel's
buffers on loopback lie before it. Its figures are rougher.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass

__all__ = ["HOSTS", "Link", "Proxy", "Tunnel", "enter_namespace", "is_tunnel_possible"]

HOSTS = ("10.77.0.1", "10.77.0.2")  #: the two ends of a tunnel
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
SEGMENT = 1448  #: bytes of TCP in a packet of 1500
RETRANSMISSION_S = 0.2  #: Linux' least retransmission timeout; a round trip is added
QUEUED_PACKETS = 1000  #: that wait for the link; netem's default
QUEUED_PIECES = 64  #: in the proxy, of 16 KiB each


@dataclass(frozen=True)
class Link:
    rate_mbit: float  #: each way
    delay_s: float  #: each way, so a round trip takes twice as long
    loss: float  #: share of the packets, each way

    @property
    def bytes_per_s(self) -> float:
        return self.rate_mbit * 1e6 / 8


class Way:
    """One direction: what enters leaves in order, no faster than the link's rate, after its delay."""

    def __init__(self, link: Link, seed: int) -> None:
        self.link, self.random = link, random.Random(seed)
        self.free_at = 0.0
        self.lost = self.overflowed = 0

    def send(self, size: int, now: float) -> float:
        """Say when so many bytes arrive; from `free_at` on, the next ones can be sent."""
        self.free_at = max(self.free_at, now) + size / self.link.bytes_per_s
        return self.free_at + self.link.delay_s

    def is_lost(self) -> bool:
        is_lost = self.random.random() < self.link.loss
        self.lost += is_lost
        return is_lost

    def is_full(self, now: float) -> bool:
        is_full = (self.free_at - now) * self.link.bytes_per_s > QUEUED_PACKETS * 1500
        self.overflowed += is_full
        return is_full


# --- with real packets -----------------------------------------------------------------------------------------------


def is_tunnel_possible() -> bool:
    return os.geteuid() == 0 and os.access("/dev/net/tun", os.R_OK | os.W_OK)


def enter_namespace(end: int) -> int:
    """Move this process into a network namespace of its own, with one end of a tunnel; the file descriptor of that.

    For a process that has no threads yet: a thread stays where it is.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH22x", b"link", IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "address", "add", f"{HOSTS[end]}/24", "dev", "link"], check=True)
    for device in ("link", "lo"):
        subprocess.run(["ip", "link", "set", "dev", device, "up"], check=True)
    return tunnel


class Tunnel:
    """Carries packets between the two ends in a thread, until it is closed."""

    def __init__(self, link: Link, ends: tuple[int, int]) -> None:
        self._ends = ends
        self.ways = (Way(link, 1), Way(link, 2))
        self._wake, self._closing = os.pipe()
        self._thread = threading.Thread(target=self._carry, name="tunnel")
        self._thread.start()

    def close(self) -> None:
        os.close(self._closing)
        self._thread.join()
        for fd in (*self._ends, self._wake):
            os.close(fd)

    def _carry(self) -> None:
        poll = select.poll()
        for fd in (*self._ends, self._wake):
            poll.register(fd, select.POLLIN)
        under_way: tuple[deque[tuple[float, bytes]], ...] = (deque(), deque())
        while True:
            due = min((packets[0][0] for packets in under_way if packets), default=None)
            wait_ms = None if due is None else max(0.0, (due - time.perf_counter()) * 1e3)
            for fd, events in poll.poll(wait_ms):
                if fd == self._wake or not events & select.POLLIN:
                    return
                end = self._ends.index(fd)
                self._read(fd, self.ways[end], under_way[end])
            now = time.perf_counter()
            for end, packets in enumerate(under_way):
                while packets and packets[0][0] <= now:
                    try:
                        os.write(self._ends[1 - end], packets.popleft()[1])
                    except OSError:  # that end is gone
                        return

    def _read(self, fd: int, way: Way, packets: deque[tuple[float, bytes]]) -> None:
        for _ in range(64):
            try:
                packet = os.read(fd, 2**16)
            except BlockingIOError:
                return
            now = time.perf_counter()
            if not way.is_full(now):
                arrives_at = way.send(len(packet), now)  # what is lost takes the link's time too
                if not way.is_lost():
                    packets.append((arrives_at, packet))


# --- without -----------------------------------------------------------------------------------------------------


class Proxy:
    """A TCP proxy on loopback before a port, in a thread with an event loop of its own, until it is closed."""

    def __init__(self, link: Link, target: int) -> None:
        self.ways = (Way(link, 1), Way(link, 2))  #: towards who dialled, and towards the port
        self._link, self._target = link, target
        self.port = 0
        self._is_ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()
        self._is_ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving = task
        listening = _socket()
        listening.bind(("127.0.0.1", 0))
        server = await asyncio.start_server(self._connect, sock=listening, limit=2**14)
        self.port = listening.getsockname()[1]
        self._is_ready.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = _socket()
        await self._loop.sock_connect(there, ("127.0.0.1", self._target))
        reader_there, writer_there = await asyncio.open_connection(sock=there, limit=2**14)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader_there, writer, self.ways[0]))
                group.create_task(self._pass_on(reader, writer_there, self.ways[1]))
        except* OSError:
            pass
        finally:
            writer.transport.abort()
            writer_there.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_PIECES)  # when it is full, nothing is read
        async with asyncio.TaskGroup() as group:
            group.create_task(self._arrive(pieces, writer))
            arrives_at = 0.0
            while True:
                piece = await reader.read(2**14)
                arrives_at = max(arrives_at, way.send(len(piece), self._loop.time()))
                lost = sum(way.is_lost() for _ in range(0, len(piece), SEGMENT))
                arrives_at += lost * (RETRANSMISSION_S + 2 * self._link.delay_s)
                await pieces.put((arrives_at, piece))
                if not piece:
                    return
                await asyncio.sleep(way.free_at - self._loop.time())  # the link is everybody's

    async def _arrive(self, pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            arrives_at, piece = await pieces.get()
            await asyncio.sleep(arrives_at - self._loop.time())
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()


def _socket() -> socket.socket:
    """Make one before which little waits in the kernel's buffers, as before a link whose rate is felt."""
    made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**15)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
    return made
