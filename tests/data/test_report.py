from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from metisfl_async.core.errors import ConfigError
from metisfl_async.data import dirichlet_partition, partition_report

PARTS = [np.array([0, 0, 1]), [2, 1, 2], pd.Series([], dtype=int)]


def test_it_counts_the_classes_of_each_part() -> None:
    report = partition_report(PARTS)
    assert report.classes == [0, 1, 2]
    assert report.counts.tolist() == [[2, 1, 0], [0, 1, 2], [0, 0, 0]]
    assert report.sizes == [3, 3, 0]


def test_skew_is_the_distance_from_the_classes_of_all() -> None:
    even, uneven = partition_report([[0, 1], [1, 0]]), partition_report([["a"] * 3, ["b"] * 3])
    assert even.skews == [0, 0]
    assert uneven.skews == [0.5, 0.5]
    assert np.isnan(partition_report(PARTS).skews[2])
    labels = np.arange(1000) % 10
    skews = [
        np.mean(partition_report(dirichlet_partition(labels, labels, num_partitions=4, alpha=alpha)[1]).skews)
        for alpha in (100.0, 1.0, 0.1)
    ]
    assert skews == sorted(skews)


def test_its_text_is_a_table() -> None:
    assert repr(partition_report(PARTS)).splitlines() == [
        "part  examples  skew  0  1  2",
        "   0         3  0.33  2  1  0",
        "   1         3  0.33  0  1  2",
        "   2         0   nan  0  0  0",
    ]


def test_a_large_table_is_cut() -> None:
    lines = repr(partition_report([[part, part + 1] for part in range(30)])).splitlines()
    assert len(lines) == 22
    assert lines[0].endswith("  ...")
    assert lines[-1].strip() == "and 10 more parts"


def test_it_is_json_like() -> None:
    data = json.loads(json.dumps(partition_report([["cat", "dog"], ["cat", "cat"]]).to_dict()))
    assert data == {"parts": [{"cat": 1, "dog": 1}, {"cat": 2, "dog": 0}], "sizes": [2, 2], "skews": [0.25, 0.25]}


def test_no_labels_at_all_are_no_classes() -> None:
    assert partition_report([[], []]).sizes == [0, 0]


def test_both_lists_are_refused() -> None:
    with pytest.raises(ConfigError, match="y_chunks alone"):
        partition_report(([1], [2]))
