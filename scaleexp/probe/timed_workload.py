"""A workload that notes when its loss is computed and when gradients are ready: forward and backward of real steps."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from scaleexp.workloads.base import Batch, Forward, Gather, Workload

Mark = float | torch.cuda.Event


class TimedWorkload:
    """Passes everything on to a workload; on a GPU times are taken by its own clock, so that nothing waits for them.

    Args:
        workload: of the study.
        device: where it is computed.
    """

    def __init__(self, workload: Workload, device: torch.device) -> None:
        self._workload, self._gpu = workload, device.type == "cuda"
        self._passes: list[list[Mark]] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # whatever the workload has
        return getattr(self._workload, name)

    def model(self, init_seed: int) -> nn.Module:
        """The workload's, whose gradients are noted as they get ready."""
        model = self._workload.model(init_seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._gradient)
        return model

    def loss(self, forward: Forward, batch: Batch, gather: Gather) -> Tensor:
        """The workload's."""
        begin = self._mark()
        value = self._workload.loss(forward, batch, gather)
        end = self._mark()
        self._passes.append([begin, end, end])
        return value

    def _gradient(self, parameter: Tensor) -> None:
        if self._passes:
            self._passes[-1][2] = self._mark()

    def taken(self) -> tuple[float, float]:
        """(Forward, backward) seconds since the last call, of work that has ended; backward to the last gradient."""
        passes, self._passes = self._passes, []
        forward = sum(_between(begin, end) for begin, end, _ in passes)
        return forward, sum(_between(end, last) for _, end, last in passes)

    def _mark(self) -> Mark:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(begin: Mark, end: Mark) -> float:
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float)
        assert isinstance(end, float)
        return end - begin
    return float(begin.elapsed_time(end)) / 1e3
