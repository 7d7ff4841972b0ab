"""The commands."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from metisfl_async import __version__
from metisfl_async.cli.conformance import check_learner
from metisfl_async.cli.console import keep_audit, show_log
from metisfl_async.cli.credentials import certs, token
from metisfl_async.cli.factory import Simulated, import_factory, make_learner, read_args
from metisfl_async.cli.new import new
from metisfl_async.cli.pages import page, page_option, showing
from metisfl_async.cli.running import allow_many_files, exit_on_signals, run
from metisfl_async.cli.saving import Output
from metisfl_async.cli.simulating import simulation_from, simulation_options
from metisfl_async.controller.controller import Controller
from metisfl_async.core.errors import ConfigError, MetisError, StoreError
from metisfl_async.driver.session import DriverSession
from metisfl_async.environment.entries import InProcess
from metisfl_async.environment.environment import FederationEnvironment
from metisfl_async.simulation.simulation import Simulation

__all__ = ["run_app"]

logger = logging.getLogger("metisfl_async.cli")

PARTY = {"metisfl_async": logging.INFO}
DRIVER = {"metisfl_async": logging.WARNING, "metisfl_async.cli": logging.INFO, "metisfl_async.driver": logging.INFO}

A_PATH = click.Path(path_type=Path)

env_argument = click.argument("env", type=A_PATH)
module_option = click.option(
    "--module",
    "-m",
    required=True,
    metavar="MODULE:NAME",
    help="A Learner class, or a function that gives one; in the current directory or installed.",
)
args_option = click.option(
    "--arg", "-a", "args", multiple=True, metavar="KEY=VALUE", help="For its constructor; wins over args in the file."
)
output_option = click.option(
    "--output",
    "-o",
    type=A_PATH,
    default=Path(),
    metavar="DIR",
    help="For results.json, results.png, model.safetensors, and best.safetensors; without it, the current directory.",
)
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the results of an earlier run in DIR; without it or --resume, none may be there.",
)
CREDENTIALS = (
    click.option("--certificate", type=A_PATH, metavar="FILE", help="Who you are, for a controller that asks for it."),
    click.option("--private-key", type=A_PATH, metavar="FILE", help="That belongs to --certificate."),
    click.option(
        "--token-file",
        type=A_PATH,
        metavar="FILE",
        help="A file with your token, instead of a certificate; or set METISFL_TOKEN.",
    ),
)
resume_option = click.option(
    "--resume", is_flag=True, help="Go on with the federation in the model store that is not finished, if there is one."
)
verbose_option = click.option("--verbose", "-v", is_flag=True, help="Log every message.")


def with_credentials(environment: FederationEnvironment, given: Mapping[str, Path | None]) -> FederationEnvironment:
    """Take the credentials that the command line or METISFL_TOKEN gives."""
    file, token = given["token_file"], os.environ.get("METISFL_TOKEN")
    if file is not None:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("--token-file", str(file), f"a file with a token ({error})") from error
    return environment.with_credentials(
        certificate=given["certificate"], private_key=given["private_key"], token=token or None
    )


def takes_credentials(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say who calls."""
    for option in reversed(CREDENTIALS):
        command = option(command)
    return command


def run_app() -> None:
    """Do what the command line says, and exit with what came of it."""
    exit_on_signals()
    try:
        app(prog_name="metisfl-async")
    except ConfigError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except MetisError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="metisfl-async %(version)s")
def app() -> None:
    """Run a federation that one file describes: a controller, learners where the data is, and a driver.

    \b
    A new one, which runs at once:
      metisfl-async new my-federation
    \b
    In one process:
      metisfl-async run federation.yaml --module learners:MyLearner
    \b
    On many machines, each with the same file:
      metisfl-async controller federation.yaml
      metisfl-async learner federation.yaml --module learners:MyLearner --id site-1
      metisfl-async driver federation.yaml --output results
    \b
    With TLS between them:
      metisfl-async certs certs --host controller.example

    ENV is the environment file everywhere. Ctrl-C and SIGTERM end each command in order; training that is under way is
    waited for, for stop_timeout_secs at most. A second one waits for nothing.
    """


@app.command()
@env_argument
@resume_option
@page_option
@click.option("--audit", type=A_PATH, metavar="FILE", help="Also append to it who did what, as lines of JSON.")
@verbose_option
def controller(env: Path, resume: bool, has_page: bool, audit: Path | None, verbose: bool) -> None:
    """Run the controller until a driver has shut it down.

    Each learner that dials is an open file of this process, or two while it sends a large update: the soft limit
    (ulimit -n) is raised to the hard one.

    \b
    Example:
      metisfl-async controller federation.yaml
      metisfl-async controller federation.yaml --resume --audit audit.jsonl
    """
    show_log(PARTY, verbose=verbose)
    if audit is not None:
        keep_audit(audit)
    allow_many_files()
    run(_serve(FederationEnvironment.from_yaml(env).controller(resume=resume), has_page))


async def _serve(served: Controller, has_page: bool) -> None:
    async with served:
        logger.info("the controller listens on %s", served.address)
        await showing(served, has_page, served.serve)


@app.command()
@env_argument
@module_option
@click.option("--id", "learner_id", default="", metavar="NAME", help="Which learner of the file this is.")
@args_option
@click.option(
    "--worker",
    type=click.Choice(["thread", "process"]),
    help="Where it trains: in a thread, or in a process of its own; without it, what the file says.",
)
@click.option("--spool-dir", type=A_PATH, metavar="DIR", help="Keep finished updates there until they count.")
@click.option(
    "--connect-timeout-secs", type=float, metavar="SECS", help="Give up if the controller is not there in so long."
)
@click.option(
    "--stop-timeout-secs",
    type=float,
    metavar="SECS",
    help="How long a method may go on that is told to end; without it, what the file says.",
)
@takes_credentials
@verbose_option
def learner(
    *,
    env: Path,
    module: str,
    learner_id: str,
    args: tuple[str, ...],
    worker: InProcess | None,
    spool_dir: Path | None,
    connect_timeout_secs: float | None,
    stop_timeout_secs: float | None,
    verbose: bool,
    **credentials: Path | None,
) -> None:
    """Run one learner until the federation is over; it waits for its controller, and comes back to it.

    \b
    Examples:
      metisfl-async learner federation.yaml --module learners:MyLearner --id site-1
      metisfl-async learner federation.yaml -m learners:MyLearner --id site-2 --arg data=images.npz
    """
    show_log(PARTY, verbose=verbose)
    environment = with_credentials(FederationEnvironment.from_yaml(env), credentials)
    entry = environment.entry(learner_id)
    made = make_learner(module, import_factory(module), entry.args | read_args(args))
    run(
        environment.run_learner(
            made,
            entry.learner_id,
            worker=worker,
            connect_timeout_secs=connect_timeout_secs,
            spool_dir=spool_dir,
            stop_timeout_secs=stop_timeout_secs,
        ),
    )


@app.command()
@env_argument
@output_option
@overwrite_option
@resume_option
@page_option
@takes_credentials
@verbose_option
def driver(
    *,
    env: Path,
    output: Path,
    overwrite: bool,
    resume: bool,
    has_page: bool,
    verbose: bool,
    **credentials: Path | None,
) -> None:
    """Start the federation, show how it goes, end it, and save what came of it.

    \b
    Example:
      metisfl-async driver federation.yaml --output results
    """
    show_log(DRIVER, verbose=verbose)
    environment = with_credentials(FederationEnvironment.from_yaml(env), credentials)
    results = Output(output, replaces=overwrite or resume)
    _drive(environment.session(), results, resume=resume, has_page=has_page)


@app.command("run")
@env_argument
@module_option
@args_option
@output_option
@overwrite_option
@resume_option
@page_option
@click.option("--listen", is_flag=True, help="Talk over the controller's port instead of in memory.")
@click.option("--rounds", type=int, metavar="N", help="Instead of the file's federation_rounds.")
@click.option("--seed", type=int, metavar="N", help="Instead of the file's.")
@click.option(
    "--initial-weights", type=A_PATH, metavar="FILE", help="Where training starts: a model.safetensors of another run."
)
@click.option("--simulate", type=click.IntRange(1), metavar="N", help="N learners that exist while they work.")
@simulation_options
@verbose_option
def run_all(
    *,
    env: Path,
    module: str,
    args: tuple[str, ...],
    output: Path,
    overwrite: bool,
    resume: bool,
    has_page: bool,
    listen: bool,
    rounds: int | None,
    seed: int | None,
    initial_weights: Path | None,
    simulate: int | None,
    verbose: bool,
    **simulated: Any,
) -> None:
    """Run all of it in this process: the controller, a learner for each entry of the file, and the driver.

    With --listen, each learner is two to four open files: the soft limit (ulimit -n) is raised to the hard one.

    \b
    Examples:
      metisfl-async run federation.yaml --module learners:MyLearner --output results
      metisfl-async run federation.yaml -m learners:MyLearner --rounds 2 --initial-weights results/model.safetensors
      metisfl-async run federation.yaml -m learners:MyLearner --simulate 1000 --workers 4
      metisfl-async run federation.yaml -m learners:MyLearner --simulate 1000 --keep-state states --sizes learners:size
    """
    show_log(DRIVER, verbose=verbose)
    allow_many_files()
    environment = FederationEnvironment.from_yaml(env)
    if rounds is not None:
        signals = replace(environment.termination_signals, federation_rounds=rounds)
        environment = replace(environment, termination_signals=signals)
    if seed is not None:
        environment = replace(environment, session_options=replace(environment.session_options, seed=seed))
    options = simulation_from(simulated, is_simulated=simulate is not None)
    factory, given = import_factory(module), read_args(args)
    learners = (
        [make_learner(module, factory, entry.args | given) for entry in environment.learners]
        if simulate is None
        else Simulation(Simulated(module, given), learners=simulate, **options)
    )
    results = Output(output, replaces=overwrite or resume)
    session = environment.session(learners, listen=listen, initial_weights=initial_weights)
    _drive(session, results, resume=resume, has_page=has_page)


def _drive(session: DriverSession, output: Output, *, resume: bool, has_page: bool) -> None:
    try:
        result = run(showing(session, has_page, lambda: session.run(progress=True, resume=resume)))
    except (MetisError, SystemExit):  # it failed, or was interrupted: what was reached is saved all the same
        if session.result is not None and session.result.rounds:
            try:
                output.save(session.result, has_page=has_page)
            except StoreError as error:
                logger.error("%s", error)
        raise
    try:
        output.save(result, has_page=has_page)
    finally:
        click.echo(result)


for command in (certs, check_learner, new, page, token):
    app.add_command(command)
