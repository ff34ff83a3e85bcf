"""Gradient noise scale over training, and at the target, beside the swept critical batch size (never equated)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseScale:
    """B_simple = tr(Sigma) / |G|^2 (McCandlish et al. 2018, appendix A), numerator and denominator averaged apart.

    Attributes:
        b_simple: [samples]; nan when unresolved.
        interval: (low, high) [samples] at `confidence`.
        g_sq, tr_sigma: the two averages.
        n_measurements: (run, step) pairs that went in.
        samples_range: (first, last) samples seen of the window.
        status: ok, or unresolved when the interval of |G|^2 includes 0.
        reason: one sentence.
    """

    b_simple: float
    interval: tuple[float, float]
    g_sq: float
    tr_sigma: float
    n_measurements: int
    samples_range: tuple[float, float]
    confidence: float
    status: Literal["ok", "unresolved"]
    reason: str


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
