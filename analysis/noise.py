"""Gradient noise scale over training, and at the target, beside the swept critical batch size (never equated)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from analysis import read
from analysis.defaults import CONFIDENCE
from analysis.noise_ratio import Measurements, NoiseScale, noise_scale
from analysis.plain_arrays import plain
from analysis.read import StudyLog, TrialLog
from analysis.targets import BatchPoint
from scaleexp.laws import noise_estimates

__all__ = ["NoiseScale", "NoiseSeries", "measurements", "noise_at_target", "noise_by_layer", "noise_series"]

WINDOW = 1.0 / 3.0
"""Share of the samples before the crossing that counts as near the target."""
BATCH_NORM = "It is biased: batch norm takes its statistics per group, so a sample's gradient depends on its group."

_NORMS = ["samples", "batch_size", "grad_sq_small", "grad_sq_big", "shards"]
Norms = tuple[npt.NDArray[Any], ...]
"""These columns, each of shape (measurements,)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseSeries:
    """Noise scale of one batch size (at its best LR, all seeds) in windows of log-spaced samples seen.

    Attributes:
        batch_size, lr: which runs.
        windows: one NoiseScale per window, in order.
    """

    batch_size: int
    lr: float
    windows: tuple[NoiseScale, ...]


def measurements(log: StudyLog, keys: Collection[str]) -> dict[str, Measurements]:
    """Every step at which norms were measured, by trial key; runs without any are absent."""
    rows: dict[str, list[Norms]] = {}
    for key, norms in read.of_segments(log, "steps", _NORMS, keys, lambda trial, rows: (trial.key, _norms_of(rows))):
        rows.setdefault(key, []).append(norms)
    data_size = _data_sizes(log)
    found = {key: _measured(norms, data_size[key]) for key, norms in rows.items()}
    return {key: m for key, m in found.items() if m.samples.size}


def noise_at_target(
    log: StudyLog,
    points: Sequence[BatchPoint],
    *,
    confidence: float = CONFIDENCE,
    measured: Mapping[str, Measurements] | None = None,
) -> NoiseScale | None:
    """Noise scale near the target: the last third of the samples before each crossing, runs at the best LR.

    None when these runs measured no gradient norms. `measured` has the measurements where they were read already.
    """
    crossing = _crossings(points)
    measured = _of_runs(log, crossing, measured)
    if not measured:
        return None
    near = [_near(m, crossing[key]) for key, m in measured.items()]
    scale = noise_scale(near, confidence=confidence)
    return _with_bias(scale) if _is_biased(log, measured) else scale


def noise_by_layer(
    log: StudyLog, points: Sequence[BatchPoint], *, confidence: float = CONFIDENCE
) -> dict[str, NoiseScale]:
    """`noise_at_target` of each trained parameter by itself, by its name; empty when none was measured by itself.

    |G|^2 and tr(Sigma) are sums over parameters, B_simple is not.
    """
    crossing = _crossings(points)
    parts: dict[str, dict[str, list[Norms]]] = {}  # of each layer, of each run
    for key, layers in read.of_segments(log, "layers", [*_NORMS, "layer"], crossing, _norms_by_layer):
        for layer, norms in layers.items():
            parts.setdefault(layer, {}).setdefault(key, []).append(norms)
    data_size = _data_sizes(log)
    runs = {
        layer: {key: _near(_measured(norms, data_size[key]), crossing[key]) for key, norms in of_layer.items()}
        for layer, of_layer in parts.items()
    }
    scales = {layer: noise_scale(list(near.values()), confidence=confidence) for layer, near in runs.items()}
    return {layer: _with_bias(scale) if _is_biased(log, runs[layer]) else scale for layer, scale in scales.items()}


def noise_series(
    log: StudyLog,
    points: Sequence[BatchPoint],
    *,
    windows: int = 8,
    confidence: float = CONFIDENCE,
    measured: Mapping[str, Measurements] | None = None,
) -> tuple[NoiseSeries, ...]:
    """Noise scale of each batch size over training: windows of equal width in log samples, runs at the best LR.

    Windows without a measurement are absent, and so are batch sizes without any. `measured` has the measurements where
    they were read already.
    """
    series = []
    for point in points:
        of_point = _of_runs(log, {run.key for run in point.runs}, measured)
        runs = list(of_point.values())
        if not runs:
            continue
        first, last = min(run.samples[0] for run in runs), max(run.samples[-1] for run in runs)
        edges = np.geomspace(first, last, windows + 1) if last > first else np.array([first, first])
        edges[0], edges[-1] = np.nextafter(first, 0.0), last
        parts = ([run.within(low, high) for run in runs] for low, high in itertools.pairwise(edges))
        scales = (noise_scale(p, confidence=confidence) for p in parts if any(m.samples.size for m in p))
        biased = _is_biased(log, of_point)
        told = tuple(_with_bias(scale) if biased else scale for scale in scales)
        series.append(NoiseSeries(batch_size=point.batch_size, lr=point.lr, windows=told))
    return tuple(series)


def _of_runs(log: StudyLog, keys: Collection[str], known: Mapping[str, Measurements] | None) -> dict[str, Measurements]:
    """Measurements of some runs, in the order of the log."""
    if known is None:
        return measurements(log, keys)
    return {key: m for key, m in known.items() if key in keys}


def _norms_of(table: pa.Table) -> Norms:
    """The rows of a segment that hold norms, columns as in `_NORMS`."""
    samples, B, small, big, n = (plain(column) for column in table.select(_NORMS).drop_null().columns)
    # The last step of a diverged run holds no number.
    valid = np.isfinite(small) & np.isfinite(big) & (n > 1)
    return samples[valid], B[valid], small[valid], big[valid], n[valid].astype(np.int32)


def _norms_by_layer(trial: TrialLog, table: pa.Table) -> tuple[str, dict[str, Norms]]:
    """The same of each layer of a trial, by its key, in the order in which they first appear."""
    names = table["layer"].unique().to_pylist()
    return trial.key, {name: _norms_of(table.filter(pc.equal(table["layer"], name))) for name in names}


def _measured(parts: Sequence[Norms], data_size: int | None) -> Measurements:
    """One trial's norms in the order of the steps, as estimates."""
    together = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(together[0], kind="stable")
    samples, B, small, big, n = (column[order] for column in together)
    # An epoch gives no sample twice, so a batch tells more of the data's gradient than independent samples would.
    g_sq, tr_sigma = noise_estimates(small, big, n, B, data_size=data_size, first=samples - B)
    seen = np.isfinite(tr_sigma)
    return Measurements(*(column[seen].astype(np.float64) for column in (samples, g_sq, tr_sigma, B)))


def _crossings(points: Sequence[BatchPoint]) -> dict[str, float]:
    """Samples at which each run at the best LR met the target, of those that did."""
    return {run.key: run.samples for point in points for run in point.runs if run.reached}


def _near(m: Measurements, crossing: float) -> Measurements:
    return m.within((1.0 - WINDOW) * crossing, crossing)


def _data_sizes(log: StudyLog) -> dict[str, int | None]:
    """Training examples of each trial, by its key; None of a stream."""
    return {trial.key: trial.facts["n_train"] for trial in log.trials}


def _is_biased(log: StudyLog, keys: Collection[str]) -> bool:
    """Whether what any of these runs measured is biased by batch norm."""
    commits = (trial.commit for trial in log.trials if trial.key in keys)
    return any(c is not None and c["realisation"].get("noise_bias") == "batch_norm" for c in commits)


def _with_bias(scale: NoiseScale) -> NoiseScale:
    """The same, saying so."""
    return replace(scale, bias=BATCH_NORM, reason=f"{scale.reason} {BATCH_NORM}".strip())
