"""Tests of federations in virtual time, with faults; docs/testing.md shows how."""

from metisfl_async.testing.fake import FakeLearner
from metisfl_async.testing.faults import Line
from metisfl_async.testing.federation import Federation
from metisfl_async.testing.loop import Deadlock, VirtualLoop, run

__all__ = ["Deadlock", "FakeLearner", "Federation", "Line", "VirtualLoop", "run"]
