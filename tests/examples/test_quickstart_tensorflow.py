"""The TensorFlow quickstart, run as a user runs it."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart_tensorflow"
IMAGES = "fashion-mnist" if Path("/usr/share/datasets/fashion-mnist").exists() else "digits"
SHORT = ["--dataset", IMAGES, "--limit", "1000", "--rounds", "2", "--epochs", "1"]
PATIENCE_S = 120.0  #: a hang fails after this

Popen = subprocess.Popen[str]


def start(script: str, *arguments: str, folder: Path) -> Popen:
    """Start a script in a session of its own, so that everything it leaves behind can be found."""
    return subprocess.Popen(
        [sys.executable, EXAMPLE / script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        start_new_session=True,
    )


def output_of(process: Popen) -> str:
    output, _ = process.communicate(timeout=PATIENCE_S)
    return output


def left_behind(process: Popen) -> list[psutil.Process]:
    """Give the processes of a session that has ended; kill them, so that a failing test leaves nothing either."""
    left = [other for other in psutil.process_iter() if other.pid != process.pid and _session(other) == process.pid]
    for other in left:
        other.kill()
    return left


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):
        return -1


def check_results(output: str, folder: Path, *, rounds: int = 2) -> None:
    last = output.strip().splitlines()[-1]
    said = re.search(rf"accuracy after {rounds} rounds: (0\.\d{{4}}) \({IMAGES}\)$", last)
    assert said is not None, output
    assert float(said[1]) > 0.3  # by chance: 0.1
    results = json.loads((folder / "results.json").read_text())
    assert results["reason"] == f"federation_rounds={rounds} reached"
    assert results["model_version"] == rounds
    assert [record["number"] for record in results["rounds"]] == list(range(1, rounds + 1))
    for record in results["rounds"]:
        assert record["is_published"]
        assert record["participants"] == ["learner-0", "learner-1", "learner-2"]
        for metrics in (record["train_metrics"], record["evaluation_metrics"]):
            assert metrics.keys() == {"loss", "accuracy"}
        for part in record["learners"].values():
            assert part["train_metadata"]["dataset"] == IMAGES
            assert part["train_metadata"]["num_training_examples"] == part["weight"] in (333, 334)
            assert not part["failures"]
    # The learners' test images are, together, all test images; their sizes differ by one.
    assert results["rounds"][-1]["evaluation_metrics"]["accuracy"] == pytest.approx(float(said[1]), abs=0.005)
    assert (folder / "results.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (folder / "model.safetensors").stat().st_size > 10_000


@pytest.mark.tensorflow
@pytest.mark.parametrize("listening", [[], ["--listen", "--port", "0"]], ids=["in memory", "over gRPC"])
def test_federation_in_one_process(tmp_path: Path, listening: list[str]) -> None:
    process = start("federation.py", *SHORT, *listening, folder=tmp_path)
    output = output_of(process)
    assert process.returncode == 0, output
    check_results(output, tmp_path)
    assert "WARNING" not in output  # TensorFlow is quiet


@pytest.mark.tensorflow
def test_five_processes(tmp_path: Path) -> None:
    process = start("five_processes.py", *SHORT, "--output", "here", folder=tmp_path)
    output = output_of(process)
    assert process.returncode == 0, output
    for name in ("controller", "driver", "learner 0", "learner 1", "learner 2"):
        assert f"{name:<10} | " in output
    assert "learner-0 listens on" not in output
    check_results(output, tmp_path / "here")
    assert left_behind(process) == []


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("how", "when", "listening"),
    [(signal.SIGINT, "trained", ["--listen"]), (signal.SIGTERM, "controller | ", [])],
    ids=["SIGINT, learners that listen train", "SIGTERM, learners begin"],
)
def test_five_processes_end_together_when_interrupted(
    tmp_path: Path, how: signal.Signals, when: str, listening: list[str]
) -> None:
    process = start("five_processes.py", *SHORT, "--rounds", "1000", *listening, folder=tmp_path)
    assert process.stdout is not None
    begun = []
    for line in process.stdout:
        begun.append(line)
        if when in line:
            process.send_signal(how)
            break
    output = "".join(begun) + output_of(process)
    assert process.returncode == 130, output
    assert ("learner-0 listens on 127.0.0.1:" in output) == bool(listening)
    assert left_behind(process) == []


@pytest.mark.tensorflow
def test_five_processes_end_together_when_one_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("five_processes.py", *SHORT, "--port", str(port), folder=tmp_path)
        output = output_of(process)
    assert process.returncode == 1
    assert f"controller | 127.0.0.1:{port}: cannot listen there" in output
    assert "controller ended with exit code 1; the others were ended" in output
    assert left_behind(process) == []


@pytest.mark.tensorflow
def test_learner_with_other_images_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    write_fashion_mnist(tmp_path / "datasets" / "fashion-mnist", 60, 30)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = ["--port", str(free.getsockname()[1])]
    short = ["--limit", "300", "--epochs", "1", *port]
    others = [
        start("learner.py", "-l", "0", "--dataset", "fashion-mnist", *short, folder=tmp_path),
        start("learner.py", "-l", "1", "--dataset", "digits", *short, folder=tmp_path),
        start("learner.py", "-l", "2", "--dataset", "digits", *short, folder=tmp_path),
        start("controller.py", *short, folder=tmp_path),
    ]
    driver = start("driver.py", "--dataset", "digits", *short, folder=tmp_path)
    output = output_of(driver)
    outputs = [output_of(process) for process in others]
    assert driver.returncode == 1, (output, *outputs)
    assert "do all learners and the driver use the same --dataset?" in output
    assert [process.returncode for process in others] == [0, 0, 0, 0]


def test_every_script_explains_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("keras", "tensorflow"):  # which take seconds to import, and have no part in it
        (tmp_path / f"{name}.py").write_text("from unittest.mock import MagicMock\n__getattr__ = MagicMock()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    scripts = ("controller.py", "driver.py", "federation.py", "five_processes.py", "learner.py")
    processes = [start(script, "--help", folder=tmp_path) for script in scripts]
    for process in processes:
        output = output_of(process)
        assert process.returncode == 0, output
        for option in ("--dataset {cifar10,fashion-mnist,digits}", "--port", "--rounds", "--epochs", "--limit"):
            assert option in output


def test_numpy_federation_in_the_docs(tmp_path: Path) -> None:
    page = (EXAMPLE.parents[1] / "docs" / "quickstart.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert snippet is not None
    done = subprocess.run([sys.executable, "-c", snippet[1]], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    error = re.search(
        r"<FederationResult: 10 rounds, typical_error=([\d.]+), 'federation_rounds=10 reached'>", done.stdout
    )
    assert error is not None
    assert float(error[1]) < 60  # of one who always says the mean: 77


# --- which images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The example's module, on a machine without a network and without any data set but scikit-learn's."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.syspath_prepend(EXAMPLE)
    module: Any = importlib.import_module("data")
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(module, "_answers", lambda url: False)
    yield module
    del sys.modules["data"]


def write_fashion_mnist(folder: Path, num_train: int, num_test: int) -> None:
    folder.mkdir(parents=True)
    for kind, count in (("train", num_train), ("t10k", num_test)):
        images = np.arange(count * 28 * 28).astype(np.uint8).tobytes()
        shape = np.array([count, 28, 28], ">i4").tobytes()
        (folder / f"{kind}-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + shape + images))
        labels = np.array([count], ">i4").tobytes() + bytes(i % 10 for i in range(count))
        (folder / f"{kind}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + labels))


def test_digits_when_nothing_else_is_there(data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = data.load("cifar10")
    assert dataset.name == "digits"
    assert (dataset.x_train.shape, dataset.x_test.shape) == ((1437, 8, 8), (360, 8, 8))
    assert dataset.x_train.max() == 255
    assert set(dataset.y_test) == set(range(10))
    said = capsys.readouterr().out.splitlines()
    assert "cifar10 cannot be had" in said[0]
    assert "cannot be reached" in said[0]
    assert "fashion-mnist cannot be had" in said[1]
    assert "apt-get install dataset-fashion-mnist" in said[1]
    assert said[2] == "using digits instead of cifar10"


def test_fashion_mnist_from_debian_then_from_keras_cache(data: Any, tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "debian", 7, 5)
    dataset = data.load("cifar10")
    assert str(dataset) == "fashion-mnist, 7 training and 5 test images of 28 x 28"
    assert dataset.x_train[1, 0, :3].tolist() == [16, 17, 18]  # 28 * 28 = 784 = 3 * 256 + 16
    assert dataset.y_train.tolist() == [0, 1, 2, 3, 4, 5, 6]
    write_fashion_mnist(tmp_path / "keras" / "datasets" / "fashion-mnist", 9, 4)
    assert len(data.load("fashion-mnist").x_train) == 9


def test_limit_keeps_the_first_images(data: Any) -> None:
    every, few = data.load("digits"), data.load("digits", 12)
    assert [len(array) for array in few[1:]] == [12, 12, 12, 12]
    np.testing.assert_array_equal(few.x_test, every.x_test[:12])


def pretend_keras(monkeypatch: pytest.MonkeyPatch, load_data: Any) -> None:
    monkeypatch.setitem(sys.modules, "model", SimpleNamespace())  # imports TensorFlow
    monkeypatch.setitem(sys.modules, "keras.datasets", SimpleNamespace(cifar10=SimpleNamespace(load_data=load_data)))


def test_cifar10_through_keras(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.zeros((6, 32, 32, 3), np.uint8), np.ones((6, 1), np.uint8)
    test = np.zeros((3, 32, 32, 3), np.uint8), np.ones((3, 1), np.uint8)
    pretend_keras(monkeypatch, lambda: (train, test))
    monkeypatch.setattr(data, "_answers", lambda url: True)
    dataset = data.load("cifar10")
    assert str(dataset) == "cifar10, 6 training and 3 test images of 32 x 32 x 3"
    assert (dataset.y_train.shape, dataset.y_test.shape) == ((6,), (3,))


def test_download_that_fails_is_explained(
    data: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load_data() -> None:
        raise Exception("URL fetch failure on https://...: None -- reset by peer")

    pretend_keras(monkeypatch, load_data)
    monkeypatch.setattr(data, "_answers", lambda url: True)
    assert data.load("cifar10").name == "digits"
    assert "keras could not load it: URL fetch failure" in capsys.readouterr().out


def test_without_any_data_set_it_says_how_to_get_one(
    data: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="no data set"):
        data.load("fashion-mnist")
    assert "pip install scikit-learn" in capsys.readouterr().out


def test_silent_network_is_not_waited_for(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    is_over = Event()

    def say_nothing(request: object, timeout: float) -> None:
        is_over.wait()
        raise OSError

    monkeypatch.setattr(data, "urlopen", say_nothing)
    monkeypatch.setattr(data, "ANSWER_S", 0.01)
    assert not data._answers(data.CIFAR10_URL)
    is_over.set()
