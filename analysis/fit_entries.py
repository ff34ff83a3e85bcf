"""Parts of one entry of `fits`, as JSON has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from analysis.cbs import CurveFit
from analysis.jsonable import json_interval, json_safe
from analysis.overhead import Overhead, sensitivity_of
from analysis.sweep import Sweep
from analysis.targets import BatchPoint


def overhead_entry(found: Overhead | None, fit: CurveFit | None, points: Sequence[BatchPoint]) -> dict[str, Any] | None:
    """`overhead`; None without a curve."""
    if found is None or fit is None:
        return None
    values = {f.name: getattr(found, f.name) for f in fields(found)}
    cells = [cell.to_dict() for cell in sensitivity_of(found, fit, points)]
    return {**json_safe(values), "interval": json_interval(found.interval), "sensitivity": cells}


def point_entry(point: BatchPoint, sweep: Sweep) -> dict[str, Any]:
    """One of `points`; null for what the sweep's source does not know."""
    counted = sweep.counts_samples
    curve = [dict(zip(("lr", "steps", "n_reached", "n_runs"), row, strict=True)) for row in point.lr_curve]
    return {
        "batch_size": point.batch_size,
        "workers": point.workers if sweep.is_study else None,
        "steps": point.steps if counted else None,
        "samples": point.samples if counted else None,
        "cost": point.samples,
        "lr": point.lr or None,
        "lr_optimum": point.lr_optimum,
        "lr_edge": point.lr_edge,
        "n_runs": len(point.runs),
        "n_censored": sum(not run.reached for run in point.runs),
        "lr_curve": curve if sweep.knows_lr and counted else [],
    }
