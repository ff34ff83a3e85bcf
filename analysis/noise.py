"""Gradient noise scale over training, and at the target, beside the swept critical batch size (never equated)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from analysis import read
from analysis.defaults import CONFIDENCE
from analysis.noise_ratio import Measurements, NoiseScale, noise_scale
from analysis.read import StudyLog, TrialLog, read_steps
from analysis.targets import BatchPoint
from scaleexp.laws import noise_estimates

__all__ = ["NoiseScale", "NoiseSeries", "measurements", "noise_at_target", "noise_by_layer", "noise_series"]

WINDOW = 1.0 / 3.0
"""Share of the samples before the crossing that counts as near the target."""
BATCH_NORM = "It is biased: batch norm takes its statistics per group, so a sample's gradient depends on its group."

_NORMS = ["samples", "batch_size", "grad_sq_small", "grad_sq_big", "shards"]


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
    found = {t.key: _measured(t, read_steps(log, _NORMS, {t.key})) for t in log.trials if t.key in keys}
    return {key: m for key, m in found.items() if m.samples.size}


def noise_at_target(
    log: StudyLog, points: Sequence[BatchPoint], *, confidence: float = CONFIDENCE
) -> NoiseScale | None:
    """Noise scale near the target: the last third of the samples before each crossing, runs at the best LR.

    None when these runs measured no gradient norms.
    """
    crossing = _crossings(points)
    measured = measurements(log, crossing)
    if not measured:
        return None
    near = [_near(m, crossing[key]) for key, m in measured.items()]
    return _with_bias(noise_scale(near, confidence=confidence), log, measured)


def noise_by_layer(
    log: StudyLog, points: Sequence[BatchPoint], *, confidence: float = CONFIDENCE
) -> dict[str, NoiseScale]:
    """`noise_at_target` of each trained parameter by itself, by its name; empty when none was measured by itself.

    |G|^2 and tr(Sigma) are sums over parameters, B_simple is not.
    """
    crossing = _crossings(points)
    runs: dict[str, dict[str, Measurements]] = {}
    for trial in log.trials:
        if trial.key in crossing:
            table = read.read_table(log, "layers", [*_NORMS, "layer"], {trial.key})
            for layer in table["layer"].unique().to_pylist():
                own = _measured(trial, table.filter(pc.equal(table["layer"], layer)))
                runs.setdefault(layer, {})[trial.key] = _near(own, crossing[trial.key])
    return {
        layer: _with_bias(noise_scale(list(near.values()), confidence=confidence), log, near)
        for layer, near in runs.items()
    }


def noise_series(
    log: StudyLog, points: Sequence[BatchPoint], *, windows: int = 8, confidence: float = CONFIDENCE
) -> tuple[NoiseSeries, ...]:
    """Noise scale of each batch size over training: windows of equal width in log samples, runs at the best LR.

    Windows without a measurement are absent, and so are batch sizes without any.
    """
    series = []
    for point in points:
        measured = measurements(log, {run.key for run in point.runs})
        runs = list(measured.values())
        if not runs:
            continue
        first, last = min(run.samples[0] for run in runs), max(run.samples[-1] for run in runs)
        edges = np.geomspace(first, last, windows + 1) if last > first else np.array([first, first])
        edges[0], edges[-1] = np.nextafter(first, 0.0), last
        parts = ([run.within(low, high) for run in runs] for low, high in itertools.pairwise(edges))
        scales = (noise_scale(p, confidence=confidence) for p in parts if any(m.samples.size for m in p))
        told = tuple(_with_bias(scale, log, measured) for scale in scales)
        series.append(NoiseSeries(batch_size=point.batch_size, lr=point.lr, windows=told))
    return tuple(series)


def _measured(trial: TrialLog, table: pa.Table) -> Measurements:
    """The rows of a trial's table that hold norms, in the order of the steps, as estimates."""
    # The last step of a diverged run holds no number.
    valid = pc.and_(pc.is_finite(table["grad_sq_small"]), pc.is_finite(table["grad_sq_big"]))
    columns = table.filter(pc.and_(valid, pc.greater(table["shards"], 1))).sort_by("samples")
    samples, B, small, big, n = (columns[name].to_numpy() for name in _NORMS)
    # An epoch gives no sample twice, so a batch tells more of the data's gradient than independent samples would.
    g_sq, tr_sigma = noise_estimates(small, big, n, B, data_size=trial.facts["n_train"], first=samples - B)
    seen = np.isfinite(tr_sigma)
    return Measurements(*(column[seen].astype(np.float64) for column in (samples, g_sq, tr_sigma, B)))


def _crossings(points: Sequence[BatchPoint]) -> dict[str, float]:
    """Samples at which each run at the best LR met the target, of those that did."""
    return {run.key: run.samples for point in points for run in point.runs if run.reached}


def _near(m: Measurements, crossing: float) -> Measurements:
    return m.within((1.0 - WINDOW) * crossing, crossing)


def _with_bias(scale: NoiseScale, log: StudyLog, keys: Iterable[str]) -> NoiseScale:
    """The same, saying so where what these runs measured is biased."""
    commits = {t.key: t.commit for t in log.trials}
    marks = {c["realisation"].get("noise_bias") for key in keys if (c := commits[key]) is not None}
    if "batch_norm" not in marks:
        return scale
    return replace(scale, bias=BATCH_NORM, reason=f"{scale.reason} {BATCH_NORM}".strip())
