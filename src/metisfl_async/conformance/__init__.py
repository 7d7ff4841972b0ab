"""Drives somebody's own learner, in any language, through what happens to learners, and says what it does wrong."""

from metisfl_async.conformance.cases import CASES, Case
from metisfl_async.conformance.check import Verdict, check_learner

__all__ = ["CASES", "Case", "Verdict", "check_learner"]
