"""FedProx on a linear model in NumPy, as the formula is written; what Keras and PyTorch are held against."""

from __future__ import annotations

import numpy as np

from metisfl_async.core.model import Array

_rng = np.random.default_rng(7)
X, Y = _rng.normal(size=(12, 3)).astype(np.float32), _rng.normal(size=(12, 1)).astype(np.float32)
W, B = _rng.normal(size=(3, 1)).astype(np.float32), np.array([0.5], np.float32)
RATE, MU = 0.1, 0.7


def descend(steps: int, mu: float, batch_size: int = 12) -> tuple[Array, Array]:
    """Descend ``mean((x w + b - y)**2) + mu/2 * ||(w, b) - (W, B)||**2`` by its gradient, from (W, B)."""
    w, b = W.astype(np.float64), B.astype(np.float64)
    for step in range(steps):
        rows = slice(step * batch_size % len(X), step * batch_size % len(X) + batch_size)
        x, error = X[rows], X[rows] @ w + b - Y[rows]
        grad_w, grad_b = 2 * x.T @ error / len(x), 2 * error.mean(axis=0)
        w, b = w - RATE * (grad_w + mu * (w - W)), b - RATE * (grad_b + mu * (b - B))
    return w, b
