"""The command that checks a learner, and prints what it does wrong."""

from __future__ import annotations

import json
import logging
import sys

import click

from metisfl_async.cli.running import run
from metisfl_async.conformance.cases import CASES
from metisfl_async.conformance.check import Verdict
from metisfl_async.conformance.check import check_learner as check
from metisfl_async.core.errors import ConfigError
from metisfl_async.core.metrics import Json

__all__ = ["check_learner"]


@click.command("check-learner")
@click.argument("address", metavar="HOST:PORT")
@click.option("--train-params", default="{}", metavar="JSON", help="What its tasks say, as train_params do.")
@click.option(
    "--case-timeout-secs",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECS",
    help="How long each case may take; give more if training takes long.",
)
def check_learner(address: str, train_params: str, case_timeout_secs: float) -> None:
    """Wait at HOST:PORT for a learner of yours, in any language, and put it through what happens to learners.

    Start your learner when this waits, as if a controller were there, without TLS. It exits with 0 if all is well.

    \b
    Example:
      metisfl-async check-learner 127.0.0.1:50051
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError("HOST:PORT", address, "a host and a port, such as 127.0.0.1:50051")
    logging.getLogger("metisfl_async").addHandler(logging.NullHandler())  # what the cases break on purpose
    verdicts = run(
        check(
            host,
            int(port),
            train_params=_params(train_params),
            case_timeout_secs=case_timeout_secs,
            on_listening=lambda port: click.echo(f"waiting for a learner that dials {host}:{port}"),
            on_verdict=_print,
        )
    )
    passed = sum(not verdict.why for verdict in verdicts)
    click.echo(f"{passed} of {len(CASES)} cases passed")
    if passed < len(CASES):
        sys.exit(1)


def _params(text: str) -> dict[str, Json]:
    try:
        params = json.loads(text)
    except ValueError:
        params = None
    if not isinstance(params, dict):
        raise ConfigError("--train-params", text, "a JSON object")
    return params


def _print(verdict: Verdict) -> None:
    if verdict.why:
        click.echo(f"FAILED  {verdict.case.name}: it must {verdict.case.must}\n        {verdict.why}")
    else:
        click.echo(f"ok      {verdict.case.name}")
