"""A global model that many readers fetch: cut and encoded once, sent to each at its own pace."""

from __future__ import annotations

from collections.abc import Iterator

from metisfl_async.codec.frame import Data, Frame, Header, bundles_of, encode
from metisfl_async.codec.pace import Pace
from metisfl_async.core.model import Model

__all__ = ["Publication"]


class Publication:
    """A global model made ready once for many readers: the same immutable chunks go to all of them but the slow.

    Where it may be had in fewer bytes, `smaller` is that coded model, published under the header of this one.
    """

    def __init__(self, model: Model, header: Header | None = None, smaller: Publication | None = None) -> None:
        self.model, self.smaller = model.freeze(), smaller
        self._header = header or Header("global", model.manifest, model.version)
        self._bundles: list[list[Frame]] = []  # as far as somebody has read; payloads are views
        self._rest = bundles_of(self._header, model)
        self._chunks: dict[int, bytes] = {}  # by the index of their bundle

    def in_codec(self, codec: str) -> Publication:
        """Give the coded one, if it has this codec; else the model as it is."""
        smaller = self.smaller
        return smaller if smaller is not None and smaller._header.codec == codec else self

    def chunks(self, pace: Pace | None = None) -> Iterator[tuple[bytes, int]]:
        """Give all chunks from the first, each with its bytes of model; encoded when the first reader comes to it.

        To a reader for whom they are too large, `pace` gives the same in smaller ones, which are its own.
        """
        index = 0
        while True:
            if index == len(self._bundles):
                if (bundle := next(self._rest, None)) is None:
                    return
                self._bundles.append(bundle)
            bundle = self._bundles[index]
            size = sum(len(frame.payload) for frame in bundle if isinstance(frame, Data))
            if pace is not None and size > pace.payload_bytes:
                for frame in _cut(bundle, pace):
                    yield encode(frame), len(frame.payload) if isinstance(frame, Data) else 0
            else:
                if index not in self._chunks:
                    self._chunks[index] = encode(*bundle)
                yield self._chunks[index], size
            index += 1

    def forget_chunks(self) -> None:
        """Give up their memory, which is as much as the model's; whoever still reads has them encoded anew."""
        self._chunks.clear()
        if self.smaller is not None:
            self.smaller.forget_chunks()


def _cut(frames: list[Frame], pace: Pace) -> Iterator[Frame]:
    """Give the same frames, data in pieces as large as `pace` allows at the time."""
    for frame in frames:
        match frame:
            case Data(offset, payload):
                while payload:
                    size = pace.payload_bytes
                    yield Data(offset, payload[:size])
                    offset, payload = offset + size, payload[size:]
            case _:
                yield frame
