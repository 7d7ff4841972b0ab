"""Examples and labels of all kinds of libraries are cut by position, and stay what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from metisfl_async.core.errors import ConfigError
from metisfl_async.data import dirichlet_partition, iid_partition, label_partition, quantity_partition

COUNT = 60
VALUES = np.arange(COUNT)
LABELS = VALUES % 3


class Column(Sequence[Any]):
    """A column of a Hugging Face dataset: a sequence that is read when it is asked for."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: Any) -> Any:
        return self.values[key]


class Dataset:
    """What a Hugging Face dataset can do, as far as it is used."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __len__(self) -> int:
        return len(self.columns["value"])

    def __getitem__(self, key: Any) -> Any:
        return Column(self.columns[key]) if isinstance(key, str) else {n: v[key] for n, v in self.columns.items()}

    def select(self, indices: Any) -> Dataset:
        return Dataset({name: [values[row] for row in indices] for name, values in self.columns.items()})


def shuffled_index() -> Any:
    return np.random.default_rng(7).permutation(COUNT)


#: A way to make each kind from an array, the kind that its parts are, and the numbers in a part.
KINDS: dict[str, tuple[Callable[[Any], Any], type, Callable[[Any], list[Any]]]] = {
    "array": (np.asarray, np.ndarray, np.ndarray.tolist),
    "list": (np.ndarray.tolist, list, list),
    "column": (lambda values: Column(values.tolist()), list, list),
    "series": (lambda values: pd.Series(values, index=shuffled_index()), pd.Series, lambda part: part.tolist()),
    "index": (pd.Index, pd.Index, lambda part: part.tolist()),
    "category": (
        lambda values: pd.Series(values, index=shuffled_index(), dtype="category"),
        pd.Series,
        lambda part: part.tolist(),
    ),
    "column of shape (n, 1)": (lambda values: values[:, None], np.ndarray, lambda part: part[:, 0].tolist()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("partition", [iid_partition, label_partition, dirichlet_partition, quantity_partition])
def test_labels_stay_with_their_examples(partition: Callable[..., Any], kind: str) -> None:
    make, expected, read = KINDS[kind]
    x_chunks, y_chunks = partition(make(VALUES), make(LABELS), num_partitions=3)
    assert all(isinstance(chunk, expected) for chunk in (*x_chunks, *y_chunks))
    assert sorted(value for chunk in x_chunks for value in read(chunk)) == VALUES.tolist()
    for x, y in zip(x_chunks, y_chunks, strict=True):
        assert [value % 3 for value in read(x)] == read(y)
    of_arrays = partition(VALUES, LABELS, num_partitions=3)[0]
    assert [read(chunk) for chunk in x_chunks] == [chunk.tolist() for chunk in of_arrays]


@pytest.mark.parametrize("partition", [label_partition, dirichlet_partition])
def test_a_column_of_a_frame_may_have_the_labels(partition: Callable[..., Any]) -> None:
    frame = pd.DataFrame({"value": VALUES, "label": LABELS}, index=shuffled_index())
    parts = partition(frame, "label", num_partitions=3)
    assert [part["value"].tolist() for part in parts] == [
        chunk.tolist() for chunk in partition(VALUES, LABELS, num_partitions=3)[0]
    ]
    assert all((part["value"] % 3 == part["label"]).all() for part in parts)


@pytest.mark.parametrize("partition", [label_partition, dirichlet_partition])
def test_datasets_of_hugging_face_are_selected_from(partition: Callable[..., Any]) -> None:
    dataset = Dataset({"value": VALUES.tolist(), "label": LABELS.tolist()})
    parts = partition(dataset, "label", num_partitions=3)
    assert all(isinstance(part, Dataset) for part in parts)
    assert [part.columns["value"] for part in parts] == [
        chunk.tolist() for chunk in partition(VALUES, LABELS, num_partitions=3)[0]
    ]
    of_column, labels = partition(dataset, dataset["label"], num_partitions=3)
    assert [part.columns for part in of_column] == [part.columns for part in parts]
    assert labels == [part.columns["label"] for part in parts]
    assert len(iid_partition(dataset, num_partitions=4)) == 4


def test_a_sparse_matrix_is_cut_by_rows() -> None:
    matrix = scipy.sparse.csr_matrix(np.eye(COUNT))
    x_chunks, y_chunks = iid_partition(matrix, VALUES, num_partitions=7)
    assert [chunk.indices.tolist() for chunk in x_chunks] == [chunk.tolist() for chunk in y_chunks]


@pytest.mark.tensorflow
def test_tensors_are_taken_from() -> None:
    import tensorflow as tf
    import torch

    for make, kind in ((torch.from_numpy, torch.Tensor), (tf.constant, np.ndarray)):
        x_chunks, y_chunks = dirichlet_partition(make(VALUES), make(LABELS), num_partitions=3)
        assert all(isinstance(chunk, kind) for chunk in x_chunks)
        expected, _ = dirichlet_partition(VALUES, LABELS, num_partitions=3)
        assert [chunk.tolist() for chunk in x_chunks] == [chunk.tolist() for chunk in expected]
        assert all((x % 3 == y).all() for x, y in zip(x_chunks, y_chunks, strict=True))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (pd.Series([1, None, 2, 2], dtype="Int64"), "4 labels, of which 1 are missing"),
        (np.array([1, pd.NA, 2, 2], object), "4 labels, of which 1 are missing"),
        (pd.Series(["a", None, "b", "b"]), "4 labels, of which 1 are missing"),
        (pd.Series(["a", None, "b", "b"], dtype="category"), "4 labels, of which 1 are missing"),
    ],
)
def test_what_pandas_calls_missing_is_refused(labels: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        label_partition(np.arange(4), labels, num_partitions=2)
    assert caught.value.value == message


def test_targets_that_are_missing_are_nobodys_business_where_they_decide_nothing() -> None:
    _, y_chunks = iid_partition(np.arange(4), np.array([np.nan] * 4), num_partitions=2)
    assert [len(chunk) for chunk in y_chunks] == [2, 2]


@pytest.mark.parametrize(
    ("x", "y", "field", "value"),
    [
        ((VALUES, LABELS), None, "x", "tuple"),
        ({"image": VALUES}, None, "x", "dict"),
        (np.ndarray, None, "x", "type"),
        (np.array(3), None, "x", "one value"),
        (VALUES, "label", "y", "str"),
        (iter(VALUES), None, "x", "iterator"),
    ],
)
def test_what_has_no_rows_is_refused(x: Any, y: Any, field: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        iid_partition(x, y, num_partitions=2)
    assert caught.value.field == field
    assert str(caught.value.value).startswith(value)


@pytest.mark.parametrize(
    ("x", "y", "allowed"),
    [
        (VALUES, "label", "the labels: the examples have no columns"),
        (pd.DataFrame({"a": [1, 2]}), "label", "one of the columns ['a']"),
        (VALUES, np.eye(COUNT), "class labels, shape (n,); of one-hot labels, y.argmax(axis=1)"),
    ],
)
def test_what_is_no_class_label_is_refused(x: Any, y: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        dirichlet_partition(x, y, num_partitions=2)
    assert caught.value.allowed == allowed
