"""The options of simulated learners."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from metisfl_async.cli.factory import import_factory
from metisfl_async.core.errors import ConfigError

__all__ = ["simulation_from", "simulation_options"]

OPTIONS = (
    click.option("--workers", type=click.IntRange(1), metavar="N", help="How many processes work for --simulate."),
    click.option("--cached", type=click.IntRange(0), metavar="N", help="How many learners each worker keeps."),
    click.option(
        "--keep-state",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Keep what simulated learners remember there, from task to task.",
    ),
    click.option(
        "--sizes",
        metavar="MODULE:NAME",
        help="A function of a learner's number: what a task costs; large ones go first.",
    ),
    click.option(
        "--speeds",
        metavar="MODULE:NAME",
        help="A function of a learner's number: how much of --sizes it does in a second.",
    ),
)


def simulation_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of simulated learners."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def simulation_from(given: Mapping[str, Any], *, is_simulated: bool) -> dict[str, Any]:
    """Make the arguments of a `Simulation` of what was given; refuse it where nothing is simulated."""
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if not is_simulated:
            raise ConfigError(option, str(value) if isinstance(value, Path) else value, "with --simulate N")
        if name in ("sizes", "speeds"):
            options[name] = import_factory(value, option)
    return options
