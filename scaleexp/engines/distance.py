"""How far trials have come from where they began: the distance of their parameters from the initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def distances(params: Mapping[str, Tensor], begun: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """||theta - theta_0||, the Euclidean norm over all trained parameters, of K trials; shape (K,), float64.

    How it grows with the batch size tells large batches that train too little from those that end elsewhere (Hoffer et
    al. 2017, arXiv:1705.08741). Each trial is reduced by itself: its bits do not depend on the others of its pack.

    Args:
        params: theta by name, shape (K, ...) each.
        begun: theta_0 of each trial by the same names, wherever it is held; trials that began alike may share one.

    >>> theta, origin = {"w": torch.tensor([[3.0, 1.0], [0.0, 1.0]])}, {"w": torch.tensor([0.0, 1.0])}
    >>> distances(theta, [origin, origin]).tolist()
    [3.0, 0.0]
    """
    total = torch.zeros(len(begun), dtype=torch.float64, device=next(iter(params.values())).device)
    for name, now in params.items():
        origins = {id(own): own[name] for own in begun}  # one copy to the device for all trials that share it
        here = {key: origin.to(now.device) for key, origin in origins.items()}
        moved = [row - here[id(own)] for row, own in zip(now.unbind(), begun, strict=True)]
        total += torch.stack(list(torch._foreach_norm(moved, 2, torch.float64))).square()
    return total.sqrt()
