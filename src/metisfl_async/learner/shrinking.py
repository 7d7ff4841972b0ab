"""Codes a learner's updates in fewer bytes, and keeps what that loses for the next one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np

from metisfl_async.codec.coded import Layout
from metisfl_async.codec.coding import Values, coding_of
from metisfl_async.codec.frame import Header
from metisfl_async.core.codecs import RAW
from metisfl_async.core.federation.tasks import TaskKind
from metisfl_async.core.ids import FederationId
from metisfl_async.core.messages import TaskOffer
from metisfl_async.core.metrics import Json, Metrics
from metisfl_async.core.model import Manifest, Model
from metisfl_async.core.strategies.aggregation.arithmetic import unfit
from metisfl_async.learner.outcome import Trained

__all__ = ["Shrinking", "Update"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Update:
    """An update as it travels. It is kept until it counts, or is not wanted any more."""

    codec: str
    manifest: Manifest  #: of the whole model
    model: Model  #: or the coded one
    metrics: Metrics
    metadata: dict[str, Json]
    model_version: int  #: of the model that it was trained from
    is_own: bool  #: whether the memory is nobody else's, and may be used again for a model
    kind: str = "update"  #: or "sum"

    @classmethod
    def raw(cls, trained: Trained, model_version: int, *, is_own: bool) -> Update:
        model, manifest = trained.model, trained.sum_of or trained.model.manifest
        kind = "update" if trained.sum_of is None else "sum"
        return cls(trained.codec, manifest, model, trained.metrics, trained.metadata, model_version, is_own, kind)

    def header(self, offer: TaskOffer) -> Header:
        """Say what is sent for a task."""
        manifest = self.manifest
        if offer.kind is TaskKind.TRAIN:
            manifest = manifest.unmarked  # what is not trained was said with the first weights
        facts = self.model_version, offer.task_id, self.metrics, self.metadata, offer.model.federation_id
        return Header(self.kind, manifest, *facts, codec=self.codec)


class Shrinking:
    """What a learner has not said yet of the changes that it made. It is worthless in another federation."""

    def __init__(self) -> None:
        self._of: FederationId | None = None
        self._layout: Layout | None = None
        self._rest: list[Values] = []
        self._unknown = {RAW}  # codecs that are not known, and were told of

    def smaller(self, update: Update, codec: str, federation_id: FederationId, base: Model) -> Update:
        """Code an update that was trained from `base`.

        A sum travels as it is. So does what has a codec that is not known, or values that are not finite: then the
        controller can say what is wrong with them. What was lost of earlier changes is forgotten: it would spoil the
        next one.
        """
        if update.kind == "sum":
            return update
        if (coding := coding_of(codec)) is None:
            if codec not in self._unknown:
                self._unknown.add(codec)
                logger.warning("the update_codec %r is not known here; updates travel as they are", codec)
            return update
        layout = self._layout
        if layout is None or (layout.coding, layout.whole) != (coding, base.manifest) or federation_id != self._of:
            layout = self._layout = Layout.of(coding, base.manifest)
            self._of, self._rest = federation_id, layout.no_rest() if coding.has_rest else []
        coded = layout.encoded(update.model, base, self._rest)
        if unfit(coded) is not None or not all(np.isfinite(values).all() for values in self._rest):
            self._layout = None
            return update
        return replace(update, codec=codec, model=coded, is_own=False)
