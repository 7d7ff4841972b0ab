"""What a newer controller says, and a learner does not know, ends no learner; another protocol is refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from federations import PATIENCE_S, Adds, until
from puppet import weights

from metisfl_async import Controller, DriverSession, ServerParams, TerminationSignals, run_learner
from metisfl_async.controller import conversations
from metisfl_async.controller.connection import StreamConnection
from metisfl_async.core import messages as m
from metisfl_async.core.errors import WrongProtocol
from metisfl_async.core.ids import TaskId
from metisfl_async.learner.part import Part
from metisfl_async.transport import convert
from metisfl_async.transport._proto import metisfl_pb2 as pb

ROUND = TerminationSignals(federation_rounds=1)
TASK = TaskId("0" * 32)
DEEP = '{"a": ' * 50_000 + "1" + "}" * 50_000
ODD = [
    b"\xf2\x7f\x02\x08\x01",  # a kind of message that has the number 2046
    pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="distill")).SerializeToString(),
    pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="train", config_json=DEEP)).SerializeToString(),
    pb.ControllerMessage(farewell=pb.Farewell(reason="enough", then="hibernate")).SerializeToString(),
]


@pytest.mark.parametrize("odd", ODD, ids=["a message", "a task", "a nested config", "a farewell"])
async def test_a_learner_skips_what_it_does_not_know_and_does_the_next_task(
    odd: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, run = convert.controller_message, StreamConnection.run
    told: list[m.ControllerMessage] = []
    failed: list[m.Failed] = []
    tell = Part.told

    def packed(messages: Sequence[m.ControllerMessage] | bytes) -> bytes:
        return messages if isinstance(messages, bytes) else pack(messages)

    async def run_and_listen(connection: StreamConnection, on_message) -> None:  # type: ignore[no-untyped-def]
        def hear(message: m.LearnerMessage) -> None:
            if isinstance(message, m.Failed):
                failed.append(message)
            on_message(message)

        await run(connection, hear)

    def note(part: Part, message: m.ControllerMessage):  # type: ignore[no-untyped-def]
        told.append(message)
        return tell(part, message)

    monkeypatch.setattr(convert, "controller_message", packed)
    monkeypatch.setattr(StreamConnection, "run", run_and_listen)
    monkeypatch.setattr(Part, "told", note)
    learner = Adds(1)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        taking_part = asyncio.create_task(run_learner(learner, controller.client_params, learner_id="a"))
        await until(lambda: bool(told))
        (member,) = controller._open.registry
        assert isinstance(member.connection, StreamConnection)
        await member.connection._stream.send(odd)  # type: ignore[arg-type]
        result = await DriverSession(controller, 1, ROUND, initial_weights=weights(0)).run()
        await taking_part
        assert member.incarnation == 1
    assert result.rounds[0].participants == ["a"]
    (unknown,) = (message for message in told if isinstance(message, m.Unknown))
    assert [message.task_id for message in failed] == ([] if unknown.task_id is None else [TASK])
    assert all(message.error_type == "UnexpectedMessage" for message in failed)


async def test_a_learner_of_another_release_is_refused_and_both_versions_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversations, "PROTOCOL", 77)
    async with asyncio.timeout(PATIENCE_S), Controller(ServerParams()) as controller:
        match = (
            f"the learner speaks version {m.PROTOCOL} of the protocol, this side version 77; install the same release"
        )
        with pytest.raises(WrongProtocol, match=match):
            await run_learner(Adds(1), controller.client_params)
