"""docs/wire.md says what the code does: its bytes are made anew, and everything in protos/ is named there."""

from __future__ import annotations

import re
from pathlib import Path

import msgpack
import numpy as np
import pytest
import xxhash

from metisfl_async.codec import chunk, frame, manifest, outline
from metisfl_async.codec.chunk import split
from metisfl_async.codec.coded import Layout
from metisfl_async.codec.coding import Int8
from metisfl_async.codec.frame import Header, encode, frames_of
from metisfl_async.controller import questions, registry
from metisfl_async.core import errors, metrics
from metisfl_async.core.federation.tasks import TaskKind, Verdict
from metisfl_async.core.federation.uploads import MOST_DAMAGES
from metisfl_async.core.ids import FederationId, TaskId
from metisfl_async.core.messages import MAX_QUESTION_BYTES, PROTOCOL, Afterwards, Outcome
from metisfl_async.core.model import ALIGNMENT, DTYPES, Manifest, Model, allocate
from metisfl_async.core.strategies.aggregation import contributors
from metisfl_async.core.texts import MAX_NAME, MAX_TEXT
from metisfl_async.transport import convert, convert_driver, grpc_access
from metisfl_async.transport._proto import metisfl_pb2 as pb

PAGE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()


def example(section: str = "A worked example") -> list[bytes]:
    """The Chunk messages of a section's worked example."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```hex\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [bytes.fromhex(re.sub(r"^#.*$", "", block, flags=re.MULTILINE)) for block in blocks]


def test_the_coded_example_is_what_our_codec_writes() -> None:
    base, trained = (Model.from_arrays([np.array(values, np.float32)], ["w"]) for values in ([1.0, -2.25], [1.5, -2.0]))
    coded = Layout.of(Int8(), base.manifest).encoded(trained, base)
    header = Header("update", base.manifest, 3, codec="int8")
    frames = [encode(each) for each in frames_of(header, coded)]
    assert [message.hex(" ") for message in example("Fewer bytes")] == [frames[1].hex(" ")]
    assert b"\xa4int8" in frames[0]


def test_the_worked_example_is_what_our_codec_writes() -> None:
    model = Model.from_arrays([np.array([1.5, -2.0], np.float32)], ["w"])
    task_id = TaskId(bytes(range(16)).hex())
    federation_id = FederationId(bytes(range(0xA0, 0xB0)).hex())
    metrics_, metadata = {"loss": 0.5}, {"num_training_examples": 40}
    header = Header("update", model.manifest, 3, task_id, metrics_, dict(metadata), federation_id)
    assert [message.hex(" ") for message in example()] == [encode(each).hex(" ") for each in frames_of(header, model)]


def test_the_worked_example_goes_in_one_chunk() -> None:
    frames = split(b"".join(example()))
    header, data, end = map(frame.decode, frames)
    assert isinstance(header, Header)
    assembly = frame.Assembly(header, allocate(header.manifest.size_bytes))
    assert [assembly.add(data), assembly.add(end)] == [False, True]
    assert assembly.model.arrays()[0].tolist() == [1.5, -2.0]


def test_the_worked_example_can_be_followed_without_our_code() -> None:
    (first,), (second,), (third,) = (pb.Chunk.FromString(message).frames for message in example())
    payload = second[-8:]
    assert np.frombuffer(payload, "<f4").tolist() == [1.5, -2.0]
    digest = xxhash.xxh3_128(first + payload)
    assert third.endswith(digest.digest())
    assert f"`{digest.hexdigest()}`" in PAGE
    assert f"`{xxhash.xxh3_128().hexdigest()}`" in PAGE
    shorter = frame.decode(memoryview(bytes.fromhex("92 00 c4 08") + payload))
    assert isinstance(shorter, frame.Data)
    assert (shorter.offset, bytes(shorter.payload)) == (0, payload)


def test_the_manifest_of_two_tensors_is_laid_out_as_the_page_says() -> None:
    both = Manifest.lay_out([("w", "float32", (2,)), ("b", "float32", ())])
    text = str(msgpack.unpackb(manifest.packed_manifest(both))).replace("'", '"')
    assert f"`{text}`, `size_bytes` {both.size_bytes}" in PAGE.replace("\n", " ")


def names_in_protos() -> list[str]:
    methods = [method.name for service in pb.DESCRIPTOR.services_by_name.values() for method in service.methods]
    messages = list(pb.DESCRIPTOR.message_types_by_name.values())
    fields = {field.name for message in messages for field in message.fields}
    return sorted({*methods, *(message.name for message in messages), *fields})


@pytest.mark.parametrize("name", names_in_protos())
def test_everything_in_protos_is_on_the_page(name: str) -> None:
    assert re.search(rf"\b{name}\b", PAGE), f"docs/wire.md says nothing of {name}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_on_the_page(dtype: str) -> None:
    assert f"`{dtype}`" in PAGE


def test_every_error_that_crosses_the_wire_is_on_the_page() -> None:
    branches = (errors.ConfigError, errors.CodecError, errors.ProtocolError, errors.RoundError)
    leaves = {
        name
        for name in errors.__all__
        if isinstance(kind := getattr(errors, name), type) and issubclass(kind, branches) and not kind.__subclasses__()
    }
    told = set(re.findall(r"`([A-Z][A-Za-z]+)`", PAGE.split("\n## Errors", 1)[1]))
    assert leaves <= told


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("a frame", frame.MAX_FRAME_BYTES),
        ("a chunk, as a message", frame.MAX_FRAME_BYTES + 1024),
        ("frames in a chunk", chunk.MAX_FRAMES),
        ("fields of a chunk that are not known", chunk.MAX_UNKNOWN),
        ("data frames of a model, beyond one for each tensor and one for each KiB", frame.SPARE_FRAMES),
        ('a chunk with a whole update that does not wait for "send"', frame.UNASKED_BYTES),
        ("`metrics` and `metadata` of a header, packed together", frame.MAX_FACTS_BYTES),
        ("levels of nesting in `metadata`", metrics.MAX_DEPTH),
        ("tensors in a model", manifest.MAX_TENSORS),
        ("dimensions of a tensor", manifest.MAX_DIMENSIONS),
        ("dimensions of all tensors together", manifest.MAX_EXTENTS),
        ("a tensor's name", outline.MAX_TEXT_BYTES),
        ("every other value in a header, except the `manifest`", outline.MAX_VALUE_BYTES),
        ("keys of a header", outline.MAX_KEYS),
        ("values in `metadata`, and in `metrics`", outline.MAX_VALUES),
        ("arrays and maps in `metadata`", outline.MAX_CONTAINERS),
        ("entries in one map", outline.MAX_ENTRIES),
        ("a message of a learner on Tasks", convert.MAX_MESSAGE_BYTES),
        ("tasks in one Hello", convert.MAX_HELD),
        ("`contributors` in one Evaluated", contributors.MOST_CONTRIBUTORS),
        ("characters of a contributor's name", contributors.MAX_NAME_LENGTH),
        ("StartRequest", convert_driver.MAX_START_BYTES),
        ("learners that it names", convert_driver.MAX_NAMED),
        ("a root certificate in it", convert_driver.MAX_CERTIFICATE_BYTES),
        ("AskRequest", convert_driver.MAX_START_BYTES),
        ("`params_json` of a question", MAX_QUESTION_BYTES),
        ("questions of all drivers that are open at one time", questions.MAX_OPEN),
        ("any other request", convert.MAX_REQUEST_BYTES),
        ("characters of a learner_id", registry.MAX_ID_LENGTH),
        ("calls of one party at one time, each until it was read to its end", grpc_access.MOST_CALLS),
    ],
)
def test_limits_are_those_of_the_code(what: str, limit: int) -> None:
    assert re.search(rf"^\| {re.escape(what)} \| {limit:,}( bytes)? \|$", PAGE, re.MULTILINE)


def test_other_numbers_are_those_of_the_code() -> None:
    assert f"multiple of {ALIGNMENT};" in PAGE.replace("\n  ", " ")
    assert manifest.MAX_MODEL_BYTES == 2**48
    assert "2^48 bytes" in PAGE
    assert f"at most {metrics.MAX_DEPTH} levels deep" in PAGE
    assert f"cut at {MAX_TEXT:,} characters" in PAGE
    assert f"cut at {MAX_NAME} characters" in PAGE
    assert MOST_DAMAGES == 3
    assert "This answer comes three times at most" in PAGE


@pytest.mark.parametrize("said", [*TaskKind, *Verdict, *Outcome, *Afterwards])
def test_every_word_that_the_parties_say_stands_in_a_table(said: str) -> None:
    assert re.search(rf'^\| "{said}"', PAGE, re.MULTILINE)


def test_the_version_of_the_protocol_is_that_of_the_code() -> None:
    assert f"This is version {PROTOCOL} of the protocol" in PAGE
    assert len(re.findall(rf"^\| `protocol` \| {PROTOCOL}\b", PAGE, re.MULTILINE)) == 2
