"""The processes of a user's script: which one this is, and sums over all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """Who this process is among those of the script.

    Attributes:
        rank: its number; rank 0 writes.
        size: how many there are.
        together: whether they can be asked: `torch.distributed` is initialised.
    """

    rank: int
    size: int
    together: bool

    @classmethod
    def now(cls) -> Ranks:
        """As `torch.distributed` says once it is initialised, and before that the environment of a launcher.

        >>> Ranks.now().rank
        0
        """
        if dist.is_available() and dist.is_initialized():
            return cls(rank=dist.get_rank(), size=dist.get_world_size(), together=dist.get_world_size() > 1)
        return cls(rank=int(os.environ.get("RANK", 0)), size=int(os.environ.get("WORLD_SIZE", 1)), together=False)

    def summed(self, values: Sequence[torch.Tensor | float]) -> list[float]:
        """Each value summed over all processes, which call this with as many; own values where they cannot be asked."""
        device = _device() if self.together else "cpu"
        sums = torch.stack([_double(v).to(device) for v in values])
        if self.together:
            dist.all_reduce(sums)
        found: list[float] = sums.tolist()
        return found


def _device() -> torch.device:
    """Where the default process group reduces tensors: gloo in memory, NCCL on the process's GPU."""
    if "gloo" in str(dist.get_backend()):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _double(value: torch.Tensor | float) -> torch.Tensor:
    """In float64, shape ()."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().reshape(())
    return torch.tensor(value, dtype=torch.float64)
