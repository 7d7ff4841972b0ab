"""Trackers: give them to ``session.run(watch=[...])``, and what happens is where you look for it anyway.

One that fails, or whose server is away, is logged; the federation goes on.
"""

from metisfl_async.tracking.files import CSV, JSONLines
from metisfl_async.tracking.mlflow import MLflow
from metisfl_async.tracking.opentelemetry import OpenTelemetry
from metisfl_async.tracking.prometheus import Prometheus
from metisfl_async.tracking.tensorboard import TensorBoard
from metisfl_async.tracking.tracker import RoundTracker, Tracker
from metisfl_async.tracking.wandb import WandB

__all__ = [
    "CSV",
    "JSONLines",
    "MLflow",
    "OpenTelemetry",
    "Prometheus",
    "RoundTracker",
    "TensorBoard",
    "Tracker",
    "WandB",
]
