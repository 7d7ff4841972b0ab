"""What a learner does not say of an update, it says with a later one; unless that would be of another federation."""

from __future__ import annotations

import numpy as np
import pytest

from metisfl_async.codec.coded import Layout
from metisfl_async.codec.coding import TopK
from metisfl_async.core.codecs import RAW
from metisfl_async.core.ids import FederationId
from metisfl_async.core.model import Model
from metisfl_async.learner.outcome import Trained
from metisfl_async.learner.shrinking import Shrinking, Update

ONE, OTHER = FederationId("1"), FederationId("2")
BASE = Model.from_arrays([np.zeros(10, np.float32)])


def moved(*steps: float) -> Update:
    array = np.zeros(10, np.float32)
    array[: len(steps)] = steps
    return Update.raw(Trained(Model.from_arrays([array])), 0, is_own=True)


def heard(update: Update) -> list[float]:
    assert update.codec == "topk:0.1"
    assert not update.is_own
    assert update.manifest == BASE.manifest
    values = Layout.of(TopK(0.1), BASE.manifest).decoded(update.model).arrays()[0]
    return [float(value) for value in values if value]


def test_what_was_not_said_is_said_later() -> None:
    shrinking = Shrinking()
    assert heard(shrinking.smaller(moved(1, 5, 2), "topk:0.1", ONE, BASE)) == [5]
    assert heard(shrinking.smaller(moved(), "topk:0.1", ONE, BASE)) == [2]
    assert heard(shrinking.smaller(moved(0.5), "topk:0.1", ONE, BASE)) == [1.5]
    assert heard(shrinking.smaller(moved(), "topk:0.1", ONE, BASE)) == []


def test_in_another_federation_it_is_forgotten() -> None:
    shrinking = Shrinking()
    shrinking.smaller(moved(1, 5), "topk:0.1", ONE, BASE)
    assert heard(shrinking.smaller(moved(), "topk:0.1", OTHER, BASE)) == []


def test_with_another_model_it_is_forgotten() -> None:
    shrinking = Shrinking()
    shrinking.smaller(moved(1, 5), "topk:0.1", ONE, BASE)
    larger = Model.from_arrays([np.zeros(11, np.float32)])
    update = shrinking.smaller(Update.raw(Trained(larger), 0, is_own=True), "topk:0.1", ONE, larger)
    assert not update.model.arrays()[1].any()


def test_what_is_not_finite_travels_as_it_is_and_spoils_nothing_later() -> None:
    shrinking = Shrinking()
    shrinking.smaller(moved(1, 5), "topk:0.1", ONE, BASE)
    wrong = moved(np.nan)
    assert shrinking.smaller(wrong, "topk:0.1", ONE, BASE) is wrong
    assert wrong.codec == RAW
    assert heard(shrinking.smaller(moved(3), "topk:0.1", ONE, BASE)) == [3]


@pytest.mark.parametrize("codec", ["bf16", "int8", "topk:0.1"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_whatever_the_codec_what_is_not_finite_is_said_as_it_is(codec: str, wrong: float) -> None:
    assert Shrinking().smaller(moved(1.0, wrong), codec, ONE, BASE).codec == RAW


def test_a_change_whose_scale_would_overflow_travels_as_it_is() -> None:
    largest = float(np.finfo(np.float32).max)
    assert Shrinking().smaller(moved(largest), "int8", ONE, BASE).codec == RAW
    assert Shrinking().smaller(moved(largest / 2), "int8", ONE, BASE).codec == "int8"
