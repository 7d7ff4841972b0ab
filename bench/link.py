"""Five learners behind one slow, lossy link: 20 Mbit/s each way, 50 ms each way, 1% of the packets lost.

The learners, in one process, share the link to their controller in another; both on uvloop. `lossy.py` makes it of real
packets where this runs as root, else of pauses. Nothing is trained: each learner returns the model plus a constant, for
three rounds, with the configuration's defaults and with models in fewer bytes. The run fails unless every update
counted, no task failed, nobody's lease ended, and the model is the one that it must be.

"Time / first row's" is the time of the rounds over that of the first row. "Share of the link" is the models' bytes,
both ways together, over what the link carries one way in that time. A round downloads first and uploads then, so 1 is
what can be had; a link whose ways were both busy all the time would carry 2.
Beside it stands what as many plain TCP connections reach that carry one model down and one up. With loss, it is TCP's
congestion control that decides, so it is named. The longest silence is that of a learner while it was connected: it is
heard when a heartbeat or a frame of its update arrives, and when a frame of the model was sent to it.

Other links are tried with options: --rate-mbit, --delay-ms, --loss; --parameters, --learners, --rounds;
--evaluate-every 0; --made-of pauses, for the proxy; --congestion, one of
/proc/sys/net/ipv4/tcp_allowed_congestion_control.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from lossy import HOSTS, Link, Proxy, Tunnel, enter_namespace, is_tunnel_possible
from numpy.typing import NDArray
from tables import Columns, Run

from metisfl_async import (
    ClientParams,
    Controller,
    ControllerConfig,
    DriverSession,
    Learner,
    ServerParams,
    TerminationSignals,
    run_learner,
)

Weights = Sequence[NDArray[Any]]
JOIN_TIMEOUT_S, FAREWELL_S = 120, 60
CONSTANT = np.float32(0.5)  # sums of it are exact
CODECS = (("raw", "raw"), ("bf16", "bf16"), ("int8", "int8"))
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")
COLUMNS: Columns = {
    "parameters": ("parameters", ",d"),
    "learners": ("learners", "d"),
    "evaluation": ("evaluation", ""),
    "codecs": ("up, down", ""),
    "link": ("congestion control", ""),
    "rounds": ("rounds", "d"),
    "seconds": ("seconds", ".1f"),
    "of_first": ("time / first row's", ".2f"),
    "moved_mb": ("MB moved", ".1f"),
    "of_link": ("share of the link", ".2f"),
    "tcp_of_link": ("plain TCP's share", ".2f"),
    "lost": ("packets lost", ",d"),
    "silence_s": ("longest silence (s)", ".1f"),
    "counted": ("updates counted", "d"),
    "left": ("learners lost", "d"),
}


@dataclass(frozen=True)
class Case:
    parameters: int
    learners: int
    rounds: int
    evaluate_every: int
    made_of: str  #: "packets" or "pauses"
    congestion: str  #: TCP's congestion control; empty = the machine's
    codecs: tuple[str, str]  #: of updates, and of downloads

    @property
    def is_tunnelled(self) -> bool:
        return self.made_of == "packets"

    @property
    def size_bytes(self) -> int:
        return 4 * self.parameters


class AddsConstant(Learner):
    def __init__(self) -> None:
        super().__init__(num_training_examples=1)

    def get_weights(self) -> Weights:
        raise NotImplementedError("the driver has them")

    def set_weights(self, parameters: Weights) -> None:
        """Nothing is kept."""

    def train(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, dict[str, float]]:
        return [parameters[0] + CONSTANT], {}

    def evaluate(self, parameters: Weights, config: dict[str, Any]) -> dict[str, float]:
        return {"value": float(parameters[0][0])}


# --- the two processes -----------------------------------------------------------------------------------------------


def be_an_end(end: int, case: Case, pipe: Connection) -> None:
    """Be the controller (0) or the learners (1)."""
    if case.is_tunnelled:
        tunnel = enter_namespace(end)
        reduction.send_handle(pipe, tunnel, os.getppid())
        os.close(tunnel)
        if case.congestion:
            CONGESTION.write_text(case.congestion)
    congestion = CONGESTION.read_text().strip() if case.is_tunnelled else "pauses"
    uvloop.run(be_controller(case, pipe, congestion) if end == 0 else be_learners(case, pipe))


async def be_controller(case: Case, pipe: Connection, congestion: str) -> None:
    host = HOSTS[0] if case.is_tunnelled else "127.0.0.1"
    plain_s = await plain_tcp(case, host, pipe)
    up, down = case.codecs
    config = ControllerConfig(evaluate_every=case.evaluate_every, update_codec=up, download_codec=down)
    async with Controller(ServerParams(host, 0, insecure=True), config) as controller:
        pipe.send(controller.client_params.port)
        first = [np.zeros(case.parameters, np.float32)]
        signals = TerminationSignals(federation_rounds=case.rounds)
        session = DriverSession(
            controller, case.learners, signals, initial_weights=first, join_timeout_secs=JOIN_TIMEOUT_S
        )
        running = asyncio.create_task(session.run())
        events: Counter[str] = Counter()
        silence_ms = 0.0
        async for event in session.events():
            events[type(event).__name__] += 1
            silence_ms = max([silence_ms, *controller.longest_silences_ms().values()])
        result = await running
    last, moved = result.rounds[-1], sum(record.bytes_sent + record.bytes_received for record in result.rounds)
    assert result.final_model is not None
    off = np.abs(result.final_model[0] - case.rounds * CONSTANT).max()
    assert off <= (1e-6 if "int8" in case.codecs else 0), "the model is not the one that it must be"
    seconds = (last.started_ms + last.duration_ms) / 1e3
    found = {"UpdateCounted": case.learners * case.rounds, "TaskFailed": 0, "LearnerLeft": 0}
    assert all(events[name] == count for name, count in found.items()), events
    pipe.send(
        {
            "link": congestion,
            "seconds": seconds,
            "moved_mb": moved / 1e6,
            "tcp_of_link": 2 * case.learners * case.size_bytes / plain_s,
            "silence_s": silence_ms / 1e3,
            "counted": events["UpdateCounted"],
            "left": events["LearnerLeft"],
        }
    )


async def be_learners(case: Case, pipe: Connection) -> None:
    host, port = await asyncio.to_thread(pipe.recv)
    await asyncio.gather(*(move_plainly(case, host, port) for _ in range(case.learners)))
    host, port = await asyncio.to_thread(pipe.recv)
    params = ClientParams(host, port)
    names = [f"learner-{number}" for number in range(1, case.learners + 1)]
    await asyncio.gather(*(run_learner(AddsConstant(), params, learner_id=name) for name in names))


async def plain_tcp(case: Case, host: str, pipe: Connection) -> float:
    """Seconds to send a model down and read one back over each of five plain connections, all at the same time."""
    done: asyncio.Queue[None] = asyncio.Queue()
    started: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started.append(time.perf_counter())
        writer.write(bytes(case.size_bytes))
        await reader.readexactly(case.size_bytes)
        writer.close()
        done.put_nowait(None)

    async with await asyncio.start_server(serve, host, 0) as server:
        pipe.send(server.sockets[0].getsockname()[1])
        for _ in range(case.learners):
            await done.get()
        return time.perf_counter() - min(started)


async def move_plainly(case: Case, host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    await reader.readexactly(case.size_bytes)
    writer.write(bytes(case.size_bytes))
    with suppress(OSError):
        await reader.read()
    writer.close()


# --- between them ----------------------------------------------------------------------------------------------------


def measure(link: Link, case: Case) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    pipes = [spawn.Pipe() for _ in range(2)]
    ends = [spawn.Process(target=be_an_end, args=(end, case, pipes[end][1])) for end in range(2)]
    for process, (_, theirs) in zip(ends, pipes, strict=True):
        process.start()
        theirs.close()
    controller, learners = (ours for ours, _ in pipes)
    carriers: list[Tunnel | Proxy] = []
    try:
        if case.is_tunnelled:
            carriers.append(Tunnel(link, (reduction.recv_handle(controller), reduction.recv_handle(learners))))
        for _ in ("plain TCP", "the federation"):
            port = answer(controller, ends)
            if case.is_tunnelled:
                learners.send((HOSTS[0], port))
            else:
                proxy = Proxy(link, port)
                carriers.append(proxy)
                learners.send(("127.0.0.1", proxy.port))
        told: dict[str, Any] = answer(controller, ends)
        for process in ends:
            process.join(FAREWELL_S)
    finally:
        for process in ends:
            process.kill()
        for carrier in carriers:
            carrier.close()
    told |= {
        "parameters": case.parameters,
        "learners": case.learners,
        "evaluation": "on" if case.evaluate_every else "off",
        "codecs": ", ".join(case.codecs),
        "rounds": case.rounds,
        "of_link": told["moved_mb"] * 1e6 / told["seconds"] / link.bytes_per_s,
        "tcp_of_link": told["tcp_of_link"] / link.bytes_per_s,
        "lost": sum(way.lost + way.overflowed for carrier in carriers for way in carrier.ways),
    }
    return told


def answer(controller: Connection, ends: Sequence[BaseProcess]) -> Any:
    """Wait for what the controller says next, unless a process ends before; that of the learners may end well."""
    while not controller.poll(1.0):
        has_ended = ends[0].exitcode is not None and not controller.poll()
        if has_ended or ends[1].exitcode:
            raise SystemExit("one of the two processes failed; see above")
    return controller.recv()


def main() -> None:
    run = Run(
        __doc__,
        rate_mbit=20.0,
        delay_ms=50.0,
        loss=0.01,
        parameters=1_000_000,
        learners=5,
        rounds=3,
        evaluate_every=1,
        made_of="packets" if is_tunnel_possible() else "pauses",
        congestion="",
    )
    options = run.options
    link = Link(options["rate_mbit"], options["delay_ms"] / 1e3, options["loss"])
    print(
        f"\n{options['learners']} learners share a link of {link.rate_mbit:g} Mbit/s, {options['delay_ms']:g} ms and "
        f"{link.loss:.1%} of loss, each way"
    )
    table = run.table("link", COLUMNS)
    first_s = 0.0
    for codecs in CODECS[::2] if run.is_quick else CODECS:
        case = Case(
            min(options["parameters"], 50_000) if run.is_quick else options["parameters"],
            options["learners"],
            options["rounds"],
            options["evaluate_every"],
            options["made_of"],
            options["congestion"],
            codecs,
        )
        told = measure(link, case)
        first_s = first_s or told["seconds"]
        told["of_first"] = told["seconds"] / first_s
        table.add(**{name: told[name] for name in COLUMNS})
    run.end()


if __name__ == "__main__":
    main()
