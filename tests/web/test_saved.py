from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from federations import Adds, session_of
from viewers import ask, viewing

from metisfl_async import Failure, FederationResult, LearnerRecord, RoundRecord
from metisfl_async.web import Dashboard
from metisfl_async.web.files import SCRIPTS, STYLES


def data_of(html: str) -> list[list[Any]]:
    (text,) = re.findall(r'<script type="application/json" id="saved">(.*?)</script>', html, re.DOTALL)
    rows: list[list[Any]] = json.loads(text)
    return rows


async def test_a_result_is_one_file_with_everything_in_it(tmp_path: Path) -> None:
    result = await session_of([Adds(1), Adds(2)], rounds=3).run()
    result.save_page(tmp_path / "run.html")
    html = (tmp_path / "run.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!run\.html)', html)
    rows = data_of(html)
    assert [row[2]["number"] for row in rows if row[0] == "round"] == [1, 2, 3]
    (run,) = [row[2] for row in rows if row[0] == "run"]
    assert (run["phase"], run["reason"], run["version"]) == ("finished", "federation_rounds=3 reached", 3)
    result.save(tmp_path / "results.json")
    FederationResult.load(tmp_path / "results.json").save_page(tmp_path / "again.html")
    assert data_of((tmp_path / "again.html").read_text()) == rows


def test_its_policy_allows_its_own_scripts_and_styles_alone_whatever_learners_say(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script><!--"
    part = LearnerRecord("t", "failed", sent_ms=0.0, ended_ms=1.0, failures=[Failure("train", nasty, nasty)])
    record = RoundRecord(1, 0, train_metrics={nasty: 1.0}, learners={nasty: part})
    FederationResult(None, 0, [record], nasty).save_page(tmp_path / "run.html")
    html = (tmp_path / "run.html").read_text()
    assert nasty not in html
    assert [row[2]["id"] for row in data_of(html) if row[0] == "learner"] == [nasty]
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', html)
    bodies = [body for _, body in re.findall(r"<(style|script)>(.*?)</\1>", html, re.DOTALL)]
    assert len(bodies) == len(SCRIPTS) + len(STYLES)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" for body in bodies]
    assert sorted(hashes) == sorted(re.findall(r"'sha256-.*?'", policy))
    assert policy.startswith("default-src 'none'; ")


async def test_a_viewer_may_take_the_page_along() -> None:
    session = session_of([Adds(1)], rounds=2)
    app = Dashboard(session)
    async with viewing(app) as viewer:
        await session.run()
        await viewer.until(lambda viewer: viewer.run.get("phase") == "finished")
        status, headers, html = await ask(app, "/run.html")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "content-security-policy" not in headers  # its own is in the file
    assert len([row for row in data_of(html.decode()) if row[0] == "round"]) == 2
