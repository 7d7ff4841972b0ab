"""What a learner says of itself."""

from __future__ import annotations

from federations import Adds


def test_a_learner_is_printed_with_its_examples() -> None:
    learner = Adds(3)
    assert repr(learner) == "<Adds: 3 training examples>"
    learner.num_training_examples = None
    assert repr(learner) == "<Adds>"
