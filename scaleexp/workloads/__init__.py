"""Built-in workloads and how a study's workload is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scaleexp.errors import ConfigError
from scaleexp.plugins import checked_options, resolve

if TYPE_CHECKING:
    from torch.nn import Module

    from scaleexp.workloads.base import Workload

BUILT_IN: Mapping[str, str] = {
    "classifier": "scaleexp.workloads.classifier:Classifier",
    "quadratic": "scaleexp.workloads.quadratic:Quadratic",
}
"""Name -> "module:Class"; resolved on use, so that listing them imports no torch."""


def make_workload(name: str, options: Mapping[str, Any], *, dtype: str = "float32") -> Workload:
    """The workload of a study.

    Args:
        name: built-in name or "module:Class".
        options: keyword arguments of the class.
        dtype: float32 or float64.

    Raises:
        ConfigError: an unknown name, or options that the class does not take.
    """
    import torch

    factory = _factory(name)
    workload = factory(**checked_options(f"workload {name!r}", factory, options), dtype=getattr(torch, dtype))
    _check_members(name, workload)
    _check_model(name, workload)
    return workload


def _check_members(name: str, workload: object) -> None:
    """Refuse a class that is not a workload, before it fails somewhere inside a worker."""
    from scaleexp.schema import DISTANCE
    from scaleexp.workloads.base import Workload

    members = [*Workload.__annotations__, "model", "batch", "loss", "eval_batch", "metric_sums"]
    missing = [m for m in members if not hasattr(workload, m)]
    if missing:
        raise ConfigError(f"The workload {name!r} lacks {', '.join(missing)}: see scaleexp.workloads.base.Workload.")
    if DISTANCE in workload.metrics:  # type: ignore[attr-defined]  # it was looked for above
        raise ConfigError(f"The workload {name!r} reports a metric {DISTANCE!r}, which every run logs: rename it.")


def _check_model(name: str, workload: Workload) -> None:
    """Refuse models whose W virtual workers are not exactly one: draws that no counter can repeat."""
    from scaleexp.exact_layers import unsupported

    found: list[str] = []
    try:
        model = workload.model(0)
        found = unsupported(model)
        draws = bool(found) or workload.random or _draws(workload, model)
    except ConfigError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"The workload {name!r} fails on its first two samples: {told}.") from error
    if draws:
        why = f"its model has {', '.join(found)}" if found else "two passes over the same samples differ"
        raise ConfigError(
            f"The workload {name!r} cannot be run: {why}, and random numbers that depend on what was drawn before are "
            "not the same on another number of workers: use nn.Dropout layers, or draw in `batch` by sample index."
        )


def _draws(workload: Workload, model: Module) -> bool:
    """Whether two passes over the same two samples differ."""
    import torch

    from scaleexp.exact_layers import make_exact

    exact = make_exact(model, statistics_group=2)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batch = workload.batch(0, 0, 2)
    losses = []
    for _ in range(2):
        with torch.no_grad(), exact.passing(0, 0, 2):
            losses.append(workload.loss(model, batch, lambda rows: rows).item())
    moved = [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]
    if moved:
        raise ConfigError(
            f"The model's forward pass changes its buffer {moved[0]!r}, which W workers would do W times: keep what "
            "changes in parameters, or in batch norm's own running statistics."
        )
    return losses[0] != losses[1]


def _factory(name: str) -> Callable[..., Workload]:
    """The class that a workload's name stands for."""
    built_in: Mapping[str, Any] = BUILT_IN
    found = resolve(BUILT_IN.get(name, name), built_in, kind="workload")
    if not callable(found):
        raise ConfigError(f"workload {name!r} is {type(found).__name__}, not a class: name one as 'module:Class'")
    return found  # type: ignore[no-any-return]  # a plug-in's class: its Protocol is checked by use
