"""The page as one file, which needs no server and loads nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.web.board import Board
from metisfl_async.web.files import FILES, SCRIPTS, STYLES, page

__all__ = ["as_file", "saved_page"]


def saved_page(records: Iterable[RoundRecord], reason: str, facts: Mapping[str, Any]) -> bytes:
    """Make a page of a run that is over, which replays it; `facts` are what records do not tell."""
    board = Board()
    for _ in board.load(sorted(records, key=lambda record: record.started_ms)):
        pass
    board.end(reason, facts)
    return as_file([board.rows.since(0, len(board.rows)).text])


def as_file(parts: Iterable[str]) -> bytes:
    """Put everything into one file; each part is a JSON list of rows.

    Its policy allows these scripts and styles alone, whatever the texts of learners are.
    """
    html = page().decode()
    for name in STYLES:
        html = html.replace(f'<link rel="stylesheet" href="{name}">', f"<style>{_text(name)}</style>")
    for name in SCRIPTS:
        html = html.replace(f'<script defer src="{name}"></script>\n', "")
    rows = ",".join(part[1:-1] for part in parts if part)
    data = f"[{rows}]".replace("<", "\\u003c")
    scripts = "".join(f"<script>{_text(name)}</script>\n" for name in SCRIPTS)
    html = html.replace("</body>", f'<script type="application/json" id="saved">{data}</script>\n{scripts}</body>')
    policy = (
        f"default-src 'none'; style-src {' '.join(_hash(name) for name in STYLES)}; "
        f"script-src {' '.join(_hash(name) for name in SCRIPTS)}"
    )
    return html.replace("<title>", f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>').encode()


def _text(name: str) -> str:
    return FILES[name][0].decode()


def _hash(name: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(FILES[name][0]).digest()).decode()}'"
