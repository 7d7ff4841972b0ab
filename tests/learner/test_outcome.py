"""What a learner's methods return, on its way to the controller."""

from __future__ import annotations

import numpy as np
import pytest

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import Model
from metisfl_async.learner.outcome import packed_result


def test_an_update_has_the_names_of_the_model_it_was_trained_from() -> None:
    trained_from = Model.from_arrays([np.zeros(2), np.zeros(())], ["weights", "bias"]).manifest
    outcome = packed_result(([np.ones(2), np.ones(())], {}), trained_from, 1)
    assert outcome.model.manifest == trained_from


def test_too_many_arrays_are_counted_not_named() -> None:
    trained_from = Model.from_arrays([np.zeros(2)], ["weights"]).manifest
    with pytest.raises(ConfigError, match="2 tensors instead of 1"):
        packed_result(([np.ones(2), np.ones(2)], {}), trained_from, 1)
