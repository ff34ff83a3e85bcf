"""What every command and function takes unless told otherwise; imports nothing, so that `--help` may read it."""

from typing import Literal

CONFIDENCE = 0.95
"""Of every interval."""

Aggregate = Literal["robust", "median", "mean"]
"""How the runs of one batch become one cost; `analysis.targets.aggregate_steps` computes it."""

AGGREGATES: tuple[Aggregate, ...] = ("robust", "median", "mean")

Loss = Literal["linear", "huber", "weighted"]
"""What least squares of the curve minimises; `analysis.curve_loss` computes it."""

LOSSES: tuple[Loss, ...] = ("linear", "huber", "weighted")

Definition = Literal["curve", "equal-samples", "branched"]
"""Which critical batch size: of the steps-to-target curve, of the loss at equal samples, or of branches from there."""

DEFINITIONS: tuple[Definition, ...] = ("curve", "equal-samples", "branched")

DELTA = 0.2
"""More steps than linear scaling, of the overhead definition, as Zhang et al. 2024 (arXiv:2410.21676) use it."""

EPSILON = 0.01
"""Loss that counts as equal: a share of it at equal samples, in its own unit of branches (Merrill et al. 2025)."""

FitStatus = Literal["ok", "misfit", "extrapolated", "not_identified"]
"""Whether the data carry the number."""
