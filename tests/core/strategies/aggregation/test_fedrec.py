from __future__ import annotations

import numpy as np
import pytest
from rules import A, B, C, Kept, fold, of, started

from metisfl_async.core.ids import LearnerId
from metisfl_async.core.model import DTYPES, Model
from metisfl_async.core.strategies.aggregation.fedrec import FedRec
from metisfl_async.core.strategies.aggregation.rule import Update


def test_the_only_learner_s_latest_update_is_the_model() -> None:
    kept = Kept(FedRec(), of(0.0))
    assert kept.commit(A, of(3.0), 0.25).arrays()[0] == 3.0  # W / z from the first commit, not W
    assert kept.commit(A, of(7.0), 0.25).arrays()[0] == 7.0


def test_first_updates_make_a_weighted_mean() -> None:
    kept = Kept(FedRec(), of(0.0))
    v = 5.0
    assert kept.commit(A, of(v), 1.0).arrays()[0] == v
    assert kept.commit(B, of(v), 2.0).arrays()[0] == v
    assert kept.commit(C, of(0.0), 3.0).arrays()[0] == v / 2


def test_a_later_update_takes_the_place_of_the_one_before() -> None:
    kept = Kept(FedRec(), of(0.0))
    v = 8.0
    for learner, weight in ((A, 1.0), (B, 2.0), (C, 3.0)):
        kept.commit(learner, of(v), weight)
    kept.commit(A, of(0.5 * v), 1.0)
    model = kept.commit(B, of(0.5 * v), 2.0)
    assert model.arrays()[0] == 0.75 * v
    assert (model.version, model.manifest) == (5, of(0.0).manifest)


def test_it_is_the_committing_learner_s_update_that_is_replaced_with_the_weight_that_it_had() -> None:
    kept = Kept(FedRec(), of(0.0))
    kept.commit(A, of(1.0), 1.0)
    kept.commit(B, of(10.0), 1.0)
    assert kept.commit(B, of(4.0), 3.0).arrays()[0] == (1.0 * 1 + 4.0 * 3) / 4


def test_a_learner_that_leaves_takes_its_share_along() -> None:
    kept = Kept(FedRec(), of(0.0))
    kept.commit(A, of(1.0), 1.0)
    kept.commit(B, of(10.0), 5.0)
    kept.leave(B)
    assert kept.rule.aggregate(9).arrays()[0] == 1.0
    assert kept.commit(B, of(3.0), 1.0).arrays()[0] == 2.0
    kept.leave(A)
    kept.leave(B)
    assert kept.commit(C, of(0.1), 7.0).arrays()[0] == np.float32(0.1)


def test_when_all_have_left_the_model_stays_as_it_is() -> None:
    kept = Kept(FedRec(), of(4.0))
    kept.commit(A, of(1.0), 1.0)
    kept.leave(A)
    model = kept.rule.aggregate(2)
    assert model.version == 2
    assert model.arrays()[0] == 1.0


def test_updates_from_before_this_federation_are_not_subtracted() -> None:
    rule = started(FedRec(), of(0.0))
    rule.fold(Update(A, of(2.0), 1.0, 0, previous=Update(A, of(50.0), 9.0)))
    assert rule.aggregate(1).arrays()[0] == 2.0
    rule.remove(Update(B, of(50.0), 9.0))
    assert rule.aggregate(2).arrays()[0] == 2.0


def test_what_was_folded_in_a_round_without_quorum_stays_its_learners_latest() -> None:
    rule = started(FedRec(), of(0.0))
    fold(rule, of(2.0), 1.0)
    rule.discard()
    assert rule.aggregate(1).arrays()[0] == 2.0


@pytest.mark.slow
def test_after_ten_thousand_commits_it_equals_the_mean_computed_afresh() -> None:
    random = np.random.default_rng(5)
    learners = [LearnerId(f"site-{number}") for number in range(8)]
    kept = Kept(FedRec(), Model.from_arrays([np.zeros(33, np.float32)]))
    latest = of(0.0)
    for _ in range(10_000):
        learner = learners[random.integers(len(learners))]
        if len(kept.latest) > 1 and random.random() < 0.05:
            kept.leave(sorted(kept.latest)[random.integers(len(kept.latest))])
        values = (random.standard_normal(33) * 10 ** random.uniform(-3, 3)).astype(np.float32)
        latest = kept.commit(learner, Model.from_arrays([values]), float(random.uniform(0.1, 1e4)))
    weights = [update.weight for update in kept.latest.values()]
    stacked = np.stack([update.model.arrays()[0].astype(np.float64) for update in kept.latest.values()])
    np.testing.assert_allclose(latest.arrays()[0], np.average(stacked, axis=0, weights=weights), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("wild", [1e20, -3e38])
def test_a_wild_update_that_goes_again_takes_nothing_of_the_others_with_it(wild: float) -> None:
    kept = Kept(FedRec(), of(0.0))
    kept.commit(A, of(0.1), 3.0)
    kept.commit(B, of(wild), 1e6)
    kept.commit(B, of(0.3), 1.0)
    assert kept.commit(B, of(0.3), 1.0).arrays()[0] == np.float32((0.1 * 3 + 0.3) / 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_can_be_replaced(dtype: str) -> None:
    def model(value: float) -> Model:
        return Model.from_arrays([np.full((2, 3), value).astype(DTYPES[dtype]), np.array([], DTYPES[dtype])])

    kept = Kept(FedRec(), model(0))
    kept.commit(A, model(1), 2.0)
    kept.commit(B, model(0), 1.0)
    values = kept.commit(B, model(1), 4.0).arrays()[0]
    assert values.dtype == DTYPES[dtype]
    assert (values == np.ones((2, 3)).astype(DTYPES[dtype])).all()
