"""Ours beside Flower as it is deployed: a SuperLink, a SuperNode for each learner, and `flwr run`.

The same stress test as `peer.py`, with evaluation. For each size ours, Flower with its defaults, Flower with less
waiting, and ours again; the means of ours count. `flower_app.py` is the app that Flower runs. All is on loopback, and
Flower's files are in a directory that goes away.

Flower's parties ask each other for news, and sleep in between: the ServerApp and each SuperNode for 3 s, a SuperNode
that waits for its ClientApp for 0.5 s, and the SuperExec, which starts a process for each message, for 1 s. Only the
last can be set from outside, to 10 ms at least. The rows differ in that:

- its defaults: nothing is set.
- 10 ms where it allows it: `FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.01`.
- 10 ms everywhere: a `sitecustomize` that we write for Flower's processes makes each `time.sleep` 10 ms at most.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from processes import in_fresh_process
from stress import measure
from tables import Columns, Row, Run

BENCH = Path(__file__).parent
PROGRAMS = BENCH / ".venv-flower" / "bin"
MILLION = 1_000_000
LEARNERS = 10
START_TIMEOUT_S, TIMEOUT_S = 120, 240
PR_SET_CHILD_SUBREAPER = 36
IMPATIENT = """
import time

_sleep = time.sleep
time.sleep = lambda seconds: _sleep(min(seconds, 0.01))
"""
PROJECT = """
[project]
name = "adds-constant"
version = "1.0.0"
dependencies = []

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "flower_app:server"
clientapp = "flower_app:client"

[tool.flwr.app.config]
"""
CONNECTION = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""
INTERVAL = "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"
WAYS: Mapping[str, Mapping[str, str]] = {
    "its defaults": {},
    "10 ms where it allows it": {INTERVAL: "0.01"},
    "10 ms everywhere": {"PYTHONPATH": "impatient"},
}
DEPLOYED: Columns = {
    "parameters": ("parameters", ",d"),
    "learners": ("learners", "d"),
    "sleeps": ("Flower's sleeps", ""),
    "flower_ms": ("Flower's round (ms)", ",.0f"),
    "ours_ms": ("our round (ms)", ".0f"),
    "times_faster": ("times faster", ".0f"),
    "flower_cpu_s": ("CPU of Flower's server (s)", ".2f"),
    "ours_cpu_s": ("CPU of our controller (s)", ".2f"),
    "flower_rss_mb": ("Flower's peak RSS (MB)", ".0f"),
    "ours_rss_mb": ("our peak RSS (MB)", ".0f"),
}


def free_ports(count: int) -> list[int]:
    """Find as many ports; Flower would not say which it took."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def children(process: int) -> list[int]:
    """Give what it has started and what still runs; nothing, if it has ended."""
    with suppress(OSError):
        files = list(Path(f"/proc/{process}/task").glob("*/children"))
        return [int(child) for file in files for child in file.read_text().split()]
    return []


def end_all() -> None:
    """End all that this process has started, and what they have; orphans are ours, see `orphans_are_ours`."""
    while found := children(os.getpid()):
        for child in found:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        for child in found:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


@contextmanager
def orphans_are_ours() -> Iterator[None]:
    """Take over the processes whose parent ends, also those in sessions of their own; end all of them in the end."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    try:
        yield
    finally:
        end_all()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(what: str, is_done: Any, timeout_s: float, logs: Path) -> None:
    end = time.monotonic() + timeout_s
    while not is_done():
        if time.monotonic() > end:
            tail = "\n".join(logs.read_text(errors="replace").splitlines()[-40:])
            raise TimeoutError(f"{what} took more than {timeout_s} s; Flower's last words:\n{tail}")
        time.sleep(0.1)


def flower(parameters: int, rounds: int, way: str) -> Row:
    """Run a federation of Flower's, and say how its rounds were; call it in a process of its own."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what it has started ends with it
    with tempfile.TemporaryDirectory() as home, orphans_are_ours():
        return _flower(Path(home), parameters, rounds, WAYS[way])


def _flower(home: Path, parameters: int, rounds: int, way: Mapping[str, str]) -> Row:
    app, impatient, logs, found = (home / name for name in ("app", "impatient", "logs", "found.json"))
    app.mkdir()
    impatient.mkdir()
    (impatient / "sitecustomize.py").write_text(IMPATIENT)
    port, *ports = free_ports(1 + LEARNERS)
    (home / "config.toml").write_text(CONNECTION.format(port=port))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "PYTHON"))}
    quiet = {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    environment = {**own, **way, **quiet}
    environment["PATH"] = f"{PROGRAMS}:{os.environ['PATH']}"  # they start each other by name
    if "PYTHONPATH" in way:
        environment["PYTHONPATH"] = str(impatient)

    with logs.open("w") as log:

        def start(program: str, *options: str) -> subprocess.Popen[bytes]:
            command = [str(PROGRAMS / program), *options]
            return subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT)

        # Otherwise the SuperLink would ask the network for what the app needs, which is there.
        offline = "--disable-runtime-dependency-installation"
        superlink = start("flower-superlink", "--insecure", "--port", str(port), offline)
        wait_for("the SuperLink's start", lambda: listens(port), START_TIMEOUT_S, logs)
        for own_port in ports:
            start("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(own_port))
        wait_for("the SuperNodes' start", lambda: all(map(listens, ports)), START_TIMEOUT_S, logs)
        shutil.copy(BENCH / "flower_app.py", app)
        options = {"parameters": parameters, "learners": LEARNERS, "rounds": rounds + 1, "superlink": superlink.pid}
        lines = [f"{key} = {value}" for key, value in options.items()] + [f'found = "{found}"']
        (app / "pyproject.toml").write_text(PROJECT + "\n".join(lines) + "\n")
        if code := start("flwr", "run", str(app), "here").wait(START_TIMEOUT_S):
            raise RuntimeError(f"flwr run ended with {code}: {logs.read_text()}")
        wait_for("the run", found.exists, TIMEOUT_S, logs)
    measured = json.loads(found.read_text())
    return {
        "round_ms": statistics.median(measured["seconds"][1:]) * 1e3,
        "cpu_s": statistics.mean(measured["cpu_s"][1:]),
        "rss_mb": measured["rss_mb"],
    }


def main() -> None:
    run = Run(__doc__)
    table = run.table("deployed", DEPLOYED)
    for parameters in (100_000,) if run.is_quick else (100_000, MILLION):
        rounds = 1 if run.is_quick else 2

        def ours(parameters: int = parameters) -> Row:
            return in_fresh_process(measure, parameters, LEARNERS, 5, 1)

        before = ours()
        peers = {way: in_fresh_process(flower, parameters, rounds, way) for way in WAYS}
        after = ours()
        ours_ms = statistics.mean((before["round_ms"], after["round_ms"]))
        for way, peer in peers.items():
            table.add(
                parameters=parameters,
                learners=LEARNERS,
                sleeps=way,
                flower_ms=peer["round_ms"],
                ours_ms=ours_ms,
                times_faster=peer["round_ms"] / ours_ms,
                flower_cpu_s=peer["cpu_s"],
                ours_cpu_s=statistics.mean((before["cpu_s"], after["cpu_s"])),
                flower_rss_mb=peer["rss_mb"],
                ours_rss_mb=max(before["rss_mb"], after["rss_mb"]),
            )
    run.end()


if __name__ == "__main__":
    main()
