"""The command that writes a new project."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

import click

from metisfl_async.core.errors import ConfigError

__all__ = ["new", "write_project"]

SUFFIX = ".txt"  #: of the files in the package, which are no modules there


def write_project(directory: Path) -> list[Path]:
    """Write the files of a project that runs at once; none that is there is overwritten."""
    sources = [source for source in files("metisfl_async.cli.project").iterdir() if source.name.endswith(SUFFIX)]
    made = {directory / source.name.removesuffix(SUFFIX): source.read_text(encoding="utf-8") for source in sources}
    if there := sorted(path.name for path in made if path.exists()):
        raise ConfigError("DIR", str(directory), f"a directory without {', '.join(there)}")
    directory.mkdir(parents=True, exist_ok=True)
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    return sorted(made)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def new(directory: Path) -> None:
    """Write a project into DIR that runs at once: a learner, a federation of three, and a test.

    \b
    Example:
      metisfl-async new my-federation
      cd my-federation
      metisfl-async run federation.yaml --module learners:MyLearner --output results
    """
    for path in write_project(directory):
        click.echo(path)
    command = "metisfl-async run federation.yaml --module learners:MyLearner --output results"
    click.echo(f"to run it: cd {shlex.quote(str(directory))} && {command}", err=True)
