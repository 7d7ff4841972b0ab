"""The three small scripts, as five processes, learners first."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from metisfl_async.cli.certificates import make_certificates
from metisfl_async.core.access import Identity, Role

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parents[2] / "examples" / "three_machines"


def test_three_sites_agree_on_their_mean(tmp_path: Path) -> None:
    sites = ("oslo", "lima", "pune")
    identities = [*(Identity(Role.LEARNER, site) for site in sites), Identity(Role.DRIVER, "alice")]
    make_certificates(tmp_path / "certs", ["server"], [], 30, identities=identities, force=False)
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, str(SCRIPTS / name), *arguments]
            started = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
            )
            stack.callback(started.kill)
            return started

        learners = [start("learner.py", "127.0.0.1", site) for site in sites]
        driver, controller = start("driver.py", "127.0.0.1"), start("controller.py")
        printed, _ = driver.communicate(timeout=60)
        assert "<FederationResult: 10 rounds" in printed, printed
        for learner in learners:
            told, _ = learner.communicate(timeout=60)
            assert "the mean of all sites is about" in told
        assert controller.wait(timeout=60) == 0
