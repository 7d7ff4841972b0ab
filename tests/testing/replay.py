"""Runs of federations as what happened and what was decided, in files; and the same put to `core` once more.

``cd tests && python -m testing.replay`` records those in ``testing/runs`` anew, for a change that means to differ.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias, cast
from unittest import mock

from metisfl_async import ControllerConfig, ModelStoreConfig, TerminationSignals
from metisfl_async.core.config.sameness import facts_of
from metisfl_async.core.errors import MetisError
from metisfl_async.core.federation import desk, inputs
from metisfl_async.core.federation.commands import Command
from metisfl_async.core.federation.continuous import ContinuousFederation
from metisfl_async.core.federation.ending import Ending
from metisfl_async.core.federation.federation import Federation
from metisfl_async.core.federation.in_rounds import FederationInRounds
from metisfl_async.core.federation.inputs import Input, Joined, Resume, Start, Stop
from metisfl_async.core.federation.records import RoundRecord
from metisfl_async.core.federation.standing import Standing
from metisfl_async.core.federation.tasks import HeldTask
from metisfl_async.core.ids import FederationId, ModelRef, TaskId, new_task_id
from metisfl_async.core.strategies.strategies import Strategies
from metisfl_async.events import ModelPublished, RoundStarted
from metisfl_async.strategies import FedBuff
from metisfl_async.testing import FakeLearner, run
from metisfl_async.testing import Federation as Simulated

Line: TypeAlias = dict[str, Any]
RUNS = Path(__file__).parent / "runs"
CONFIGS = {
    "rounds": ControllerConfig(participation_ratio=0.75, round_timeout_secs=100.0, min_learners=2),
    "without_rounds": ControllerConfig(scheduler="Asynchronous", aggregation_rule=FedBuff(2)),
}
INPUTS: dict[str, Callable[..., Any]] = {
    name: kind for name, kind in vars(inputs).items() if getattr(kind, "__module__", "") == inputs.__name__
}


# --- recording -------------------------------------------------------------------------------------------------------


@contextmanager
def recorded(lines: list[Line]) -> Iterator[None]:
    """Write down what each federation of this process is told, and what it decides."""
    handle = Federation.handle
    drawn: list[TaskId] = []
    known: list[Federation] = []

    def drawing() -> TaskId:
        drawn.append(new_task_id())
        return drawn[-1]

    def handling(self: Federation, happened: Input, now: float) -> list[Command]:
        if self not in known:
            known.append(self)
            lines.append({"federation_id": self.standing.federation_id, "durable_every": self._durable_every})
        line: Line = {"now": now, "happened": plain(happened)}
        drawn.clear()
        try:
            commands = handle(self, happened, now)
            line["commands"] = plain(commands)
        except MetisError as error:
            line["raises"] = type(error).__name__
            raise
        finally:
            lines.append({**line, "ids": [*drawn]})
        return commands

    with mock.patch.object(Federation, "handle", handling), mock.patch.object(desk, "new_task_id", drawing):
        yield


def plain(value: Any) -> Any:
    """Put inputs and commands into JSON-like data; what cannot be compared is left out."""
    match value:
        case Standing():
            return _standing(value.to_json())
        case RoundRecord():
            return _record(value.to_dict())
        case Enum():
            return value.value
        case bytes():
            return value.hex()
        case str() if value.startswith('{"federation_id": '):
            return _standing(value)
        case set() | frozenset():
            return sorted(map(plain, value))
        case list() | tuple():
            return [plain(part) for part in value]
        case dict():
            return {str(plain(key)): plain(part) for key, part in value.items()}
        case _ if is_dataclass(value):
            return {"is": type(value).__name__} | {of.name: plain(getattr(value, of.name)) for of in fields(value)}
    return value


def _standing(text: str) -> Line:
    """Keep of what is saved what is decided; the generator's state is long, and the configuration is known."""
    standing: Line = json.loads(text)
    for of_round in standing["rounds"]:
        _record(of_round["record"])
    standing["started_at"] = 0.0  # of the wall clock
    standing["strategies"] = hashlib.sha256(json.dumps(standing["strategies"]).encode()).hexdigest()[:16]
    return {"is": "Standing"} | {name: fact for name, fact in standing.items() if name != "config"}


def _record(record: Line) -> Line:
    record |= {"is": "RoundRecord", "selection_ms": 0.0, "started_at": 0.0}  # that is measured, not decided
    for part in record["learners"].values():
        part["is"] = "LearnerRecord"
    return record


# --- replaying -------------------------------------------------------------------------------------------------------


def replayed(lines: Iterable[Line], config: ControllerConfig) -> Iterator[tuple[Line, Line]]:
    """Put what happened to `core` again; give what it decides beside what it decided then."""
    federation: Federation | None = None
    saved: list[str] = []  # how the federation stood before the controller died
    for line in lines:
        if "happened" not in line:
            federation = _new(line, config)
            continue
        assert federation is not None
        happened = _input(line["happened"], saved)
        if isinstance(happened, Start):
            federation.as_started(happened)
        then: Line = {name: line[name] for name in ("commands", "raises", "ids") if name in line}
        yield then, as_far_as_known(_again(federation, happened, line, saved), then)


def as_far_as_known(now: Any, then: Any) -> Any:
    """Leave out fields that objects did not have when the run was recorded: they are no other decision."""
    if isinstance(now, dict) and isinstance(then, dict):
        is_object = "is" in then
        return {
            name: as_far_as_known(fact, then.get(name)) for name, fact in now.items() if name in then or not is_object
        }
    if isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        return [as_far_as_known(*pair) for pair in zip(now, then, strict=True)]
    return now


def _new(line: Line, config: ControllerConfig) -> Federation:
    strategies = Strategies(config)
    kind = FederationInRounds if strategies.in_rounds else ContinuousFederation
    durable_every = line["durable_every"]
    federation: Federation = kind(FederationId(line["federation_id"]), config, strategies, durable_every=durable_every)
    federation.standing.config = facts_of(config)
    return federation


def _again(federation: Federation, happened: Input, line: Line, saved: list[str]) -> Line:
    ids, drawn = iter(line["ids"]), list[TaskId]()

    def draw() -> TaskId:
        drawn.append(next(ids, TaskId("one more than then")))
        return drawn[-1]

    with mock.patch.object(desk, "new_task_id", draw):
        try:
            commands = federation.handle(happened, line["now"])
        except MetisError as error:
            return {"raises": type(error).__name__, "ids": drawn}
    saved += [text for command in commands if (text := getattr(command, "standing", ""))]
    return {"commands": plain(commands), "ids": drawn}


def _input(told: Line, saved: Sequence[str]) -> Input:
    facts = {name: fact for name, fact in told.items() if name != "is"}
    match told["is"]:
        case Start.__name__:
            signals = {name: fact for name, fact in facts["signals"].items() if name != "is"}
            facts["signals"] = TerminationSignals(**signals)
        case Resume.__name__:
            facts["standing"] = Standing.from_json(
                next(
                    text
                    for text in reversed(saved)
                    if as_far_as_known(plain(text), facts["standing"]) == facts["standing"]
                )
            )
        case Stop.__name__:
            facts["ending"] = Ending(facts["ending"])
        case Joined.__name__ if facts["held"] is not None:
            facts["held"] = [HeldTask(id_, done, of, ModelRef(*model)) for id_, done, of, model in facts["held"]]
    if "content" in facts:
        facts["content"] = bytes.fromhex(facts["content"])
    return cast("Input", INPUTS[told["is"]](**facts))


def read(name: str) -> list[Line]:
    return [json.loads(text) for text in (RUNS / f"{name}.jsonl").read_text().splitlines()]


# --- the runs --------------------------------------------------------------------------------------------------------


async def in_rounds() -> None:
    """Have a learner fail, one cut off in an upload, one too late, one killed."""
    learners = {
        "a": FakeLearner(takes=10.0, num_training_examples=3),
        "b": FakeLearner(takes=20.0, adds=2.0, fails={5}),
        "c": FakeLearner(takes=lambda number: 200.0 if number == 3 else 15.0),
        "d": FakeLearner(takes=12.0, adds=0.5),
    }
    async with Simulated(learners, TerminationSignals(federation_rounds=5), controller_config=CONFIGS["rounds"]) as fed:
        fed.cut("a", during="upload")
        await fed.event(RoundStarted, number=4)
        await fed.kill("d")
        await fed.result()


async def without_rounds() -> None:
    """Have the controller killed, with updates on the way and in the sum."""
    learners = {name: FakeLearner(takes=takes) for name, takes in (("a", 10.0), ("b", 13.0), ("c", 37.0))}
    signals, config = TerminationSignals(global_updates=8), CONFIGS["without_rounds"]
    with tempfile.TemporaryDirectory() as directory:
        store = ModelStoreConfig(model_store="Disk", directory=directory)
        async with Simulated(learners, signals, controller_config=config, model_store_config=store) as fed:
            await fed.event(ModelPublished, model_version=4)
            await fed.sleep(5.0)
            await fed.restart("controller")
            await fed.result()


def main() -> None:
    for name, of_run in (("rounds", in_rounds), ("without_rounds", without_rounds)):
        lines: list[Line] = []
        with recorded(lines):
            run(of_run())
        (RUNS / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
