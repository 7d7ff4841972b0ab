"""What a PyTorch learner remembers from task to task, as bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["restore_torch", "state_of_torch"]


def state_of_torch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    federated: Collection[str],
    rng: np.random.Generator | None,
) -> bytes:
    """Pack what is not the federation's, but for frozen parameters; the optimizer's state; and that of a generator."""
    import torch

    own = {
        name: value.detach()
        for name, value in model.state_dict(keep_vars=True).items()
        if name not in federated
        and isinstance(value, torch.Tensor)
        and (value.requires_grad or not isinstance(value, torch.nn.Parameter))
    }
    drawn = None if rng is None else json.dumps(rng.bit_generator.state)
    packed = io.BytesIO()
    torch.save({"own": own, "optimizer": optimizer.state_dict(), "drawn": drawn}, packed)
    return packed.getvalue()


def restore_torch(
    state: bytes, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rng: np.random.Generator | None
) -> None:
    """Take up what was packed; nothing in it is run as code."""
    import torch

    found = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
    model.load_state_dict(found["own"], strict=False)
    optimizer.load_state_dict(found["optimizer"])
    if rng is not None and found["drawn"] is not None:
        rng.bit_generator.state = json.loads(found["drawn"])
