"""Cutting a data set into parts for learners, and seeing who got what."""

from metisfl_async.data.partition import dirichlet_partition, iid_partition, label_partition, quantity_partition
from metisfl_async.data.plot import plot_partitions
from metisfl_async.data.report import PartitionReport, partition_report

__all__ = [
    "PartitionReport",
    "dirichlet_partition",
    "iid_partition",
    "label_partition",
    "partition_report",
    "plot_partitions",
    "quantity_partition",
]
