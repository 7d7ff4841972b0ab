"""The command, run as its users run it: in processes of its own."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "environment"
PATIENCE_S = 60.0  #: a hang fails after this
SITES = ["site-1", "site-2", "site-3"]
MODULE = ["--module", "learners:DigitsLearner"]

Popen = subprocess.Popen[str]
Start = Callable[..., Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """Give a function that starts the command beside the example's learners; what hangs, or is left over, is killed."""
    with ExitStack() as stack:

        def started(*arguments: str | Path) -> Popen:
            command = [sys.executable, "-W", "error", "-m", "metisfl_async.cli", *map(str, arguments)]
            process = stack.enter_context(
                subprocess.Popen(command, cwd=EXAMPLE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            )
            watchdog = threading.Timer(PATIENCE_S, process.kill)
            watchdog.start()
            stack.callback(watchdog.cancel)
            stack.callback(process.kill)
            return process

        yield started


def test_the_collector_does_not_look_again_at_what_was_imported() -> None:
    code = (
        "import gc; from metisfl_async.cli.running import run\n"
        "async def main(): return gc.get_freeze_count(), len(gc.get_objects())\n"
        "frozen, others = run(main()); assert frozen > 10 * others, (frozen, others)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def output_of(process: Popen) -> str:
    output, _ = process.communicate(timeout=PATIENCE_S)
    return output


def wait_for(process: Popen, text: str) -> None:
    """Read its output until something is said."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("".join(seen))


def environment(folder: Path, port: int, *, rounds: int = 3, certs: str = "") -> Path:
    """Write the example's file with another port, fewer rounds and perhaps TLS."""
    text = (EXAMPLE / "federation.yaml").read_text()
    text = text.replace("port: 50051", f"port: {port}").replace("federation_rounds: 10", f"federation_rounds: {rounds}")
    if certs:
        text = re.sub(r"# (\w+_certificate|private_key): certs/", rf"\1: {certs}/", text)
    file = folder / "federation.yaml"
    file.write_text(text)
    return file


def check_results(folder: Path, *, rounds: int = 3) -> None:
    results = json.loads((folder / "results.json").read_text())
    assert [sorted(record["learners"]) for record in results["rounds"]] == [SITES] * rounds
    assert results["rounds"][-1]["evaluation_metrics"]["accuracy"] > 0.85  # by chance: 0.1
    tensors = load_file(folder / "model.safetensors")
    scores = [record["evaluation_metrics"]["accuracy"] for record in results["rounds"]]
    best = results["best"]
    assert (best["score"], best["round_number"]) == (max(scores), 1 + scores.index(max(scores)))
    assert load_file(folder / "best.safetensors").keys() == tensors.keys()
    assert [tensors[name].shape for name in sorted(tensors)] == [(64, 10), (10,)]
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_five_processes_train_together(tmp_path: Path, free_port: int, start: Start, tls: bool) -> None:
    """One of the learners listens."""
    if tls:
        made = start("certs", tmp_path / "keys")
        assert output_of(made).splitlines()[0] == str(tmp_path / "keys" / "ca.pem")
    file = environment(tmp_path, free_port, certs="keys" if tls else "")
    with socket.create_server(("127.0.0.1", 0)) as server:
        listening = f"    hostname: localhost\n    port: {server.getsockname()[1]}\n"
    if tls:
        listening += "".join(
            f"    {key}: keys/{name}\n"
            for key, name in (
                ("root_certificate", "ca.pem"),
                ("server_certificate", "client.pem"),
                ("private_key", "client.key"),
            )
        )
    file.write_text(file.read_text().replace("  - learner_id: site-3\n", f"  - learner_id: site-3\n{listening}"))
    learners = [start("learner", file, *MODULE, "--id", site) for site in SITES]
    driver = start("driver", file, "--output", tmp_path / "out")
    controller = start("controller", file, "--audit", tmp_path / "audit.jsonl")
    said = output_of(driver)
    assert driver.returncode == 0, said
    assert said.count("3 of 3 updates") == 3
    assert "<FederationResult: 3 rounds, accuracy=0." in said
    for process in (*learners, controller):
        said = output_of(process)
        assert process.returncode == 0, said
        assert "Traceback" not in said
    assert "INFO audit: joined: " in said  # the controller's
    assert "{" not in said
    audit = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["what"] for line in audit].count("joined") == 3
    check_results(tmp_path / "out")


@pytest.mark.parametrize("options", [[], ["--listen"]], ids=["in memory", "over the port"])
def test_all_of_it_runs_in_one_process(tmp_path: Path, free_port: int, start: Start, options: list[str]) -> None:
    file = environment(tmp_path, free_port)
    process = start("run", file, *MODULE, *options, "--output", tmp_path / "out")
    said = output_of(process)
    assert process.returncode == 0, said
    check_results(tmp_path / "out")


def test_arguments_of_the_command_line_win_over_those_of_the_file(tmp_path: Path, free_port: int, start: Start) -> None:
    process = start("run", environment(tmp_path, free_port), *MODULE, "-a", "parts=30", "-o", tmp_path)
    assert process.wait(PATIENCE_S) == 0
    first = json.loads((tmp_path / "results.json").read_text())["rounds"][0]["learners"]
    assert [first[site]["weight"] for site in SITES] == [48, 48, 48]  # a thirtieth of 1797, without a fifth


def test_a_file_is_simulated_with_many_learners(tmp_path: Path, free_port: int, start: Start) -> None:
    options = ["--simulate", "6", "--workers", "1", "-a", "parts=6"]
    file = environment(tmp_path, free_port)
    file.write_text(re.sub(r"(?ms)^learners:.*?(?=^\S|\Z)", "", file.read_text()))  # all there are is simulated
    process = start("run", file, *MODULE, *options, "-o", tmp_path)
    said = output_of(process)
    assert process.returncode == 0, said
    rounds = json.loads((tmp_path / "results.json").read_text())["rounds"]
    assert [len(record["participants"]) for record in rounds] == [6] * 3
    process = start("run", file, *MODULE, "-o", tmp_path, "--overwrite")
    assert "learners is None; allowed: a list with an entry for each learner" in output_of(process)
    assert process.returncode == 2
    assert rounds[2]["evaluation_metrics"]["accuracy"] > 0.8


def test_simulated_learners_are_kept_remember_and_take_their_time(
    tmp_path: Path, free_port: int, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(
        "from learners import DigitsLearner\n"
        "class Kept(DigitsLearner):\n"
        "    def state(self): return b'kept'\n"
        "    def restore(self, state): assert state == b'kept'\n"
        "def size(number): return 1.0 + number\n"
        "def speed(number):\n"
        "    assert number < 3\n"
        "    return 1000.0\n"
    )
    options = ["--simulate", "3", "--workers", "1", "-a", "parts=3", "--cached", "3", "--keep-state", tmp_path / "kept"]
    timed = ["--sizes", "own:size", "--speeds", "own:speed"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    file = environment(tmp_path, free_port)
    process = start("run", file, "-m", "own:Kept", *options, *timed, "-o", tmp_path)
    said = output_of(process)
    assert process.returncode == 0, said
    rounds = json.loads((tmp_path / "results.json").read_text())["rounds"]
    assert [len(record["participants"]) for record in rounds] == [3] * 3
    assert any(each.is_file() for each in (tmp_path / "kept").rglob("*"))


def test_rounds_seed_and_first_weights_may_be_said_on_the_command_line(
    tmp_path: Path, free_port: int, start: Start
) -> None:
    file = environment(tmp_path, free_port, rounds=1)
    assert start("run", file, *MODULE, "-o", tmp_path / "first").wait(PATIENCE_S) == 0
    again = [*MODULE, "--rounds", "2", "--seed", "7", "--initial-weights", tmp_path / "first" / "model.safetensors"]
    process = start("run", file, *again, "-o", tmp_path / "second")
    said = output_of(process)
    assert process.returncode == 0, said
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("first", "second"))
    assert second["reason"] == "federation_rounds=2 reached"
    assert second["first_weights"] == "given"
    loss = "loss"
    assert second["rounds"][0]["evaluation_metrics"][loss] < first["rounds"][0]["evaluation_metrics"][loss]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
@pytest.mark.parametrize("command", ["controller", "learner", "driver", "run"])
def test_a_signal_ends_each_in_order(
    tmp_path: Path, free_port: int, start: Start, command: str, how: signal.Signals
) -> None:
    file = environment(tmp_path, free_port, rounds=1_000_000)
    text = file.read_text().replace("evaluation_metric", "# evaluation_metric")
    file.write_text(text)
    cases: dict[str, tuple[list[str], str]] = {
        "controller": ([], "the controller listens on"),
        "learner": ([*MODULE, "--id", "site-2"], "site-2 waits for"),
        "driver": (["--output", str(tmp_path)], "waiting for 3 learners"),
        "run": ([*MODULE, "--output", str(tmp_path)], "round 2:"),
    }
    options, ready = cases[command]
    process = start(command, file, *options)
    wait_for(process, ready)
    process.send_signal(how)
    said = output_of(process)
    assert process.returncode == 128 + how, said
    assert "Traceback" not in said
    if command == "run":
        check_is_saved(tmp_path)


def check_is_saved(folder: Path) -> None:
    """Check that what an interrupted run had reached is there."""
    results = json.loads((folder / "results.json").read_text())
    assert results["reason"] == "the session was interrupted"
    assert [record["number"] for record in results["rounds"]][:2] == [1, 2]
    assert all(np.isfinite(array).all() for array in load_file(folder / "model.safetensors").values())


def test_a_driver_that_is_interrupted_saves_what_was_reached(tmp_path: Path, free_port: int, start: Start) -> None:
    file = environment(tmp_path, free_port, rounds=1_000_000)
    text = file.read_text().replace("evaluation_metric", "# evaluation_metric")
    file.write_text(text)
    parties = [start("controller", file), *(start("learner", file, *MODULE, "--id", site) for site in SITES)]
    process = start("driver", file, "--output", tmp_path)
    wait_for(process, "round 2:")
    process.send_signal(signal.SIGINT)
    said = output_of(process)
    assert process.returncode == 130, said
    check_is_saved(tmp_path)
    for party in parties:
        assert party.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("command", ["controller", "run", "learner"])
def test_who_has_the_controller_may_open_as_many_files_as_the_machine_allows(
    tmp_path: Path, free_port: int, start: Start, command: str
) -> None:
    file = environment(tmp_path, free_port, rounds=1_000_000)
    cases: dict[str, tuple[list[str], str]] = {
        "controller": ([], "the controller listens on"),
        "run": ([*MODULE, "--output", str(tmp_path)], "round 1:"),
        "learner": ([*MODULE, "--id", "site-1"], "waits for"),
    }
    options, ready = cases[command]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = min(512, soft, hard - 1)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))  # which the command inherits
        process = start(command, file, *options)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(process, ready)
    allowed = psutil.Process(process.pid).rlimit(psutil.RLIMIT_NOFILE)
    assert allowed == ((few, hard) if command == "learner" else (hard, hard))


def test_a_terminals_interrupt_is_quiet_with_learners_in_processes(tmp_path: Path, free_port: int) -> None:
    """Ctrl-C reaches all processes of a terminal's foreground group."""
    file = environment(tmp_path, free_port, rounds=1_000_000)
    text = file.read_text().replace("evaluation_metric", "# evaluation_metric")
    file.write_text(text.replace("worker: thread", "worker: process"))
    command = [sys.executable, "-m", "metisfl_async.cli", "run", str(file), *MODULE, "--output", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=EXAMPLE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        watchdog = threading.Timer(PATIENCE_S, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        try:
            wait_for(process, "round 2:")
            os.killpg(process.pid, signal.SIGINT)
            said = output_of(process)
        finally:
            watchdog.cancel()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, said
    assert "Traceback" not in said


def test_a_second_signal_does_not_wait(tmp_path: Path, free_port: int, start: Start) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import threading\nfrom learners import DigitsLearner\n"
        "class Stubborn(DigitsLearner):\n"
        "    def train(self, parameters, config):\n"
        "        print('it trains', flush=True)\n"
        "        threading.Event().wait()\n"
    )
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from metisfl_async.cli import main; main()"
    command = [sys.executable, "-c", code, str(tmp_path), "run", str(environment(tmp_path, free_port))]
    command += ["-m", "stubborn:Stubborn", "-o", str(tmp_path)]
    with subprocess.Popen(command, cwd=EXAMPLE, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            wait_for(process, "it trains")
            process.send_signal(signal.SIGTERM)
            wait_for(process, "once more")
            process.send_signal(signal.SIGTERM)
            output_of(process)
        finally:
            watchdog.cancel()
            process.kill()
    assert process.returncode == 143


def test_a_wrong_file_is_one_message_and_exit_code_2(tmp_path: Path, free_port: int, start: Start) -> None:
    file = environment(tmp_path, free_port)
    file.write_text(file.read_text().replace("participation_ratio: 1.0", "participation_ratio: 1.5"))
    for command in (["controller"], ["driver"], ["learner", *MODULE], ["run", *MODULE]):
        process = start(command[0], file, *command[1:])
        assert output_of(process) == (
            f"error: {file}, line 9: controller_config.participation_ratio is 1.5; "
            "allowed: a finite number > 0 and <= 1\n"
        )
        assert process.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["learner", "FILE", *MODULE], "learner_id is ''; allowed: one of site-1, site-2, site-3"),
        (["learner", "FILE", *MODULE, "--id", "site1"], "learner_id is 'site1'; allowed: site-1 (the nearest"),
        (
            ["run", "FILE", "-m", "learners:Digits"],
            "--module is 'learners:Digits'; allowed: a name that is in learners",
        ),
        (["run", "FILE", *MODULE, "-a", "size=3"], "got an unexpected keyword argument 'size'"),
        (["run", "FILE", *MODULE, "--simulate", "9", "-a", "part=3"], "takes after its number (multiple values for"),
        (["run", "FILE", *MODULE, "--workers", "2"], "--workers is 2; allowed: with --simulate N"),
        (["run", "FILE", *MODULE, "--cached", "2"], "--cached is 2; allowed: with --simulate N"),
        (["run", "FILE", *MODULE, "--keep-state", "x"], "--keep-state is 'x'; allowed: with --simulate N"),
        (["run", "FILE", *MODULE, "--speeds", "x:y"], "--speeds is 'x:y'; allowed: with --simulate N"),
        (
            ["run", "FILE", *MODULE, "--simulate", "2", "--sizes", "builtins:float"],
            "sizes of learner 0 is 0.0; allowed",
        ),
        (
            ["run", "FILE", *MODULE, "--simulate", "2", "--sizes", "math:exp", "--speeds", "builtins:float"],
            "speeds of learner 0 is 0.0; allowed",
        ),
        (["run", "FILE", *MODULE, "--simulate", "2", "--speeds", "math:exp"], "sizes is None; allowed"),
        (["run", "FILE", *MODULE, "--simulate", "2", "--sizes", "learners:no"], "--sizes is 'learners:no'; allowed: a"),
        (
            ["driver", "FILE", "-o", "learners.py"],
            "--output is 'learners.py'; allowed: a directory that can be written",
        ),
        (
            ["controller", "nowhere.yaml"],
            "the environment file is 'nowhere.yaml'; allowed: a YAML file that can be read",
        ),
        (["certs", "certs", "--host", "a b"], "--host is 'a b'; allowed: a host name in ASCII or an IP address"),
        (["run", "FILE", *MODULE, "--rounds", "0"], "federation_rounds is 0; allowed: an integer >= 1"),
        (
            ["run", "FILE", *MODULE, "--initial-weights", "learners.py"],
            "weights is 'learners.py'; allowed: a safetensors file",
        ),
        (
            ["driver", "FILE", "-o", "DIR"],
            "allowed: a directory without results.json, model.safetensors; or give --overwrite",
        ),
        (
            ["run", "FILE", *MODULE, "-o", "DIR"],
            "allowed: a directory without results.json, model.safetensors; or give --overwrite",
        ),
        (["controller", "FILE", "--audit", "DIR"], "allowed: a file that can be written (Is a directory)"),
        (["certs", "learners.py"], "DIR is 'learners.py'; allowed: a directory that can be written to"),
    ],
)
def test_wrong_arguments_are_one_message_and_exit_code_2(
    tmp_path: Path, free_port: int, start: Start, arguments: list[str], message: str
) -> None:
    file = environment(tmp_path, free_port)
    for name in ("model.safetensors", "results.json"):  # of another run
        (tmp_path / name).write_text("earlier")
    places = {"FILE": file, "DIR": tmp_path}
    process = start(*(places.get(argument, argument) for argument in arguments))
    said = output_of(process)
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
    assert process.returncode == 2


def test_what_others_cause_is_exit_code_1(tmp_path: Path, free_port: int, start: Start) -> None:
    file = environment(tmp_path, free_port)
    process = start("learner", file, *MODULE, "--id", "site-1", "--connect-timeout-secs", "0.1")
    said = output_of(process)
    assert process.returncode == 1
    assert f"error: localhost:{free_port}: " in said
    assert "Traceback" not in said


def test_a_federation_that_fails_saves_what_was_reached(tmp_path: Path, free_port: int, start: Start) -> None:
    file = environment(tmp_path, free_port)
    file.write_text(file.read_text().replace("    epochs: 2\n", ""))  # train() raises a KeyError
    process = start("run", file, *MODULE, "-o", tmp_path)
    said = output_of(process)
    assert process.returncode == 1
    assert "error: " in said.splitlines()[-1]
    assert "KeyError" in said.splitlines()[-1]
    assert len(json.loads((tmp_path / "results.json").read_text())["rounds"]) == 3  # max_failed_rounds


def test_a_driver_that_reached_nothing_leaves_earlier_results(tmp_path: Path, free_port: int, start: Start) -> None:
    (tmp_path / "results.json").write_text("earlier")
    process = start("driver", environment(tmp_path, free_port), "-o", tmp_path, "--overwrite")
    wait_for(process, "the driver waits for")
    process.send_signal(signal.SIGINT)
    assert "saved" not in output_of(process)
    assert process.returncode == 130
    assert (tmp_path / "results.json").read_text() == "earlier"


def test_the_help_teaches(start: Start) -> None:
    for command in ([], ["controller"], ["learner"], ["driver"], ["run"], ["certs"]):
        process = start(*command, "--help")
        said = output_of(process)
        assert process.returncode == 0
        assert f"  metisfl-async {' '.join(command)}" in said
    process = start("--version")
    assert re.fullmatch(r"metisfl-async \d+\.\d+\.\d+\n", output_of(process))


def test_without_its_extra_the_command_says_what_is_missing(tmp_path: Path) -> None:
    for package in ("click", "cryptography"):
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})")
        code = "import sys; sys.path.insert(0, sys.argv.pop()); from metisfl_async.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 2
        assert done.stderr == f"error: {package} is not installed: pip install click cryptography ruamel.yaml\n"


def test_check_learner_says_what_failed(start: Start) -> None:
    process = start("check-learner", "127.0.0.1:0", "--case-timeout-secs", "0.2")
    output = output_of(process)
    assert process.returncode == 1
    assert re.match(r"waiting for a learner that dials 127\.0\.0\.1:\d+\nFAILED  takes part: it must join, ", output)
    assert output.endswith("0 of 9 cases passed\n")


def test_check_learner_says_verdicts_and_nothing_else(tmp_path: Path, start: Start) -> None:
    process = start("check-learner", "127.0.0.1:0")
    assert process.stdout is not None
    port = int(process.stdout.readline().rpartition(":")[2])
    start("learner", environment(tmp_path, port), *MODULE, "--id", "site-1")
    said = output_of(process).splitlines()
    assert [line.split()[0] for line in said] == ["FAILED", "QuorumLost:", "0"]
    assert "KeyError: 'epochs'" in said[1]  # it asks for more than --train-params says


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("nowhere",), "HOST:PORT is 'nowhere'; allowed: a host and a port"),
        (("127.0.0.1:1", "--train-params", "[1]"), "--train-params is '[1]'; allowed: a JSON object"),
    ],
)
def test_check_learner_names_wrong_arguments(start: Start, arguments: tuple[str, ...], error: str) -> None:
    process = start("check-learner", *arguments)
    assert error in output_of(process)
    assert process.returncode == 2
