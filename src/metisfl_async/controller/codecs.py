"""How the models of one federation travel in fewer bytes: global ones are coded, coded updates are made whole."""

from __future__ import annotations

from metisfl_async.codec.coded import Layout
from metisfl_async.codec.coding import coding_of
from metisfl_async.codec.frame import Header
from metisfl_async.codec.publication import Publication
from metisfl_async.core.codecs import RAW
from metisfl_async.core.errors import UnexpectedMessage
from metisfl_async.core.model import Bytes, Manifest, Model
from metisfl_async.core.strategies.aggregation.arithmetic import Sum

__all__ = ["Codecs"]


class Codecs:
    """Knows how coded models are laid out, once `take_up` has seen what the federation's models are like."""

    def __init__(self, update_codec: str = RAW, download_codec: str = RAW, sum_form: type[Sum] = Sum) -> None:
        self._update, self._download = coding_of(update_codec), coding_of(download_codec)
        self._download_codec, self.sum_form = download_codec, sum_form
        self._of_updates: Layout | None = None
        self._of_downloads: Layout | None = None
        self._of_sums: Manifest | None = None
        self._again: Bytes | None = None  # in which updates are made whole, one after another

    def take_up(self, manifest: Manifest) -> None:
        self._of_sums = self.sum_form.packed_manifest(manifest)
        self._of_updates = None if self._update is None else Layout.of(self._update, manifest)
        self._of_downloads = None if self._download is None else Layout.of(self._download, manifest)

    def comes_as(self, header: Header) -> Manifest:
        """Say what the frames of an update bring."""
        if header.kind == "sum":
            assert self._of_sums is not None, "others are refused on their header"
            return self._of_sums
        if header.codec == RAW:
            return header.manifest
        assert self._of_updates is not None, "others are refused on their header"
        return self._of_updates.coded

    def whole(self, coded: Model, base: Model) -> Model:
        """Make a coded update whole: the latest global model, and what it changes of that. It lasts until the next one.

        Raises
        ------
        Damaged, UnexpectedMessage
            If it cannot be: its parts are none, or it was trained from another model.
        """
        assert self._of_updates is not None
        if coded.version != base.version:
            raise UnexpectedMessage(f"it changes global model {coded.version}; the latest is {base.version}")
        model = self._of_updates.decoded(coded, base, self._again)
        self._again = model.buffer
        return model

    def publication(self, model: Model) -> Publication:
        """Make a global model ready to be read, also in fewer bytes if it may be had so."""
        if self._of_downloads is None:
            return Publication(model)
        header = Header("global", model.manifest, model.version, codec=self._download_codec)
        return Publication(model, smaller=Publication(self._of_downloads.encoded(model), header))
