"""Makes tokens, and keeps what is needed to know them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from metisfl_async.core.access import Identity, parsed_identity
from metisfl_async.core.credentials import Tokens, digest_of, new_secret
from metisfl_async.core.errors import ConfigError

__all__ = ["add_tokens"]


def add_tokens(file: Path, identities: Sequence[Identity]) -> list[tuple[Identity, str]]:
    """Make a token for each, and add its digest to a file, which is made if it is not there."""
    for identity in identities:
        parsed_identity("name", str(identity))
    try:
        before = file.read_text() if file.exists() else ""
        Tokens(before)
        made = [(identity, new_secret()) for identity in identities]
        lines = "".join(f"{identity} {digest_of(secret)}\n" for identity, secret in made)
        text = before + ("\n" if before and not before.endswith("\n") else "") + lines
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(text)
        unfinished.replace(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("FILE", str(file), f"a file of tokens, or one that can be made ({error})") from error
    return made
