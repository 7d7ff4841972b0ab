"""FedProx for those who write `train` with PyTorch themselves; tensors to arrays and back; a module's optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from metisfl_async.core.errors import ConfigError
from metisfl_async.core.model import DTYPES, Array
from metisfl_async.learner.adapters.federated import not_carried
from metisfl_async.learner.adapters.options import checked_mu

if TYPE_CHECKING:
    import torch

    Factory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]

__all__ = [
    "array_of",
    "check_carried",
    "checked_device",
    "checked_factory",
    "made_optimizer",
    "seed_torch",
    "tensor_of",
    "torch_proximal_term",
    "trained_names",
]

FACTORY = "a function from parameters to an optimizer, such as functools.partial(torch.optim.SGD, lr=0.1)"


def torch_proximal_term(model: torch.nn.Module, mu: float) -> Callable[[], torch.Tensor | float]:
    """Make FedProx's term for a module's loss: ``mu/2 * ||w - w_now||**2``.

    ``w`` are the parameters that are trained, ``w_now`` their values when this is called, so set the global weights
    first. Add the term in every step: ``(loss(model(x), y) + term()).backward()``.

    Needs PyTorch: ``pip install torch``.

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


def checked_factory(optimizer: Factory) -> Factory:
    """Refuse an optimizer: it belongs to one model, and a learner makes its own."""
    import torch

    if isinstance(optimizer, torch.optim.Optimizer) or not callable(optimizer):
        raise ConfigError("optimizer", type(optimizer).__name__, FACTORY)
    return optimizer


def made_optimizer(factory: Factory, model: torch.nn.Module) -> torch.optim.Optimizer:
    import torch

    optimizer = factory(model.parameters())
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError("optimizer", f"a function that gives a {type(optimizer).__name__}", FACTORY)
    return optimizer


def trained_names(model: torch.nn.Module) -> set[str]:
    """Name the tensors of a module's state that a gradient steps."""
    import torch

    state = model.state_dict(keep_vars=True)
    return {name for name, value in state.items() if isinstance(value, torch.Tensor) and value.requires_grad}


def seed_torch(rng: np.random.Generator) -> None:
    """Seed PyTorch's own generator, with which dropout draws."""
    import torch

    torch.manual_seed(int(rng.integers(2**63)))


def check_carried(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Refuse tensors that have no form on the wire, before anything is trained."""
    import torch

    state = model.state_dict()
    for name in names:
        value = state[name]
        if not isinstance(value, torch.Tensor):
            what = f"a {type(value).__name__}"
        elif value.is_quantized or value.layout != torch.strided:
            what = f"{'quantised' if value.is_quantized else 'sparse'} {value.dtype}"
        elif str(value.dtype).removeprefix("torch.") not in DTYPES:
            what = str(value.dtype)
        else:
            continue
        raise ConfigError(f"tensor {name!r}", what, not_carried(name))


def checked_device(device: object) -> torch.device | None:
    import torch

    try:
        return None if device is None else torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError("device", device, f"a device of PyTorch's, such as 'cuda:0' ({error})") from error
