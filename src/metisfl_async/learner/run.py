"""Run a learner until its federation is over."""

from __future__ import annotations

import asyncio
from pathlib import Path

from metisfl_async.core.config import ClientParams, ServerParams
from metisfl_async.core.errors import ConfigError
from metisfl_async.learner.client import LearnerClient
from metisfl_async.learner.learner import Learner
from metisfl_async.learner.server import ListeningLearner, checked_address
from metisfl_async.learner.spool import Spool
from metisfl_async.learner.stopping import STOP_TIMEOUT_S, Stopping
from metisfl_async.learner.worker import Worker, WorkerKind
from metisfl_async.transport.grpc_link import GrpcLink

__all__ = ["app", "run_learner"]


async def run_learner(
    learner: Learner,
    client_params: ClientParams,
    server_params: ServerParams | None = None,
    *,
    learner_id: str = "",
    public_address: str = "",
    worker: WorkerKind = "thread",
    connect_timeout_secs: float | None = None,
    spool_dir: str | Path | None = None,
    stop_timeout_secs: float | None = STOP_TIMEOUT_S,
) -> None:
    """Join a controller, do the tasks that come, and return when the federation is over.

    The controller may be started later, or again: connections are made anew with growing, jittered pauses of at most
    10 s, and work goes on meanwhile.

    Parameters
    ----------
    learner : Learner
    client_params : ClientParams
        The controller's address; with a root certificate, over TLS.
    server_params : ServerParams, optional
        Where the learner listens, so that it holds no connection: the controller dials it for each task. It must have
        been told to, in `ControllerConfig.learners` or in the learners of a `DriverSession`. Without them, the learner
        dials, and holds its connection.
    learner_id : str, optional
        The name under which it is known. A learner that is started again under its name takes its place again. Without
        one, the controller gives a number; a learner that listens has its address for a name.
    public_address : str, optional
        For a learner that listens: "host:port" as the controller was told it, where that is not that of
        `server_params`: behind a forwarded port, or when it listens on all addresses ("0.0.0.0").
    worker : {"thread", "process"} or concurrent.futures.Executor
        Where ``def`` methods run. "process" spawns a process that gets a pickled copy of the learner and keeps it.
    connect_timeout_secs : float, optional
        Give up if the first connection did not succeed in so long. Without it, try for ever.
    spool_dir : str or Path, optional
        Keep a finished update in this directory until it is settled: a learner that is started again sends it, instead
        of training again. One learner uses a directory.
    stop_timeout_secs : float, optional
        When a task is not wanted any more, because of a stop, a cancellation or a deadline: how long its method may go
        on before it is given up; None = for ever. One in a thread is left alone then, also when the interpreter ends,
        and nothing else is asked of the learner before it has ended: tasks fail with the reason. An ``async def``
        method is closed: its ``await`` raises GeneratorExit. A process is not waited for at all, but ended.

    Raises
    ------
    ConfigError
        If the learner listens where the controller was not told to dial.
    UnexpectedMessage
        If the learner is still in a method that was given up.
    TransportError
        If no connection was made within `connect_timeout_secs`, or the learner's port cannot be had.
    """
    if not isinstance(learner, Learner):
        raise ConfigError("learner", learner, "an instance of a subclass of Learner")
    if not isinstance(client_params, ClientParams):
        raise ConfigError("client_params", client_params, "the ClientParams of the controller")
    if not isinstance(learner_id, str):
        raise ConfigError("learner_id", learner_id, "a string")
    of_learner = Worker(learner, worker, name=learner_id, stopping=Stopping(stop_timeout_secs))
    spool = None if spool_dir is None else Spool(spool_dir)
    if server_params is not None:
        if not isinstance(server_params, ServerParams):
            raise ConfigError("server_params", server_params, "a ServerParams, or None")
        listening = ListeningLearner(
            of_learner,
            client_params,
            server_params,
            learner_id=learner_id,
            public_address=checked_address(server_params, public_address),
            connect_timeout_s=connect_timeout_secs,
            spool=spool,
        )
        async with listening:
            await listening.run()
        return
    if public_address:
        raise ConfigError("public_address", public_address, "nothing, or give server_params: this learner has no port")
    link = GrpcLink(client_params)
    try:
        await LearnerClient(link, of_learner, learner_id, connect_timeout_secs, spool).run()
    finally:
        await link.close()


def app(
    learner: Learner,
    client_params: ClientParams,
    server_params: ServerParams | None = None,
    *,
    learner_id: str = "",
    public_address: str = "",
    worker: WorkerKind = "thread",
    connect_timeout_secs: float | None = None,
    spool_dir: str | Path | None = None,
    stop_timeout_secs: float | None = STOP_TIMEOUT_S,
) -> None:
    """Do `run_learner` as a plain call that blocks, as MetisFL's function of this name does."""
    asyncio.run(
        run_learner(
            learner,
            client_params,
            server_params,
            learner_id=learner_id,
            public_address=public_address,
            worker=worker,
            connect_timeout_secs=connect_timeout_secs,
            spool_dir=spool_dir,
            stop_timeout_secs=stop_timeout_secs,
        )
    )
