from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async import ClientParams, TerminationSignals
from metisfl_async.core import messages as m
from metisfl_async.core.errors import Damaged, TooLarge, WrongProtocol
from metisfl_async.core.federation.events import Event, LearnerJoined, Told
from metisfl_async.core.federation.records import BestScore
from metisfl_async.core.federation.tasks import HeldTask, TaskKind, Verdict
from metisfl_async.core.ids import FederationId, LearnerId, ModelRef, TaskId, Token
from metisfl_async.core.strategies.aggregation.contributors import MOST_CONTRIBUTORS, Contributor
from metisfl_async.transport import convert, convert_driver
from metisfl_async.transport._proto import metisfl_pb2 as pb

TASK = TaskId("0123456789abcdef" * 2)
REF = ModelRef(FederationId("f" * 32), 2)

LEARNER_MESSAGES = [
    m.Hello(Token("t"), [HeldTask(TASK, True, "evaluate", REF), HeldTask(TaskId("x"), False)]),
    m.Hello(Token("t")),
    m.Accept(TASK),
    m.Heartbeat(),
    m.Evaluated(TASK, {"accuracy": 0.5, "loss": float("inf")}),
    m.Evaluated(TASK, {}),
    m.Evaluated(TASK, {}, {"a": Contributor(0.0, 1, {"loss": float("inf")}), "b/c": Contributor(3.5, 2**31)}),
    m.Failed(TASK, "ValueError", "no\ndata ü"),
    m.Answer("q", '{"mean": [0.5, NaN]}'),
    m.Answer("q", error_type="ValueError", message="no data"),
]
CONTROLLER_MESSAGES = [
    m.Welcome({}),
    m.Welcome({TASK: (Verdict.UPLOAD, "awaited"), TaskId("x"): (Verdict.DISCARD, "late")}),
    m.TaskOffer(TASK, TaskKind.TRAIN, 3, REF, {"epochs": 3, "rate": 0.1, "nested": {"list": [None, True, "a"]}}),
    m.TaskOffer(TASK, TaskKind.GET_WEIGHTS, 0, REF, {}),
    m.Settled(TASK),
    m.Withdrawn(TASK, "late"),
    m.Heartbeat(),
    m.Farewell("over", REF),
    m.Farewell("over", None, m.Afterwards.STAY),
    m.Counted((TASK, TaskId("x"))),
    m.Question("q", "describe", {"bins": [1, 2.5, None]}, 0.5),
]


@pytest.mark.parametrize("message", LEARNER_MESSAGES, ids=repr)
def test_what_learners_say_arrives_unchanged(message: m.LearnerMessage) -> None:
    assert convert.from_learner_message(convert.learner_message(message)) == message


@pytest.mark.parametrize("message", CONTROLLER_MESSAGES, ids=repr)
def test_what_the_controller_says_arrives_unchanged(message: m.ControllerMessage) -> None:
    assert convert.from_controller_message(convert.controller_message([message])) == [message]


def test_the_word_that_updates_count_goes_with_the_next_message() -> None:
    together: list[m.ControllerMessage] = [m.Counted((TASK,)), m.Withdrawn(TASK, "late")]
    assert convert.from_controller_message(convert.controller_message(together)) == together


@pytest.mark.parametrize(
    ("packed", "task_id"),
    [
        (pb.ControllerMessage(), None),
        (pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="dream")), TASK),
        (pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="train", config_json="[" * 100_000)), TASK),
        (pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="train", config_json="{")), TASK),
        (pb.ControllerMessage(farewell=pb.Farewell(then="dance")), None),
        (pb.ControllerMessage(question=pb.Question(method="describe", params_json="[]")), None),
    ],
)
def test_what_a_newer_controller_says_is_unknown_and_no_error(
    packed: pb.ControllerMessage, task_id: str | None
) -> None:
    (message,) = convert.from_controller_message(packed.SerializeToString())
    assert isinstance(message, m.Unknown)
    assert message.task_id == task_id


def test_a_reply_that_does_not_say_what_is_large_has_the_default() -> None:
    reply = pb.JoinReply(heartbeat_secs=1.0, lease_secs=2.0, protocol=m.PROTOCOL)
    assert convert.from_join_reply(reply.SerializeToString()).own_connection_bytes == m.OWN_CONNECTION_BYTES


def test_parties_of_another_version_are_refused_and_both_versions_named() -> None:
    reply = pb.JoinReply(heartbeat_secs=1.0, lease_secs=2.0, protocol=7)
    with pytest.raises(WrongProtocol, match=r"speaks version 7 of the protocol, this side version \d"):
        convert.from_join_reply(reply.SerializeToString())


@pytest.mark.parametrize(
    ("write", "read", "message"),
    [
        (convert.join_request, convert.from_join_request, m.JoinRequest(LearnerId("a"), Token(""), protocol=7)),
        (convert.join_request, convert.from_join_request, m.JoinRequest(LearnerId("a"), Token("t"), "host:5", "s")),
        (convert.confirm_join, convert.from_confirm_join, "secret"),
        (convert.get_model, convert.from_get_model, Token("t")),
        (convert.join_reply, convert.from_join_reply, m.JoinReply(LearnerId("a"), Token("t"), 2, 10.0, 60.0, 2**40)),
        (
            convert.join_reply,
            convert.from_join_reply,
            m.JoinReply(LearnerId("a"), Token("t"), 2, 10.0, 60.0, 2**40, update_codec="int8", download_codec="bf16"),
        ),
        (
            convert.join_reply,
            convert.from_join_reply,
            m.JoinReply(LearnerId("a"), Token("t"), 2, 10.0, 60.0, 2**40, relays=("b", "c"), own_connection_bytes=1),
        ),
        (convert.leave, convert.from_leave, Token("t")),
        (
            lambda request: convert.fetch_model(request[:2], request[2]),
            convert.from_fetch_model,
            (Token("t"), REF, "bf16"),
        ),
        (convert.update_reply, convert.from_update_reply, m.UpdateReply(m.Outcome.COUNTED)),
        (convert.update_reply, convert.from_update_reply, m.UpdateReply(m.Outcome.REFUSED, "late")),
        (convert_driver.stop, convert_driver.from_stop, (REF.federation_id, "enough")),
        (convert_driver.shut_down, convert_driver.from_shut_down, (REF.federation_id, True)),
        (convert_driver.federation, convert_driver.from_federation, REF.federation_id),
        (convert_driver.watch, convert_driver.from_watch, (REF.federation_id, 7, "run")),
        (convert_driver.status, convert_driver.from_status, m.Status(REF.federation_id, True)),
        (
            convert_driver.status,
            convert_driver.from_status,
            m.Status(REF.federation_id, True, best=BestScore("accuracy", 0.5, 9, 7)),
        ),
        (convert_driver.ask, convert_driver.from_ask, m.AskRequest("describe", {"bins": 3}, 2.5)),
        (
            convert_driver.ask,
            convert_driver.from_ask,
            m.AskRequest("a", {}, 1.0, 3, 5.0, (ClientParams("a", 5, b"-----BEGIN one"), ClientParams("b", 5))),
        ),
        (convert_driver.answer, convert_driver.from_answer, (LearnerId("site"), m.Answer("q", "[1]"))),
        (convert_driver.get_model, convert_driver.from_get_model, (REF.federation_id, True)),
        (
            convert_driver.start_request,
            convert_driver.from_start_request,
            m.StartRequest(TerminationSignals(federation_rounds=5), 3, -1, None, REF.federation_id, has_model=True),
        ),
        (
            convert_driver.start_request,
            convert_driver.from_start_request,
            m.StartRequest(
                TerminationSignals(
                    execution_cutoff_time_mins=0.5,
                    evaluation_metric="loss",
                    evaluation_metric_cutoff_score=0.0,
                    patience_rounds=7,
                    min_delta=0.25,
                    mode="min",
                ),
                1,
                1990,
                30.0,
                FederationId(""),
            ),
        ),
        (
            convert_driver.start_request,
            convert_driver.from_start_request,
            m.StartRequest(
                TerminationSignals(federation_rounds=5),
                4,
                -1,
                None,
                FederationId("f"),
                (
                    ClientParams("a", 5, b"-----BEGIN one"),
                    ClientParams("b", 5),
                    ClientParams("c", 5, b"-----BEGIN two"),
                    ClientParams("d", 5, b"-----BEGIN one"),
                ),
            ),
        ),
    ],
)
def test_requests_and_replies_arrive_unchanged(
    write: Callable[[Any], bytes], read: Callable[[bytes], Any], message: object
) -> None:
    assert read(write(message)) == message


@pytest.mark.parametrize("message", LEARNER_MESSAGES, ids=repr)
def test_what_learners_report_arrives_unchanged(message: m.LearnerMessage) -> None:
    assert convert.from_report(convert.report((Token("t"), message))) == (Token("t"), message)


@pytest.mark.parametrize("message", CONTROLLER_MESSAGES, ids=repr)
def test_what_is_delivered_arrives_unchanged(message: m.ControllerMessage) -> None:
    assert convert.from_delivery(convert.delivery((Token("t"), 2**60, [message]))) == (Token("t"), 2**60, [message])


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"timeout_secs": 0.0}, "timeout_secs is 0.0"),
        ({"timeout_secs": float("nan")}, "timeout_secs is nan"),
        ({"join_timeout_secs": -1.0}, "join_timeout_secs is -1.0"),
        ({"params_json": "[1]"}, "params_json is not a JSON object"),
        ({"params_json": "[" * 100_000}, "at most"),
        ({"params_json": "[" * 2000}, "."),
        ({"params_json": f'"{"x" * m.MAX_QUESTION_BYTES}"'}, f"at most {m.MAX_QUESTION_BYTES}"),
        ({"method": "x" * (m.MAX_QUESTION_BYTES + 1)}, f"at most {m.MAX_QUESTION_BYTES}"),
    ],
)
def test_a_question_that_nobody_could_answer_is_damaged(wrong: dict[str, Any], what: str) -> None:
    given: dict[str, Any] = {"method": "describe", "timeout_secs": 1.0} | wrong
    request = pb.AskRequest(**given)
    with pytest.raises(Damaged, match=what):
        convert_driver.from_ask(request.SerializeToString())


def test_the_largest_answer_fits_a_message() -> None:
    answer = m.Answer("q" * 32, "x" * m.MAX_ANSWER_BYTES)
    assert convert.from_report(convert.report((Token("t" * 32), answer)))[1] == answer


def test_a_certificate_travels_once_however_many_learners_share_it() -> None:
    learners = tuple(ClientParams("host", port, b"-----BEGIN" + bytes(2000)) for port in range(1, 5001))
    request = m.StartRequest(TerminationSignals(federation_rounds=1), 1, 1, None, FederationId("f"), learners)
    assert len(convert_driver.start_request(request)) < 2**20 / 5


def test_a_named_learner_whose_certificate_is_missing_is_damaged() -> None:
    request = pb.StartRequest(signals=pb.TerminationSignals(federation_rounds=1, mode="max"), protocol=m.PROTOCOL)
    request.learners.add(hostname="a", port=5, root_certificate=0)
    with pytest.raises(Damaged):
        convert_driver.from_start_request(request.SerializeToString())


@given(st.lists(st.integers(0, 300_000), max_size=12))
def test_events_travel_together_as_far_as_a_message_goes(sizes: list[int]) -> None:
    events: list[Event] = [LearnerJoined("x" * size, number) for number, size in enumerate(sizes)]
    messages = list(convert_driver.events([Told(event) for event in events]))
    assert [event for message in messages for event in convert_driver.from_events(message)] == events
    assert all(len(message) < convert_driver.NEWS_BYTES + 100 for message in messages)
    assert len(messages) <= 1 + 2 * sum(map(len, messages)) // convert_driver.NEWS_BYTES


READERS = [getattr(convert, name) for name in convert.__all__ if name.startswith("from_")]


@given(st.binary(max_size=200), st.sampled_from(READERS))
def test_any_bytes_are_understood_or_damaged(data: bytes, read: Callable[[bytes], object]) -> None:
    with contextlib.suppress(Damaged, WrongProtocol):
        read(data)


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (convert.from_learner_message, b""),
        (convert.from_update_reply, convert.GO_AHEAD),  # no outcome
        (convert_driver.from_start_request, pb.StartRequest(protocol=m.PROTOCOL).SerializeToString()),  # no signal
        (convert_driver.from_events, b'\n\x10{"event": "Nix"}'),
    ],
)
def test_what_says_nothing_is_damaged(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(Damaged):
        read(data)


def test_a_learner_cannot_hold_up_the_controller_with_one_huge_message() -> None:
    with pytest.raises(TooLarge, match="at most 131072"):
        convert.from_learner_message(convert.learner_message(m.Failed(TASK, "ValueError", "x" * 200_000)))
    with pytest.raises(TooLarge, match="at most 131072"):
        convert.from_report(convert.report((Token("t"), m.Failed(TASK, "ValueError", "x" * 200_000))))
    hello = m.Hello(Token("t"), [HeldTask(TaskId(""), False)] * 2000)
    with pytest.raises(Damaged, match="2000 held tasks; at most 1024"):
        convert.from_learner_message(convert.learner_message(hello))
    below = {str(number): Contributor(1.0) for number in range(MOST_CONTRIBUTORS + 1)}
    with pytest.raises(Damaged, match="501 contributors; at most 500"):
        convert.from_learner_message(convert.learner_message(m.Evaluated(TASK, {}, below)))


def test_a_contributor_that_says_nothing_is_one_learner_without_a_weight() -> None:
    said = pb.LearnerMessage(evaluated=pb.Evaluated(task_id=TASK, contributors={"a": pb.Contributor()}))
    heard = convert.from_learner_message(said.SerializeToString())
    assert heard == m.Evaluated(TASK, {}, {"a": Contributor(0.0, 1, {})})


@pytest.mark.parametrize("secs", [0.0, -1.0, 1e-9, 1e9, float("nan"), float("inf")])
def test_a_controller_cannot_make_a_learner_beat_without_pause(secs: float) -> None:
    for reply in (
        m.JoinReply(LearnerId("a"), Token("t"), 1, secs, 60.0, 1),
        m.JoinReply(LearnerId("a"), Token("t"), 1, 10.0, secs, 1),
    ):
        with pytest.raises(Damaged, match=r"JoinReply: (heartbeat|lease)_secs is "):
            convert.from_join_reply(convert.join_reply(reply))


@pytest.mark.parametrize("token", ["two\nlines", "caf\u00e9", "x" * 1025])
def test_a_token_that_cannot_stand_in_metadata_is_refused(token: str) -> None:
    reply = m.JoinReply(LearnerId("a"), Token(token), 1, 10.0, 60.0, 1)
    with pytest.raises(Damaged, match=r"JoinReply: token .*; allowed: at most 1024 printable ASCII characters"):
        convert.from_join_reply(convert.join_reply(reply))


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("message", "task_id"),
    [
        (pb.ControllerMessage(), None),
        (pb.ControllerMessage.FromString(b"\xf2\x7f\x02\x08\x01"), None),  # a field of number 2046
        (pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="distill")), TASK),
        (pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="train", config_json="[]")), TASK),
        (pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="train", config_json="{")), TASK),
        (pb.ControllerMessage(task=pb.TaskOffer(task_id=TASK, kind="train", config_json=f'{{"a": {DEEP}}}')), TASK),
        (pb.ControllerMessage(welcome=pb.Welcome(verdicts=[pb.TaskVerdict(task_id=TASK, verdict="ponder")])), None),
        (pb.ControllerMessage(farewell=pb.Farewell(then="dance")), None),
    ],
    ids=["nothing", "a new kind", "a new task", "a list", "no JSON", "too deep", "a new verdict", "a new farewell"],
)
def test_what_a_newer_controller_says_is_known_to_be_unknown(message: pb.ControllerMessage, task_id: TaskId) -> None:
    (unknown,) = convert.from_controller_message(message.SerializeToString())
    assert isinstance(unknown, m.Unknown)
    assert unknown.task_id == task_id
    message.counted.append("x")
    counted, *others = convert.from_controller_message(message.SerializeToString())
    assert counted == m.Counted((TaskId("x"),))
    assert others == ([unknown] if message.WhichOneof("message") else [])


def test_a_controller_of_another_protocol_is_refused_and_both_versions_are_named() -> None:
    for protocol, said in ((7, "version 7"), (0, "a version without a number")):
        reply = pb.JoinReply(learner_id="a", token="t", heartbeat_secs=1, lease_secs=9, protocol=protocol)
        with pytest.raises(WrongProtocol, match=f"the controller speaks {said} .*, this side version {m.PROTOCOL};"):
            convert.from_join_reply(reply.SerializeToString())


def test_what_a_controller_or_driver_of_another_release_says_is_refused_by_both_numbers() -> None:
    with pytest.raises(WrongProtocol, match=f"the controller speaks version 77 .* this side version {m.PROTOCOL}"):
        convert_driver.from_status(pb.Status(protocol=77).SerializeToString())
    with pytest.raises(WrongProtocol, match=f"the driver speaks version 77 .* this side version {m.PROTOCOL}"):
        convert_driver.from_start_request(pb.StartRequest(protocol=77).SerializeToString())


BOUNDED: list[tuple[Callable[[bytes], object], int]] = [
    (convert.from_join_request, convert.MAX_REQUEST_BYTES),
    (convert.from_leave, convert.MAX_REQUEST_BYTES),
    (convert.from_fetch_model, convert.MAX_REQUEST_BYTES),
    (convert.from_confirm_join, convert.MAX_REQUEST_BYTES),
    (convert.from_get_model, convert.MAX_REQUEST_BYTES),
    (convert.from_learner_message, convert.MAX_MESSAGE_BYTES),
    (convert.from_report, convert.MAX_MESSAGE_BYTES),
    (convert_driver.from_start_request, convert_driver.MAX_START_BYTES),
    (convert_driver.from_federation, convert.MAX_REQUEST_BYTES),
    (convert_driver.from_watch, convert.MAX_REQUEST_BYTES),
    (convert_driver.from_stop, convert.MAX_REQUEST_BYTES),
    (convert_driver.from_shut_down, convert.MAX_REQUEST_BYTES),
]


@pytest.mark.parametrize(("read", "most"), BOUNDED)
def test_a_request_that_is_too_large_is_refused_before_it_is_parsed(read: Callable[[bytes], object], most: int) -> None:
    unknown = b"\xf8\x07\x01"  # a field of a later version
    with contextlib.suppress(Damaged, WrongProtocol):  # there is nothing in it that is needed
        read(unknown * (most // 3))
    with pytest.raises(TooLarge, match=f"at most {most}"):
        read(b"\xff" * (most + 1))


def start_request(**changes: Any) -> bytes:
    signals = pb.TerminationSignals(federation_rounds=1)
    return pb.StartRequest(
        signals=signals, num_learners=1, federation_id="f", protocol=m.PROTOCOL, **changes
    ).SerializeToString()


def test_a_request_to_start_names_so_many_learners_and_no_more() -> None:
    named = [pb.NamedLearner(hostname=f"site-{index}", port=1) for index in range(convert_driver.MAX_NAMED + 1)]
    assert len(convert_driver.from_start_request(start_request(learners=named[:-1])).learners) == len(named) - 1
    with pytest.raises(Damaged, match="4097 learners; at most 4096"):
        convert_driver.from_start_request(start_request(learners=named))


def test_learners_of_one_certificate_share_it_and_it_is_not_long() -> None:
    pem = b"-----BEGIN " + bytes(10_000)
    named = [pb.NamedLearner(hostname=f"site-{index}", port=1, root_certificate=0) for index in range(3)]
    request = convert_driver.from_start_request(start_request(learners=named, root_certificates=[pem]))
    first, *others = [learner.root_certificate for learner in request.learners]
    assert first == pem
    assert all(other is first for other in others)
    with pytest.raises(Damaged, match="of more than 16384 bytes"):
        convert_driver.from_start_request(start_request(learners=named, root_certificates=[pem + bytes(10_000)]))
