"""Where a tracked model began: how far its parameters have come from there, at every evaluation."""

from __future__ import annotations

from torch import nn

from scaleexp.engines.distance import distances
from scaleexp.wrapping import sharded


class Origin:
    """The initial values of the parameters that a model trains, in memory of the host: one copy of them.

    Args:
        model: as it is trained, before its first step.
    """

    def __init__(self, model: nn.Module) -> None:
        self._now = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._begun = {name: p.detach().to("cpu", copy=True) for name, p in self._now.items()}

    def distance(self) -> float:
        """||theta - theta_0||, as `scaleexp.engines.distance` has it; the parameters stay where they are.

        >>> import torch
        >>> layer = nn.Linear(2, 1)
        >>> origin = Origin(layer)
        >>> with torch.no_grad():
        ...     _ = layer.weight.add_(torch.tensor([[3.0, 4.0]]))
        >>> round(origin.distance(), 6)
        5.0
        """
        theta = {name: p.detach().unsqueeze(0) for name, p in self._now.items()}
        return float(distances(theta, [self._begun]))


def why_resumed(step: int) -> str:
    """The same of a model that has learnt already, in a clause."""
    return f"the script goes on from step {step}, and its model with what it had learnt by then"


def why_unknown(model: nn.Module, begun_at: int) -> str:
    """Why a model's distance from its initialisation cannot be measured, in a clause; empty where it can.

    Args:
        model: as it is trained.
        begun_at: step that the script goes on from; 0 where it begins.
    """
    if begun_at:
        return why_resumed(begun_at)
    if sharded(model):
        return "under FSDP each process holds a part of the parameters, and rank 0 may evaluate alone"
    return ""
