"""What others wrote is in the package as they published it, with its licence."""

from __future__ import annotations

import hashlib
from pathlib import Path

import metisfl_async.web

STATIC = Path(metisfl_async.web.__file__).parent / "static"


def test_uplot_is_what_npm_has() -> None:
    lines = (STATIC / "SHA256SUMS").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["uplot.js", "uplot.css", "uplot.LICENSE"]
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest, name
    assert "MIT" in (STATIC / "uplot.LICENSE").read_text()
