from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis_server import RedisServer

os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's threads wait at work, on processors that other tests need
# A busy machine is slow, not wrong.
settings.register_profile("no deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no deadline")
# So is one where the loop, in debug mode, finds that a step took long: no warning of ours.
logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing "))
# A shell makes what it starts in the background deaf to interrupts, and so are its children: tests interrupt some.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LARGE = {"jax", "keras", "matplotlib", "mlflow", "pandas", "sklearn", "tensorflow", "torch", "transformers", "xgboost"}
_imported: set[str] = set()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names = {*getattr(item, "fixturenames", ())}
        if names & {"redis_server", "my_redis_server"} or "Redis" in item.name:  # or of whatever store it is to be
            item.add_marker(pytest.mark.redis)


def pytest_collection_finish() -> None:
    """Let garbage collection, which many tests ask for, look only at what tests make: the frameworks are large."""
    gc.collect()
    gc.freeze()


def pytest_runtest_teardown() -> None:
    """Do so once more where a test has imported another one."""
    if new := LARGE & sys.modules.keys() - _imported:
        _imported.update(new)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that many tests share, each with keys of its own."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def my_redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may stop, kill and configure."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def free_port() -> int:
    """Give a port that nobody listens on, for parties that must know it before anyone listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
