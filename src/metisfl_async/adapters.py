"""Learners around the models of frameworks, and what a learner of your own may take from them."""

from metisfl_async.driver.weights import load_into
from metisfl_async.learner.adapters.budget import BatchBudget
from metisfl_async.learner.adapters.jax_learner import JaxLearner
from metisfl_async.learner.adapters.keras_learner import KerasLearner
from metisfl_async.learner.adapters.keras_parts import keras_budget_callback, keras_proximal_term
from metisfl_async.learner.adapters.sklearn_learner import SklearnLearner
from metisfl_async.learner.adapters.torch_learner import TorchLearner
from metisfl_async.learner.adapters.torch_parts import torch_proximal_term
from metisfl_async.learner.adapters.xgboost_learner import XGBoostLearner

__all__ = [
    "BatchBudget",
    "JaxLearner",
    "KerasLearner",
    "SklearnLearner",
    "TorchLearner",
    "XGBoostLearner",
    "keras_budget_callback",
    "keras_proximal_term",
    "load_into",
    "torch_proximal_term",
]
