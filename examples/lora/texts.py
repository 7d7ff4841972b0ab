"""Text that is on the machine already: changelogs of its packages, or, without those, what Python says of itself."""

from __future__ import annotations

import gzip
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

DOCS = Path("/usr/share/doc")  # of Debian's packages
PER_PACKAGE = 1500  # characters of each, so that no package is all there is


def texts(num_parts: int, length: int, docs: Path = DOCS) -> list[str]:
    """Give each learner another text, of at least so many characters where there are as many."""
    pieces = list(_changelogs(docs)) or list(topics.values())
    random.Random(1990).shuffle(pieces)
    parts = []
    for number in range(num_parts):
        part = ""
        for piece in pieces[number::num_parts]:
            if len(part) < length:
                part += piece[:PER_PACKAGE] + "\n"
        parts.append(part)
    return parts


def _changelogs(docs: Path) -> Iterator[str]:
    for path in sorted(docs.glob("*/changelog.Debian.gz")):
        with gzip.open(path, "rt", errors="replace") as file:
            lines = file.read(2 * PER_PACKAGE).splitlines()
        yield "\n".join(line for line in lines if not line.startswith(" --"))  # who signed it is nobody's business here
