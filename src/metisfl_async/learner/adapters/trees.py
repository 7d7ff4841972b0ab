"""XGBoost's trees as arrays of one size, and back.

A tree is a row. Its nodes stand as in a heap: below node i are 2i + 1 and 2i + 2, so that no array of a stranger's can
describe a circle. XGBoost reads and writes models as JSON, which says the same by node numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Array
from metisfl_async.core.strategies.aggregation.tree_bagging import LEAF_VALUES, NUM_NEW, NUM_TREES

__all__ = ["MAX_DEPTH", "checked_trees", "empty_trees", "model_of", "put_trees"]

MAX_DEPTH = 12  #: a row has room for 2 ** (depth + 1) - 1 nodes
ROOT = 2**31 - 1  #: what XGBoost writes for the parent of a tree's first node


def empty_trees(max_trees: int, depth: int) -> dict[str, Array]:
    """Make room for trees of at most some depth."""
    shape = max_trees, 2 ** (depth + 1) - 1
    return {
        NUM_TREES: np.zeros((), np.int64),
        NUM_NEW: np.zeros((), np.int64),
        "group": np.zeros(max_trees, np.int32),  # the class, or the target, that a tree is for
        "feature": np.full(shape, -1, np.int32),  # that a node asks for; -1 at leaves, and where no node is
        "threshold": np.zeros(shape, np.float32),  # left below it, right from it on
        LEAF_VALUES: np.zeros(shape, np.float32),
        "default_left": np.zeros(shape, np.bool_),  # whether a missing value goes left
    }


def put_trees(arrays: Mapping[str, Array], start: int, model: Mapping[str, Any]) -> int:
    """Write the trees of a model that stand behind the first `start` to the same rows; give how many those are."""
    booster = model["learner"]["gradient_booster"]["model"]
    trees = booster["trees"][start:]
    for row, tree in enumerate(trees, start):
        arrays["group"][row] = booster["tree_info"][row]
        places = {0: 0}  # of a node in XGBoost's numbers: its place in the row
        for name in ("feature", "threshold", LEAF_VALUES, "default_left"):
            arrays[name][row] = -1 if name == "feature" else 0
        while places:
            node, place = places.popitem()
            left, right = tree["left_children"][node], tree["right_children"][node]
            condition = tree["split_conditions"][node]
            if left == -1:
                arrays[LEAF_VALUES][row, place] = condition
                continue
            arrays["feature"][row, place] = tree["split_indices"][node]
            arrays["threshold"][row, place] = condition
            arrays["default_left"][row, place] = tree["default_left"][node]
            places |= {left: 2 * place + 1, right: 2 * place + 2}
    return len(trees)


def model_of(arrays: Mapping[str, Array], empty: Mapping[str, Any]) -> bytearray:
    """Write the global trees into a model of XGBoost's that has none; it is JSON."""
    count, num_features = int(arrays[NUM_TREES]), empty["learner"]["learner_model_param"]["num_feature"]
    model = json.loads(json.dumps(empty))
    booster = model["learner"]["gradient_booster"]["model"]
    booster["trees"] = [_tree(arrays, row, num_features) for row in range(count)]
    booster["tree_info"] = arrays["group"][:count].tolist()
    booster["gbtree_model_param"]["num_trees"] = str(count)
    booster["iteration_indptr"] = [0, count] if count else [0]
    return bytearray(json.dumps(model).encode())


def _tree(arrays: Mapping[str, Array], row: int, num_features: str) -> dict[str, Any]:
    feature, threshold, value, default_left = (
        arrays[name][row].tolist() for name in ("feature", "threshold", LEAF_VALUES, "default_left")
    )
    places, parents, lefts, rights = [0], [ROOT], [], []  # by XGBoost's numbers, in which no place is empty
    for node, place in enumerate(places):
        is_leaf = feature[place] < 0
        lefts.append(-1 if is_leaf else len(places))
        rights.append(-1 if is_leaf else len(places) + 1)
        if not is_leaf:
            places += [2 * place + 1, 2 * place + 2]
            parents += [node, node]
    zeros = [0] * len(places)
    return {
        "id": row,
        "left_children": lefts,
        "right_children": rights,
        "parents": parents,
        "split_indices": [max(feature[place], 0) for place in places],
        "split_conditions": [value[place] if feature[place] < 0 else threshold[place] for place in places],
        "default_left": [int(default_left[place]) for place in places],
        "split_type": zeros,
        **dict.fromkeys(("base_weights", "loss_changes", "sum_hessian"), [0.0] * len(places)),
        **{name: [] for name in ("categories", "categories_nodes", "categories_segments", "categories_sizes")},
        "tree_param": {
            "num_deleted": "0",
            "num_feature": num_features,
            "num_nodes": str(len(places)),
            "size_leaf_vector": "1",
        },
    }


def checked_trees(
    parameters: Iterable[Array], own: Mapping[str, Array], num_features: int, num_groups: int
) -> dict[str, Array]:
    """Name the arrays of a global model, and refuse what XGBoost could not walk through.

    Raises
    ------
    ConfigError
        If they are no trees of this size, or ask for features that are not there.
    """
    arrays = dict(zip(own, parameters, strict=True))
    count, new = int(arrays[NUM_TREES]), int(arrays[NUM_NEW])
    room = len(own["group"])
    if new != 0 or not 0 <= count <= room:
        allowed = f"0 to {room}, and none, as TreeBagging leaves them: aggregation_rule='TreeBagging'"
        raise ConfigError("num_trees and num_new of the global model", (count, new), allowed)
    features, groups = arrays["feature"][:count], arrays["group"][:count]
    inner = own["feature"].shape[1] // 2  # behind those, nodes have no room below them
    if (features >= num_features).any() or (features[:, inner:] >= 0).any():
        raise ConfigError("a tree's feature", int(features.max()), f"below {num_features}, and none at the last leaves")
    if ((groups < 0) | (groups >= num_groups)).any():
        raise ConfigError("a tree's group", int(groups.max()), f"0 to {num_groups - 1}")
    return arrays
