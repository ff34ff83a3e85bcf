"""Workloads of somebody else's, named in a study as "tests.plugin_workloads:Class"."""

from __future__ import annotations

from scaleexp.workloads.quadratic import Quadratic


class Broken(Quadratic):
    """Raises as soon as it is trained."""

    def loss(self, forward, batch, gather):
        raise RuntimeError("the data went missing")


class Dying(Quadratic):
    """Kills its process as soon as it is trained."""

    def loss(self, forward, batch, gather):
        import os

        os._exit(9)


class NoMetrics:
    """Not a workload."""

    def __init__(self, *, dtype):
        self.dtype = dtype


def with_batch_norm(hidden, *, shape, classes):
    from torch import nn

    return nn.Sequential(nn.Linear(*shape, 8), nn.BatchNorm1d(8), nn.Linear(8, classes))
