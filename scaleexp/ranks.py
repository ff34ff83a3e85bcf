"""The processes of a user's script: which one this is, and sums over all of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from scaleexp.errors import ConfigError

ARRIVE_S = 300.0
"""Rank 0 waits so long for the others where it makes a call that every process has to make [seconds]."""
_calls = Counter[str]()
"""How often this process has made each: the group's store keeps what an earlier run of the same script put there."""


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

    @property
    def nodes(self) -> int | None:
        """Machines that they are on, if each has as many, by what torchrun and Ray Train say; None if nobody does."""
        local = os.environ.get("LOCAL_WORLD_SIZE", "")
        return -(-self.size // int(local)) if local.isdecimal() and int(local) else None

    def expect_all(self, call: str, step: int) -> None:
        """Refuse, on rank 0, a call that every process has to make and others do not.

        It asks the store by which the processes found each other: a sum over all of them would never end where one
        does not come, or would meet another sum of it.

        Args:
            call: its name.
            step: after which it comes.

        Raises:
            ConfigError: not all came in time.
        """
        if not self.together:
            return
        store = dist.distributed_c10d._get_default_store()
        _calls[call] += 1
        keys = [f"scaleexp/{call}/{_calls[call]}/{rank}" for rank in range(self.size)]
        if self.rank:
            store.set(keys[self.rank], "here")
            return
        try:
            store.wait(keys[1:], timedelta(seconds=ARRIVE_S))
        except RuntimeError as error:
            missing = sum(not store.check([key]) for key in keys[1:])
            if not missing:
                return  # the last one has just come
            raise ConfigError(
                f"{call} came after step {step} on rank 0 and, {ARRIVE_S:g} s later, not on {missing} of {self.size} "
                "processes: call it on every process, outside of `if rank == 0:`."
            ) from error

    def summed(self, values: Sequence[torch.Tensor | float]) -> list[float]:
        """Each value summed over all processes, which call this with as many; own values where they cannot be asked."""
        if not self.together and not any(isinstance(v, torch.Tensor) for v in values):
            return [float(v) for v in values]  # nothing to wait for, and no tensor worth making
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
