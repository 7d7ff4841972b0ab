"""FedProx for those who write `train` with PyTorch themselves, and tensors to arrays and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from metisfl_async.core.model import Array
from metisfl_async.learner.adapters.options import checked_mu

if TYPE_CHECKING:
    import torch

__all__ = ["array_of", "tensor_of", "torch_proximal_term"]


def torch_proximal_term(model: torch.nn.Module, mu: float) -> Callable[[], torch.Tensor | float]:
    """Make FedProx's term for a module's loss: ``mu/2 * ||w - w_now||**2``.

    ``w`` are the parameters that are trained, ``w_now`` their values when this is called, so set the global weights
    first. Add the term in every step: ``(loss(model(x), y) + term()).backward()``.

    Needs PyTorch: ``pip install "metisfl-async[torch]"``.

    Parameters
    ----------
    model : torch.nn.Module
    mu : float
        How strongly the weights are held; 0 leaves them free.

    Raises
    ------
    ConfigError
        If `mu` is not a finite number >= 0.

    References
    ----------
    Li et al., "Federated Optimization in Heterogeneous Networks", arXiv:1812.06127.
    """
    mu = checked_mu(mu)
    if mu == 0:
        return float
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    anchors = [weight.detach().clone() for weight in weights]

    def term() -> torch.Tensor | float:
        distances = ((weight - anchor).square().sum() for weight, anchor in zip(weights, anchors, strict=True))
        return mu / 2 * sum(distances)

    return term


def array_of(tensor: torch.Tensor) -> Array:
    import torch

    tensor = tensor.detach().cpu().clone()  # a copy, whatever device it was on
    if tensor.dtype == torch.bfloat16:  # NumPy itself has none
        bits: Array = tensor.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = tensor.numpy()
    return array


def tensor_of(array: Array) -> torch.Tensor:
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return tensor_of(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(np.require(array, requirements="W"))  # what cannot be written is copied
