"""The commands that make credentials: certificates, and tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from metisfl_async.cli.certificates import make_certificates
from metisfl_async.cli.tokens import add_tokens
from metisfl_async.core.access import Identity, Role
from metisfl_async.core.errors import ConfigError

__all__ = ["certs", "token"]

A_PATH = click.Path(path_type=Path)


def roles_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each role."""
    for role in reversed(Role):
        help_ = f"Whom to make one for, that is {'an' if role[0] in 'aeiou' else 'a'} {role}."
        command = click.option(f"--{role}", str(role), multiple=True, metavar="NAME", help=help_)(command)
    return command


@click.command()
@click.argument("directory", metavar="DIR", type=A_PATH)
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name or IP address that is dialled, beside localhost."
)
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="Make a pair for a server of this name; without it and the next ones: server, client.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="How long pairs are good; the authority ten times as long.",
)
@click.option("--force", is_flag=True, help="Overwrite pairs that are there.")
@roles_options
def certs(
    *,
    directory: Path,
    hosts: tuple[str, ...],
    names: tuple[str, ...],
    days: int,
    force: bool,
    **roles: tuple[str, ...],
) -> None:
    """Make certificates for TLS: an authority of your own (ca), and pairs that it signs.

    \b
    Examples:
      metisfl-async certs certs --host controller.example --learner site-1 --learner site-2 --driver alice
      metisfl-async certs certs --learner site-3
      metisfl-async certs certs --name site-1 --host site-1.example

    The first one makes the server's pair too. The second one uses the authority of the first. In the file, the
    controller gets root_certificate: certs/ca.pem, server_certificate: certs/server.pem, private_key: certs/server.key
    and require_client_certificate: true. Each of the others needs ca.pem and its own pair.

    Keep ca.key safe: who has it can pass for everyone. Keys can be read by you alone (mode 0600).
    """
    identities = [Identity(Role(role), name) for role, given in roles.items() for name in given]
    if not identities and not names:
        names = ("server", "client")
    if identities and not names and hosts:
        names = ("server",)
    for file in make_certificates(directory, names, hosts, days, identities=identities, force=force):
        click.echo(file)


@click.command()
@click.argument("file", metavar="FILE", type=A_PATH)
@roles_options
def token(file: Path, **roles: tuple[str, ...]) -> None:
    """Make tokens, for those without certificates: print each once, and add its SHA-256 to FILE.

    The controller gets tokens: FILE. To revoke a token, remove its line: it is out at once. A second token for the same
    name may be there meanwhile.

    \b
    Example:
      metisfl-async token tokens.txt --learner site-1 --learner site-2 --driver alice
    """
    identities = [Identity(Role(role), name) for role, given in roles.items() for name in given]
    if not identities:
        raise ConfigError("token", "nobody", "--learner NAME, --driver NAME, --observer NAME or --controller NAME")
    for identity, secret in add_tokens(file, identities):
        click.echo(f"{identity} {secret}")
