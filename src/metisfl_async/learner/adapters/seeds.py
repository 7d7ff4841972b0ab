"""Global random generators, seeded for as long as a model is made, and then as they were."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["keras_seeded", "torch_seeded"]

# There is one of each generator in a process, and learners are many: one model is made at a time.
_TURN = threading.Lock()


@contextmanager
def torch_seeded(seed: int | None) -> Iterator[None]:
    """Seed PyTorch's own generator, with which layers draw their first weights; without a seed, leave it."""
    if seed is None:
        yield
        return
    import torch

    with _TURN, torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def keras_seeded(seed: int | None) -> Iterator[None]:
    """Seed Python's generator, from which Keras takes the seeds of initializers and of dropout."""
    if seed is None:
        yield
        return
    with _TURN:
        before = random.getstate()
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before)
