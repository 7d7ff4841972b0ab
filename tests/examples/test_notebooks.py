"""The notebooks, and cells in general, in a real kernel."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import nbformat
import pytest
from federations import PATIENCE_S, until
from jupyter_core.utils import ensure_async
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"
# The kernel's client asks for its own loop in a way that newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


async def run(notebook: Any) -> list[Any]:
    """Run all cells, and give all outputs; a cell that fails raises."""
    await NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3").async_execute()
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def shown(outputs: list[Any], kind: str) -> list[str]:
    return [output["data"][kind] for output in outputs if kind in output.get("data", {})]


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def test_they_are_kept_without_outputs() -> None:
    for path in NOTEBOOKS.glob("*.ipynb"):
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in read(path.name).cells), path.name


async def test_a_first_federation() -> None:
    outputs = await run(read("first_federation.ipynb"))
    progress = [html for html in shown(outputs, "text/html") if "<progress " in html]
    assert len(progress) == 1  # one output, which was replaced
    assert "<td>10</td><td>3 of 3</td>" in progress[0]
    assert "10/10" in progress[0]
    assert any("FederationResult: 10 rounds" in html for html in shown(outputs, "text/html"))
    assert len(shown(outputs, "image/png")) == 1
    assert not [output for output in outputs if output.get("name") == "stderr"]


async def test_skewed_data_is_harder() -> None:
    outputs = await run(read("skewed_data.ipynb"))
    assert len(shown(outputs, "image/png")) == 3
    even, skewed = eval(shown(outputs, "text/plain")[-2], {"np": __import__("numpy")})
    assert 0.8 < skewed < even


async def test_a_rule_of_ones_own_bears_a_liar() -> None:
    outputs = await run(read("your_own_strategy.ipynb"))
    text = "".join(output["text"] for output in outputs if output.get("name") == "stdout")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines())
    assert float(lines["FedAvg"]) > 100
    assert float(lines["without extremes"]) < 0.1


async def test_a_day_in_virtual_time() -> None:
    outputs = await run(read("virtual_time.ipynb"))
    lines = "".join(output["text"] for output in outputs if output.get("name") == "stdout").splitlines()
    assert lines[0] == "rounds 12"
    assert lines[1].startswith("22.0 hours in ")
    assert lines[2] == "minutes [5.83, 3.17, 1.83, 1.03, 0.77, 0.63, 0.55]"
    assert lines[3] == "without south: rounds 2 to 61 of 80"
    assert len(shown(outputs, "image/png")) == 1


SESSION = """
import numpy as np
from metisfl_async import Controller, DriverSession, Learner, TerminationSignals

class Counts(Learner):
    def get_weights(self):
        return [np.zeros(1)]
    def set_weights(self, parameters):
        self.last = parameters[0][0]
    def train(self, parameters, config):
        return [parameters[0] + 1], {}, {"num_training_examples": 1}
    def evaluate(self, parameters, config):
        return {"count": parameters[0][0]}

learner = Counts()
session = DriverSession(Controller(), [learner], TerminationSignals(federation_rounds=1_000_000))
"""

RUN = "await session.run(progress=True)"
LOOK = """
import threading
print(session.result.reason, len(session.result.rounds) > 1, learner.last > 1)
print([thread.name for thread in threading.enumerate() if "metisfl" in thread.name])
"""


async def test_a_cell_may_be_interrupted_and_run_again() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (SESSION, RUN, LOOK)])
    begin, run_it, look = notebook.cells
    client = NotebookClient(notebook, timeout=PATIENCE_S, kernel_name="python3")
    async with client.async_setup_kernel():
        await client.async_execute_cell(begin, 0)
        for _ in range(2):
            run_it.outputs.clear()
            running = asyncio.create_task(client.async_execute_cell(run_it, 1))
            await until(lambda: "the last 20 of" in str(run_it.outputs))
            await ensure_async(client.km.interrupt_kernel())
            with pytest.raises(CellExecutionError, match="CancelledError"):
                await running
            await client.async_execute_cell(look, 2)
            assert look.outputs[0]["text"] == "the session was interrupted True True\n[]\n"
