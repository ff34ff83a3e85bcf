"""Reads logs, fits curves, draws figures; needs neither ray nor torch.

import analysis

result = analysis.fit("runs/my-study")
result.fit.b_crit, result.fit.b_crit_interval, result.fit.status
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.read import StudyLog
    from analysis.study import StudyAnalysis

__all__ = ["fit", "load"]


def load(path: str | Path) -> StudyLog:
    """Read a study directory: see `analysis.read.load`."""
    from analysis import read

    return read.load(path)


def fit(
    source: str | Path | StudyLog,
    *,
    target: float | None = None,
    metric: str | None = None,
    confidence: float = 0.9,
    seed: int = 0,
) -> StudyAnalysis:
    """Analyse a study at one target: see `analysis.study.analyse`."""
    from analysis import study

    return study.analyse(source, target=target, metric=metric, confidence=confidence, seed=seed)
