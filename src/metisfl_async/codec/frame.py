"""A model on its way: a header frame, data frames, and an end frame with the digest, each one msgpack object.

The header says everything before the receiver allocates anything. Data frames are ``[offset, bin]`` slices of the flat
buffer, in order, whatever the tensor boundaries. Only the end frame ends a model: a stream that merely stops is a dead
sender. The digest is XXH3-128 of the header frame and all payloads, so that neither a weight nor its name, shape or
scaling factor changes on the way; it guards against damage, TLS guards against tampering. Neighbouring frames may share
a Chunk message, since each message costs more than a small model's bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgpack
import xxhash

from metisfl_async.codec.chunk import frame_head
from metisfl_async.codec.manifest import manifest_from_wire, marked, packed_manifest
from metisfl_async.codec.outline import outline, value_of
from metisfl_async.codec.pace import CHUNK_BYTES, Pace
from metisfl_async.core.codecs import EXACT, RAW, UPDATE_CODECS, is_update_codec
from metisfl_async.core.errors import ConfigError, Damaged, TooLarge, Truncated, brief
from metisfl_async.core.metrics import Json, Metrics, checked_json, checked_metrics
from metisfl_async.core.model import Bytes, Manifest, Model

__all__ = [
    "KINDS",
    "MAX_FRAME_BYTES",
    "SHARED_MANIFEST_BYTES",
    "UNASKED_BYTES",
    "Assembly",
    "Data",
    "End",
    "Frame",
    "Header",
    "bundles_of",
    "check_size",
    "content_of",
    "decode",
    "decoding",
    "digesting",
    "encode",
    "frames_of",
    "most_frames",
]

KINDS = ("global", "update", "sum")
MAX_FRAME_BYTES = 4 * 2**20  #: a header with many tensors; nothing larger is sent or taken

SHARED_MANIFEST_BYTES = 64 * 1024  #: a header with a larger manifest has a chunk of its own
UNASKED_BYTES = 128 * 1024  #: a chunk with a whole update in it that need not wait for room
MAX_FACTS_BYTES = 64 * 1024  #: of metrics and metadata in a header
LONG_FACTS_BYTES = 4 * 1024  #: what is longer takes a step of its own, of 0.2 to 4 ms
SPARE_FRAMES = 64  #: data frames of a model, beside one for each tensor ...
SMALL_FRAME_BYTES = 1024  #: ... and one for so many bytes

_DATA_HEAD = struct.Struct(">BBQBI")  # array of 2, uint 64, bin 32: one size, whatever the offset
_UINTS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FIELDS = [
    *("kind", "task_id", "model_version", "federation_id", "codec", "size_bytes", "content"),
    *("untrained", "metrics", "metadata"),
]
_NIL = memoryview(b"\xc0")
_BINS = {0xC4: 1, 0xC5: 2, 0xC6: 4}


@dataclass(frozen=True, slots=True)
class Header:
    """What a receiver knows before the first byte of the model."""

    kind: str  #: of `KINDS`: "global" from the controller, "update" from a learner, "sum" of several updates
    manifest: Manifest
    model_version: int  #: of a global model; for an update: the one training started from
    task_id: str = ""
    metrics: Metrics = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)
    federation_id: str = ""  #: with the version: which model
    content: bytes = b""  #: what `digesting` makes of the model, if it is said
    codec: str = RAW  #: how the model travels; if not as it is, frames bring the coded one
    packed: bytes = field(default=b"", compare=False, repr=False)  #: the frame it came in, for the digest


@dataclass(frozen=True, slots=True)
class Data:
    """A slice of the flat buffer."""

    offset: int
    payload: memoryview

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.offset + len(self.payload)


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows."""

    digest: bytes  #: XXH3-128 of the header frame and the whole buffer, 16 bytes


Frame: TypeAlias = Header | Data | End


def frames_of(header: Header, model: Model, pace: Pace | None = None) -> Iterator[Frame]:
    """Cut a model into frames, one at a time, each as large as `pace` allows; payloads are views of its buffer."""
    yield header
    digest = xxhash.xxh3_128(_pack_header(header))
    buffer, offset = model.buffer.data, 0
    while offset < len(buffer):
        data = Data(offset, buffer[offset : offset + (pace.payload_bytes if pace else CHUNK_BYTES)])
        digest.update(data.payload)
        yield data
        offset = data.end
    yield End(digest.digest())


def bundles_of(header: Header, model: Model, pace: Pace | None = None) -> Iterator[list[Frame]]:
    """Cut a model into frames, as those that go in one chunk: the header with the first data, the end with the last."""
    bundle: list[Frame] = []
    for frame in frames_of(header, model, pace):
        bundle.append(frame)
        match frame:
            case Header(manifest=manifest) if len(packed_manifest(manifest)) <= SHARED_MANIFEST_BYTES:
                pass
            case Data() if frame.end == len(model.buffer):
                pass
            case _:
                yield bundle
                bundle = []


def encode(*frames: Frame) -> bytes:
    """Turn frames into the bytes of one Chunk message; one copy of the payloads."""
    parts: list[bytes | memoryview] = []
    for frame in frames:
        match frame:
            case Data(offset, payload):
                head = _DATA_HEAD.pack(0x92, 0xCF, offset, 0xC6, len(payload))
                parts += frame_head(len(head) + len(payload)), head, payload
            case End(digest):
                packed: bytes = msgpack.packb({"digest": digest})
                parts += frame_head(len(packed)), packed
            case _:
                packed = _pack_header(frame)
                parts += frame_head(len(packed)), packed
    return b"".join(parts)


def decode(frame: memoryview) -> Frame:
    """Read one frame of a chunk; a data frame's payload is a view of it.

    Raises
    ------
    CodecError
        If the bytes are not a whole, sane frame.
    """
    steps = decoding(frame)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def decoding(frame: memoryview) -> Generator[None, None, Frame]:
    """Read one frame as `decode` does, a header that takes long in several steps: others get their turn between."""
    if len(frame) > MAX_FRAME_BYTES:
        raise TooLarge("frame", f"{len(frame)} bytes; at most {MAX_FRAME_BYTES}")
    if not frame:
        raise Damaged("frame", "empty")
    if frame[0] == 0x92:
        return _decode_data(frame)
    fields = outline(frame, long="manifest")
    if "digest" in fields:
        return _decode_end(fields["digest"])
    return (yield from _decode_header(fields, frame))


def check_size(header: Header, max_model_bytes: int) -> None:
    """Refuse a model of more than `max_model_bytes` while only its header is there."""
    size = header.manifest.size_bytes
    if size > max_model_bytes:
        raise TooLarge("header", f"a model of {size} bytes; at most max_model_bytes={max_model_bytes}")


def content_of(header: Header) -> bytes:
    """Give what tells an update from another one of the same task: a hash of all that its header says about it."""
    how = header.kind, header.codec, header.model_version
    facts = msgpack.packb([*how, header.metrics, header.metadata, header.content])
    return xxhash.xxh3_128_digest(packed_manifest(header.manifest) + facts)


def digesting(model: Model) -> Generator[None, None, bytes]:
    """Hash the values of a model, XXH3-128, a chunk in each step: others get their turn between."""
    digest, buffer = xxhash.xxh3_128(), model.buffer.data
    for start in range(0, len(buffer), CHUNK_BYTES):
        digest.update(buffer[start : start + CHUNK_BYTES])
        yield
    return digest.digest()


def most_frames(manifest: Manifest) -> int:
    """Say how many data frames a model may come in: each costs as much as kilobytes do."""
    return SPARE_FRAMES + len(manifest.tensors) + manifest.size_bytes // SMALL_FRAME_BYTES


class Assembly:
    """Puts the frames of one model together in a buffer that the caller provides.

    Where it travels coded, who receives it says what the `coded` model is like.
    """

    def __init__(self, header: Header, buffer: Bytes, coded: Manifest | None = None) -> None:
        if coded is None and header.codec != RAW:
            raise Damaged("header", f"codec {header.codec!r}; allowed here: {RAW!r}")
        self.header = header
        self.received_bytes = 0
        self.is_complete = False
        self._manifest = coded or header.manifest
        self._buffer = buffer[: self._manifest.size_bytes]
        self._frames_left = most_frames(self._manifest)
        self._digest = xxhash.xxh3_128(header.packed or _pack_header(header))

    def add(self, frame: Frame) -> bool:
        """Take the next frame, copying its payload in; True once the model is whole and undamaged.

        Raises
        ------
        CodecError
            If the frame is not the one that belongs here.
        """
        size = len(self._buffer)
        if self.is_complete:
            raise Damaged("stream", "a frame after the end frame")
        match frame:
            case Data(offset, payload):
                end = frame.end
                if not payload:
                    raise Damaged("data frame", "an empty payload")  # a stream of them would have no end
                if offset != self.received_bytes:
                    raise Damaged("data frame", f"offset {offset} after {self.received_bytes} bytes")
                self._frames_left -= 1
                if self._frames_left < 0:
                    most = most_frames(self._manifest)
                    raise TooLarge("stream", f"more than {most} data frames for {size} bytes")
                if end > size:
                    raise Damaged("data frame", f"bytes {offset} to {end} of a model of {size}")
                self._buffer[offset:end] = payload
                self._digest.update(payload)
                self.received_bytes = end
            case End(digest):
                if self.received_bytes != size:
                    raise self.truncated()
                if digest != self._digest.digest():
                    raise Damaged("end frame", "the digest is not that of the header and the bytes received")
                if self._buffer[self._manifest.padding].any():
                    raise Damaged("data frame", "the padding between tensors is not zero")
                self.is_complete = True
            case _:
                raise Damaged("stream", "a second header")
        return self.is_complete

    def truncated(self) -> Truncated:
        """Say how far it came, for a stream that ended early."""
        return Truncated("stream", f"ended after {self.received_bytes} of {len(self._buffer)} bytes")

    @property
    def model(self) -> Model:
        """What has come, the model or the coded one, once complete; it shares the buffer."""
        return Model(self._manifest, self._buffer, self.header.model_version)


def _check_facts(metrics: Metrics, metadata: dict[str, Json]) -> None:
    """Keep what the controller remembers of an update small."""
    size = len(msgpack.packb(metrics)) + len(msgpack.packb(metadata))
    if size > MAX_FACTS_BYTES:
        raise _too_many_facts(size)


def _too_many_facts(size: int) -> TooLarge:
    return TooLarge("header", f"{size} bytes of metrics and metadata; at most {MAX_FACTS_BYTES}")


def _pack_header(header: Header) -> bytes:
    _check_facts(header.metrics, header.metadata)
    fields = {
        "kind": header.kind,
        "task_id": header.task_id,
        "model_version": header.model_version,
        "federation_id": header.federation_id,
        "codec": header.codec,
        "size_bytes": header.manifest.size_bytes,
    }
    facts: dict[str, object] = {"metrics": header.metrics, "metadata": header.metadata}
    if header.content:
        facts["content"] = header.content
    if header.manifest.untrained:
        facts["untrained"] = header.manifest.untrained
    head = bytes([0x80 + len(fields) + 1 + len(facts)])  # a map of so many
    manifest = msgpack.packb("manifest") + packed_manifest(header.manifest)  # once for all that have the same
    packed = b"".join((head, _pairs(fields), manifest, _pairs(facts)))
    if len(packed) > MAX_FRAME_BYTES:
        raise TooLarge("header", f"{len(packed)} bytes; at most {MAX_FRAME_BYTES}: fewer tensors, or less metadata")
    return packed


def _pairs(fields: dict[str, object]) -> bytes:
    """Pack a small map, without its head of one byte: a part of a larger one."""
    packed: bytes = msgpack.packb(fields)
    return packed[1:]


def _decode_data(frame: memoryview) -> Data:
    offset, position = _read_uint(frame, 1)
    width = _BINS.get(frame[position]) if position < len(frame) else None
    if width is None:
        raise Damaged("data frame", "not [offset, bin]")
    if position + 1 + width > len(frame):
        raise Truncated("data frame", "the length of the payload is cut off")
    payload = frame[position + 1 + width :]
    size = int.from_bytes(frame[position + 1 : position + 1 + width], "big")
    if len(payload) < size:
        raise Truncated("data frame", f"{len(payload)} of {size} bytes")
    if len(payload) > size:
        raise Damaged("data frame", f"{len(payload) - size} bytes follow the payload")
    return Data(offset, payload)


def _read_uint(frame: memoryview, position: int) -> tuple[int, int]:
    """Read any msgpack form of an unsigned integer; the value and where the next object starts."""
    first = frame[position] if position < len(frame) else 0xFF
    if first < 0x80:
        return first, position + 1
    width = _UINTS.get(first)
    if width is None or position + 1 + width > len(frame):
        raise Damaged("data frame", "the offset is not an unsigned integer")
    return int.from_bytes(frame[position + 1 : position + 1 + width], "big"), position + 1 + width


def _decode_end(packed: memoryview) -> End:
    digest = value_of(packed, "end frame")
    if not isinstance(digest, bytes) or len(digest) != 16:
        raise Damaged("end frame", "the digest is not 16 bytes")
    return End(digest)


def _decode_header(packed: dict[str, memoryview], frame: memoryview) -> Generator[None, None, Header]:
    facts_bytes = sum(len(packed[name]) for name in ("metrics", "metadata") if name in packed)
    if facts_bytes > MAX_FACTS_BYTES:
        raise _too_many_facts(facts_bytes)
    if facts_bytes > LONG_FACTS_BYTES:
        yield
    fields = {name: value_of(packed[name], "header") for name in _FIELDS if name in packed}
    manifest = yield from manifest_from_wire(packed.get("manifest", _NIL))
    manifest = marked(manifest, fields.get("untrained"))
    kind, codec, version = fields.get("kind"), fields.get("codec"), fields.get("model_version")
    task_id, federation_id = fields.get("task_id", ""), fields.get("federation_id", "")
    content = fields.get("content", b"")
    size_bytes = fields.get("size_bytes")
    if kind not in KINDS:
        raise Damaged("header", f"kind {brief(kind)}; allowed: {', '.join(map(repr, KINDS))}")
    if not is_update_codec(codec) and (kind, codec) != ("sum", EXACT):
        raise Damaged("header", f"codec {brief(codec)}; allowed: {UPDATE_CODECS}; of a sum, {RAW!r} or {EXACT!r}")
    if type(version) is not int or version < 0:
        raise Damaged("header", f"model_version {brief(version)}; allowed: an integer >= 0")
    if type(size_bytes) is not int or size_bytes != manifest.size_bytes:
        raise Damaged("header", f"size_bytes {brief(size_bytes)}, but the manifest takes {manifest.size_bytes}")
    if not isinstance(task_id, str) or not isinstance(federation_id, str):
        raise Damaged("header", "task_id and federation_id must be strings")
    if not isinstance(content, bytes) or len(content) not in (0, 16):
        raise Damaged("header", f"content {brief(content)}; allowed: 16 bytes")
    try:
        metrics = checked_metrics(fields.get("metrics", {}), "metrics")
        metadata = checked_json(fields.get("metadata", {}), "metadata")
    except ConfigError as error:
        raise Damaged("header", str(error)) from error
    if not isinstance(metadata, dict):
        raise Damaged("header", "metadata is not a map")
    said = (metrics, metadata, federation_id, content, str(codec))
    return Header(str(kind), manifest, version, task_id, *said, bytes(frame))
