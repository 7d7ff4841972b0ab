"""Models in fewer bytes: what is coded of them, what of a change is lost, and what is kept of that."""

from __future__ import annotations

from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metisfl_async.codec.chunk import split
from metisfl_async.codec.coded import Layout, effort
from metisfl_async.codec.coding import TopK, coding_of
from metisfl_async.codec.frame import Assembly, Header, decode, encode, frames_of
from metisfl_async.codec.publication import Publication
from metisfl_async.core.errors import Damaged
from metisfl_async.core.model import Array, Manifest, Model, allocate

NAMES = ("bf16", "int8", "topk:0.1")
EPSILON = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


def layout(name: str, manifest: Manifest) -> Layout:
    coding = coding_of(name)
    assert coding is not None
    return Layout.of(coding, manifest)


def model(seed: int, step: float = 1.0) -> Model:
    """A model with tensors of all kinds; "mean" is not trained."""
    draw = np.random.default_rng(seed).normal

    def floats(dtype: object, *shape: int) -> Array:
        return np.asarray(draw(scale=step, size=shape)).astype(dtype)  # type: ignore[call-overload, no-any-return]

    tensors = {
        "w": floats("float32", 30, 50),
        "empty": floats("float32", 0, 3),
        "mean": floats("float32", 5),
        "steps": np.array(7 + seed),
        "half": floats("float16", 20),
        "brain": floats(ml_dtypes.bfloat16, 20),
        "double": floats("float64", 3),
        "scalar": floats("float32"),
    }
    return Model.from_arrays(list(tensors.values()), list(tensors), untrained=["mean"])


def moved(base: Model, seed: int, step: float = 1e-3) -> Model:
    """The same model a small step further."""
    return Model.filled(
        base.manifest, [b + s.astype(b.dtype) for b, s in zip(base.arrays(), model(seed, step).arrays(), strict=True)]
    )


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("bf16", "w:bfloat16 empty:bfloat16 mean:float32 steps:int64 half:float16 brain:bfloat16 double:bfloat16 "
         "scalar:bfloat16"),
        ("int8", "w:int8 w:float32 empty:int8 empty:float32 mean:float32 steps:int64 half:int8 half:float32 brain:int8 "
         "brain:float32 double:int8 double:float32 scalar:int8 scalar:float32"),
        ("topk:0.1", "w:uint32 w:float32 empty:uint32 empty:float32 mean:float32 steps:int64 half:uint32 half:float32 "
         "brain:uint32 brain:float32 double:uint32 double:float32 scalar:uint32 scalar:float32"),
    ],
)  # fmt: skip
def test_trained_floats_are_coded_and_nothing_else(name: str, tensors: str) -> None:
    coded = layout(name, model(0).manifest).coded
    assert " ".join(f"{spec.name}:{spec.dtype}" for spec in coded.tensors) == tensors


def test_what_is_not_trained_is_said_by_the_manifest() -> None:
    coded = layout("bf16", model(0).manifest.unmarked).coded
    assert [spec.dtype for spec in coded.tensors if spec.name == "mean"] == ["bfloat16"]


def test_a_global_model_is_rounded() -> None:
    whole = model(0)
    form = layout("bf16", whole.manifest)
    back = form.decoded(form.encoded(whole))
    for spec, one, other in zip(whole.manifest.tensors, whole.arrays(), back.arrays(), strict=True):
        is_coded = spec.dtype in ("float32", "float64") and spec.name != "mean"
        expected = one.astype(ml_dtypes.bfloat16) if is_coded else one
        np.testing.assert_array_equal(other, expected.astype(one.dtype), err_msg=spec.name)
    assert back.manifest is whole.manifest
    assert not back.buffer[whole.manifest.padding].any()


@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_the_base_and_what_was_said_of_the_change(name: str) -> None:
    base = model(0)
    trained = moved(base, 1)
    form = layout(name, base.manifest)
    coded = form.encoded(trained, base)
    assert not coded.buffer[coded.manifest.padding].any()
    back = form.decoded(coded, base)
    for spec, one, other, before in zip(
        base.manifest.tensors, trained.arrays(), back.arrays(), base.arrays(), strict=True
    ):
        if spec.name in ("mean", "steps"):
            np.testing.assert_array_equal(other, one)
            continue
        change = one.astype(np.float64) - before.astype(np.float64)
        said = other.astype(np.float64) - before.astype(np.float64)
        most = np.abs(change).max(initial=0)
        ulp = EPSILON[one.dtype.name] * float(np.abs(one.astype(np.float64)).max(initial=0))
        lost = {"bf16": most / 256, "int8": most / 250}.get(name, most) + ulp
        assert (np.abs(said - change) <= lost).all(), spec.name


@pytest.mark.parametrize("name", ["int8", "topk:0.1"])
def test_what_is_lost_is_said_later(name: str) -> None:
    base = model(0)
    form = layout(name, base.manifest)
    rest = form.no_rest()
    reached = [np.zeros_like(array) for array in rest]
    meant = [np.zeros_like(array) for array in rest]
    trained_floats = [0, 1, 4, 5, 6, 7]
    for seed in range(1, 6):
        trained = moved(base, seed, 0.1)
        coded = form.encoded(trained, base, rest)
        said = form.decoded(coded)  # beside nothing: the change alone
        for number, tensor in enumerate(trained_floats):
            reached[number] += said.arrays()[tensor].astype(np.float32).reshape(-1)
            change = trained.arrays()[tensor].astype(np.float64) - base.arrays()[tensor].astype(np.float64)
            meant[number] += change.astype(np.float32).reshape(-1)
    for number, tensor in enumerate(trained_floats):
        left = meant[number] - reached[number]
        precision = EPSILON[base.arrays()[tensor].dtype.name]  # of what `said` was rounded to
        np.testing.assert_allclose(rest[number], left, atol=max(precision, 1e-6))


@given(st.integers(0, 2**16), st.sampled_from(NAMES))
def test_damage_is_named_or_gives_a_model(seed: int, name: str) -> None:
    base = model(0)
    form = layout(name, base.manifest)
    coded = form.encoded(moved(base, 1), base)
    coded.buffer[seed % len(coded.buffer)] ^= 1 + seed % 255
    with suppress(Damaged):
        assert form.decoded(coded, base).manifest is base.manifest


def test_wrong_places_are_named_with_their_tensor() -> None:
    base = model(0)
    form = Layout.of(TopK(0.1), base.manifest)
    coded = form.encoded(moved(base, 1), base)
    coded.arrays()[0][0] = 5000
    with pytest.raises(Damaged, match=r"tensor 'w', coded: its places do not grow, or are beyond its 1500 values"):
        form.decoded(coded, base)


def test_a_buffer_is_used_again() -> None:
    base = model(0)
    room = Model.filled(base.manifest, base.arrays()).buffer
    room[...] = 0xFF
    form = layout("int8", base.manifest)
    coded = form.encoded(moved(base, 1), base)
    back = form.decoded(coded, base, room)
    assert back.buffer is room
    assert back.buffer.tobytes() == form.decoded(coded, base).buffer.tobytes()


def test_what_overflows_is_not_finite_and_warns_of_nothing() -> None:
    base = Model.from_arrays([np.array([-3e38, 1e300])])
    trained = Model.from_arrays([np.array([3e38, -1e300])])
    for name in NAMES:
        form = layout(name, base.manifest)
        back = form.decoded(form.encoded(trained, base), base)
        assert not np.isfinite(back.arrays()[0]).all()


def test_a_global_model_is_never_made_infinite() -> None:
    whole = Model.from_arrays([np.array([1e300, -1e300, 1.0])])
    form = layout("bf16", whole.manifest)
    most = (2 - 2.0**-7) * 2.0**127
    assert form.decoded(form.encoded(whole)).arrays()[0].tolist() == [most, -most, 1.0]


@pytest.mark.parametrize("name", NAMES)
def test_a_coded_model_travels_as_a_model(name: str) -> None:
    base = model(0)
    form = layout(name, base.manifest)
    coded = form.encoded(moved(base, 1), base)
    sent = frames_of(Header("update", base.manifest, 3, codec=name), coded)
    header, *frames = map(decode, split(b"".join(map(encode, sent))))
    assert isinstance(header, Header)
    assert (header.codec, header.manifest) == (name, base.manifest)
    with pytest.raises(Damaged, match=f"codec '{name}'; allowed here: 'raw'"):
        Assembly(header, allocate(base.manifest.size_bytes))
    assembly = Assembly(header, allocate(form.coded.size_bytes), form.coded)
    assert [assembly.add(frame) for frame in frames] == [False, True]
    assert assembly.model.manifest is form.coded
    assert assembly.model.buffer.tobytes() == coded.buffer.tobytes()


def test_many_small_tensors_are_more_work_than_one_large_one() -> None:
    one, many = (Model.from_arrays([np.zeros(size, np.float32)] * count) for size, count in ((1600, 1), (16, 100)))
    assert effort(one.manifest) < effort(many.manifest)


def test_a_publication_may_be_had_in_fewer_bytes() -> None:
    whole = model(0)
    form = layout("bf16", whole.manifest)
    smaller = Publication(form.encoded(whole), Header("global", whole.manifest, 7, codec="bf16"))
    publication = Publication(whole, smaller=smaller)
    assert publication.in_codec("raw") is publication
    assert publication.in_codec("int8") is publication
    assert publication.in_codec("bf16") is smaller
    chunks = [chunk for chunk, _ in smaller.chunks()]
    header = decode(split(chunks[0])[0])
    assert isinstance(header, Header)
    assert (header.codec, header.model_version, header.manifest.untrained) == ("bf16", 7, whole.manifest.untrained)
    assert smaller._chunks
    publication.forget_chunks()
    assert not smaller._chunks
    assert [chunk for chunk, _ in smaller.chunks()] == chunks
