"""Workloads whose steps cost what is known: seconds that they sleep, bytes that they hold; and processes that fail."""

from __future__ import annotations

import os
import time
from signal import SIGKILL

import torch
import torch.distributed as dist
from torch import nn

from scaleexp.errors import ConfigError


class Known:
    """Sleeps and holds memory by the number of samples.

    Args:
        fixed_s, each_s: seconds of a pass, and of each sample in it.
        unaligned_s: seconds more for every sample where they are no power of two.
        each_mb: megabytes held for each sample.
        most: samples, more of which raise MemoryError.
        n_train: of the workload.
    """

    unit = "example"
    n_eval = 4
    data_sha256 = "0" * 64
    metrics = {"loss": "min"}  # noqa: RUF012
    couples_examples = False
    random = False

    def __init__(self, *, fixed_s=0.0, each_s=0.0, unaligned_s=0.0, each_mb=0.0, most=None, n_train=64, dtype=None):
        self.fixed_s, self.each_s, self.unaligned_s = fixed_s, each_s, unaligned_s
        self.each_mb, self.most, self.n_train = each_mb, most, n_train

    def model(self, init_seed):
        return nn.Linear(3, 1)

    def batch(self, data_seed, start, stop):
        return (torch.ones(stop - start, 3),)

    def loss(self, forward, batch, gather):
        n = len(batch[0])
        if self.most is not None and dist.is_initialized() and n > self.most:
            raise MemoryError(f"{n} samples")
        held = torch.ones(int(n * self.each_mb * 2.5e5))  # 4 bytes each
        seconds = self.fixed_s + self.each_s * n + (self.unaligned_s * n if n & (n - 1) else 0.0)
        time.sleep(seconds)
        return forward(batch[0]).mean() + 0.0 * held.sum()

    def eval_batch(self, start, stop):
        return (torch.ones(stop - start, 3),)

    def metric_sums(self, forward, batch):
        return {"loss": forward(batch[0]).double().sum()}


def one_fails(send, *, how):
    """Process 1 fails, while process 0 waits for it in an all-reduce."""
    if dist.get_rank() == 0:
        send("measured")
        dist.all_reduce(torch.zeros(1))
    elif how == "raises MemoryError":
        raise MemoryError("planted")
    elif how == "is killed":
        os.kill(os.getpid(), SIGKILL)
    elif how == "raises ConfigError":
        raise ConfigError("planted")
    elif how == "ends":
        os._exit(7)
    else:
        time.sleep(600)
        dist.all_reduce(torch.zeros(1))


def nothing_fits(send, **asked):
    """In the place of timed steps."""
    raise MemoryError("planted")
