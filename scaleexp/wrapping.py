"""How a user's model reduces its gradients over processes, as it was wrapped."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scaleexp.errors import ConfigError
from scaleexp.ranks import Ranks

Kind = Literal["plain", "ddp", "fsdp"]


def kind_of(model: nn.Module, workers: int) -> tuple[Kind, str]:
    """How a model's gradients are reduced, and in a clause why they cannot be seen; empty where they can.

    Raises:
        ConfigError: the model is not wrapped and has several workers, or averages over another number of them.
    """
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    ranks = Ranks.now()
    if isinstance(model, FullyShardedDataParallel):
        return "plain", "FSDP1 keeps flat parts of parameters: use fully_shard (FSDP2)"
    if isinstance(model, FSDPModule):
        meshes = [getattr(p, "device_mesh", None) for p in model.parameters()]
        if any(mesh is None or mesh.ndim != 1 or mesh.size() != ranks.size for mesh in meshes):
            return "fsdp", "parameters are not sharded over all processes by one mesh of one dimension"
        return "fsdp", ""
    if isinstance(model, DistributedDataParallel):
        size = model.process_group.size()
        if size != workers:
            raise ConfigError(
                f"DistributedDataParallel averages over {size} processes and workers is {workers}: state the workers "
                "that there are."
            )
        return "ddp", "" if size == ranks.size else "the processes of the model are not all of the script's"
    if ranks.size > 1 and workers > 1:
        raise ConfigError(
            "run.watch(model) was given a model that is not wrapped, in a script of "
            f"{ranks.size} processes: call it after DistributedDataParallel(model) or fully_shard(model), with the "
            "wrapped model."
        )
    return "plain", "" if workers == 1 else f"{workers} workers are stated and there is one process"


def sharded(model: nn.Module) -> bool:
    """Whether a process holds a part of the parameters only, of the model or of a module in it.

    >>> sharded(nn.Linear(2, 1))
    False
    """
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    return any(isinstance(module, FSDPModule | FullyShardedDataParallel) for module in model.modules())
