"""What a log shows to people, and what a file keeps for programs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from metisfl_async.cli.console import keep_audit, show_log
from metisfl_async.core.access import Caller
from metisfl_async.transport.audit import AUDIT, Audit


async def test_the_audit_is_words_in_the_log_and_json_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for logger in (root := logging.getLogger(), audit := logging.getLogger(AUDIT)):
        monkeypatch.setattr(logger, "handlers", [])  # as in a process that has begun
        monkeypatch.setattr(logger, "level", logging.INFO)
    show_log({}, verbose=False)
    keep_audit(tmp_path / "audit.jsonl")
    Audit().note("started", Caller("ipv4:10.0.0.1:5"), federation="f")
    for handler in (*root.handlers, *audit.handlers):
        handler.close()
    said = capsys.readouterr().err
    assert said.endswith(' INFO audit: started: somebody at ipv4:10.0.0.1:5, federation="f"\n')
    assert json.loads((tmp_path / "audit.jsonl").read_text())["what"] == "started"
