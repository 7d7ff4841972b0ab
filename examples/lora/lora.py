"""Adapters of low rank around a model's linear layers, and copies of a model that share its frozen weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch.nn.functional import linear


class LowRank(torch.nn.Module):  # type: ignore[misc]
    """A frozen linear layer, and beside it ``B @ A`` of some rank, which is trained. B begins with zeros.

    Parameters
    ----------
    layer : torch.nn.Linear
    rank : int
        Of the adapter; the same for all learners, since it is the shape of what travels.
    own_rank : int, optional
        How much of the rank this learner trains: the first rows of A and columns of B. The others stay as they came.
    trains_a : bool
        False freezes A as it was drawn, the same for all learners (FFA-LoRA, arXiv:2403.12313).
    """

    def __init__(
        self, layer: torch.nn.Linear, rank: int, own_rank: int | None = None, *, trains_a: bool = True
    ) -> None:
        super().__init__()
        self.layer, self.own_rank = layer, rank if own_rank is None else own_rank
        self.lora_A = torch.nn.Parameter(torch.empty(rank, layer.in_features), requires_grad=trains_a)
        self.lora_B = torch.nn.Parameter(torch.zeros(layer.out_features, rank))
        torch.nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.own_rank
        a = torch.cat([self.lora_A[:own], self.lora_A[own:].detach()])
        b = torch.cat([self.lora_B[:, :own], self.lora_B[:, own:].detach()], dim=1)
        added: torch.Tensor = self.layer(x) + linear(linear(x, a), b)
        return added


def add_lora(
    model: torch.nn.Module, names: Sequence[str], rank: int, own_rank: int | None = None, *, trains_a: bool = True
) -> torch.nn.Module:
    """Freeze a model, and put an adapter around each linear layer of these last names."""
    model.requires_grad_(False)
    found = [path for path, module in model.named_modules() if path.rpartition(".")[2] in names]
    for path in found:
        parent, _, name = path.rpartition(".")
        layer = model.get_submodule(path)
        assert isinstance(layer, torch.nn.Linear)
        setattr(model.get_submodule(parent), name, LowRank(layer, rank, own_rank, trains_a=trains_a))
    return model


def sharing_copy(model: torch.nn.Module) -> torch.nn.Module:
    """Copy a model, all but its frozen weights: those are in memory once, however many learners there are."""
    shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, memo=dict(shared))
