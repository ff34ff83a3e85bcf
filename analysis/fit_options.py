"""How to fit a sweep."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.defaults import (
    AGGREGATES,
    CONFIDENCE,
    DEFINITIONS,
    DELTA,
    EPSILON,
    LOSSES,
    Aggregate,
    Definition,
    Loss,
)
from scaleexp.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """How to fit.

    Attributes:
        definition: which critical batch size.
        aggregate: how the runs of one batch become one cost, as in `targets.aggregate_steps`.
        loss: of the curve's log residuals, as in `curve_loss.fit_by_loss`.
        confidence: of every interval, in (0, 1).
        seed: of the bootstrap.
        delta: share of more steps of the overhead definition.
        reference_batch: of the overhead definition [samples]; the smallest measured one if None.
        epsilon: loss that counts as equal: a share, of the definition at equal samples; in its unit, of the branched.
        half_life: of the smoothing of the curves of branches [samples]; a tenth of their window if None.

    Raises:
        ConfigError: a value that cannot be meant.
    """

    definition: Definition = "curve"
    aggregate: Aggregate = "robust"
    loss: Loss = "linear"
    confidence: float = CONFIDENCE
    seed: int = 0
    delta: float = DELTA
    reference_batch: int | None = None
    epsilon: float = EPSILON
    half_life: float | None = None

    def __post_init__(self) -> None:
        if self.definition not in DEFINITIONS:
            raise ConfigError(f"the definition must be {' or '.join(DEFINITIONS)}, got {self.definition!r}.")
        if self.aggregate not in AGGREGATES:
            raise ConfigError(f"the aggregate must be one of {', '.join(AGGREGATES)}, got {self.aggregate!r}.")
        if self.loss not in LOSSES:
            raise ConfigError(f"the loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        if not 0.0 < self.confidence < 1.0:
            raise ConfigError(
                f"--confidence must lie between 0 and 1, got {self.confidence:g}; {CONFIDENCE:g} is usual."
            )
        for name, value, usual in (("--overhead", self.delta, DELTA), ("--epsilon", self.epsilon, EPSILON)):
            if not (math.isfinite(value) and value > 0.0):
                raise ConfigError(f"{name} must be a share above 0, got {value:g}; {usual:g} is usual.")
        if self.half_life is not None and self.definition != "branched":
            raise ConfigError("--half-life smooths curves of branches: it needs --definition branched.")
        if self.half_life is not None and not (math.isfinite(self.half_life) and self.half_life > 0.0):
            raise ConfigError(f"--half-life must be above 0 samples, got {self.half_life:g}.")
        if self.reference_batch is not None and self.reference_batch < 1:
            raise ConfigError(f"--reference-batch must be at least 1, got {self.reference_batch}.")


DEFAULTS = FitOptions()
