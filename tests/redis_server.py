"""A Redis server that a test starts, stops, kills and starts again; nobody else's is used."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis

__all__ = ["RedisServer"]

PATIENCE_S = 30.0
COMMAND = ["redis-server", "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
#: What would read or remove other people's keys does not exist here.
FORBIDDEN = ["KEYS", "FLUSHDB", "FLUSHALL", "SWAPDB"]


class RedisServer:
    """Listens on a free port of loopback and keeps what it has in `directory`."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("redis-server") is None:
            raise RuntimeError("redis-server is not installed; as root: apt-get install redis-server")
        self.directory = directory
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True)

    def start(self) -> None:
        """Start, with what it had, and wait until it answers."""
        options = ["--port", str(self.port), "--dir", str(self.directory)]
        for name in FORBIDDEN:
            options += ["--rename-command", name, ""]
        log = self.directory / "redis.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen([*COMMAND, *options], stdout=output, stderr=output)
        give_up_at = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                self.kill()
                raise RuntimeError(log.read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        """End it politely."""
        self._end("terminate")

    def kill(self) -> None:
        self._end("kill")

    def forget(self) -> None:
        """Lose all that it has kept; it must not be running."""
        shutil.rmtree(self.directory / "appendonlydir")

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.BusyLoadingError):
            return False

    def _end(self, how: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            getattr(process, how)()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
