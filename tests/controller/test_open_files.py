"""Each learner that dials is an open file of the controller, or two; how it says that they get scarce."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import resource
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from contextlib import AsyncExitStack
from unittest.mock import Mock

import psutil
import pytest
from federations import PATIENCE_S, until
from puppet import dialled

from metisfl_async import ClientParams, Controller, ControllerConfig
from metisfl_async.controller import open_files, service
from metisfl_async.controller.open_files import scarce

LIMITS = 100, 200
LEARNERS = 45
CONTROLLER = f"""
import asyncio, logging, resource
from metisfl_async import Controller, ControllerConfig, ServerParams

async def main():
    async with Controller(ServerParams(), ControllerConfig(heartbeat_secs=1, lease_secs=8)) as controller:
        print(controller.client_params.port, flush=True)
        await controller.serve()

logging.basicConfig(format="%(name)s: %(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, {LIMITS})
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_controller_warns_when_learners_take_most_of_the_files() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CONTROLLER, stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as learners:
            params = ClientParams("127.0.0.1", int(await process.stdout.readline()))
            for number in range(LEARNERS):
                await learners.enter_async_context(dialled(params, f"learner-{number}"))
            warning = (await process.stdout.readline()).decode()
            assert psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE) == LIMITS  # nothing is changed
    finally:
        process.kill()
        await process.communicate()
    assert re.fullmatch(
        r"metisfl_async\.controller\.service: \d+ learners are connected, and of the 100 files .*"
        r"`ulimit -n 200` raises it for what starts next\n",
        warning,
    )


async def test_it_warns_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    look = Mock(return_value=(1024, "raise it"))
    monkeypatch.setattr(service, "scarce", look)
    async with Controller(controller_config=ControllerConfig(heartbeat_secs=0.01, lease_secs=0.02)) as controller:
        await until(lambda: look.called)
        for _ in range(3):
            controller._open.service.watch_files()
    warned = [record for record in caplog.records if record.name == service.__name__]
    assert len(warned) == look.call_count == 1


def files_taken(monkeypatch: pytest.MonkeyPatch, number: int, soft: int, hard: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(os, "listdir", lambda _: ["0"] * number)


@pytest.mark.parametrize(
    ("number", "soft", "hard", "advice"),
    [
        (499, 1000, 2000, None),
        (500, 1000, 2000, "`ulimit -n 2000` raises it for what starts next"),
        (500, 1000, resource.RLIM_INFINITY, "`ulimit -n unlimited` raises it for what starts next"),
        (500, 1000, 1000, "the hard limit is the same: an administrator has to raise it"),
        (500, resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
    ],
)
def test_files_are_scarce_when_half_are_open(
    monkeypatch: pytest.MonkeyPatch, number: int, soft: int, hard: int, advice: str | None
) -> None:
    files_taken(monkeypatch, number, soft, hard)
    assert scarce() == (None if advice is None else (1000, advice))


@pytest.mark.parametrize(("error", "is_scarce"), [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ENOENT, False)])
def test_files_are_scarce_when_none_is_left_to_look(
    monkeypatch: pytest.MonkeyPatch, error: int, is_scarce: bool
) -> None:
    def fails(_: str) -> list[str]:
        raise OSError(error, os.strerror(error))

    files_taken(monkeypatch, 0, 1000, 2000)
    monkeypatch.setattr(os, "listdir", fails)
    assert (scarce() is not None) == is_scarce


def test_where_the_system_has_no_such_limit_files_are_not_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "resource", None)
    assert scarce() is None


@pytest.mark.slow
def test_without_the_resource_module_everything_can_be_imported() -> None:
    code = (
        "import sys; sys.modules['resource'] = None; "
        "from metisfl_async.controller.open_files import scarce; "
        "from metisfl_async.cli.running import allow_many_files; "
        "assert scarce() is None and allow_many_files() is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
