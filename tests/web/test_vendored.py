"""What others wrote is in the package as they published it, with its licence; what is ours stays small."""

from __future__ import annotations

import hashlib
from pathlib import Path

import metisfl_async.web
from metisfl_async.web.files import SCRIPTS

STATIC = Path(metisfl_async.web.__file__).parent / "static"


def test_uplot_is_what_npm_has() -> None:
    lines = (STATIC / "SHA256SUMS").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["uplot.js", "uplot.css", "uplot.LICENSE"]
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest, name
    assert "MIT" in (STATIC / "uplot.LICENSE").read_text()


def test_the_pages_own_scripts_stay_small_and_readable() -> None:
    own = {name: (STATIC / name).read_text().splitlines() for name in SCRIPTS if name != "uplot.js"}
    assert sum(map(len, own.values())) < 400
    assert [line for lines in own.values() for line in lines if len(line) > 120] == []
