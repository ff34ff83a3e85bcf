"""How much the overhead definition of the critical batch size depends on what was chosen in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scaleexp.errors import ConfigError
from scaleexp.laws import overhead_batch

DELTAS = (0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class OverheadCell:
    """B*(delta, B_ref) = (1 + delta) B_ref + delta B_crit on the fitted curve (Zhang et al. 2024, arXiv:2410.21676).

    Attributes:
        delta: share of steps above linear scaling; 0.2 means 20 % more.
        reference_batch: B_ref [samples].
        batch: B* [samples].
        interval: (low, high) [samples], from the ends of the interval of B_crit; 0 and inf where the data do not bound
            that side.
        reference_share: share of B* that comes from the choice of B_ref and not from the data,
            (1 + delta) B_ref / B*.
    """

    delta: float
    reference_batch: float
    batch: float
    interval: tuple[float, float]
    reference_share: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: what is not bounded is None."""
        low, high = self.interval
        interval = [low if low > 0.0 else None, high if math.isfinite(high) else None]
        return asdict(self) | {"batch": self.batch if math.isfinite(self.batch) else None, "interval": interval}


def overhead_table(
    b_crit: float,
    b_crit_interval: tuple[float, float],
    reference_batches: Sequence[float],
    deltas: Sequence[float] = DELTAS,
) -> tuple[OverheadCell, ...]:
    """One cell per (delta, B_ref), deltas outermost; empty without a fitted curve.

    Exact on the curve, so the table says nothing that B_crit does not: it shows which published number, with its own
    delta and B_ref, a B_crit is to be compared with.

    Args:
        b_crit: of the curve [samples]; nan without a fit, 0 for a flat curve, inf for a linear one.
        b_crit_interval: (low, high) [samples]; 0 and inf where the data do not bound that side.
        reference_batches: B_ref [samples], for instance the smallest measured batch and 256.
        deltas: shares above linear scaling.

    Raises:
        ConfigError: a delta or a reference batch that is not finite and positive.

    >>> [(c.delta, round(c.batch, 6)) for c in overhead_table(100.0, (80.0, 130.0), [4.0], [0.2, 1.0])]
    [(0.2, 24.8), (1.0, 108.0)]
    """
    for name, values in (("delta", deltas), ("reference batch", reference_batches)):
        wrong = [value for value in values if not 0.0 < value < math.inf]
        if wrong:
            raise ConfigError(f"a {name} must be finite and above 0, got {wrong[0]:g}.")
    if math.isnan(b_crit):
        return ()
    return tuple(_cell(delta, ref, b_crit, b_crit_interval) for delta in deltas for ref in reference_batches)


def _cell(delta: float, reference: float, b_crit: float, interval: tuple[float, float]) -> OverheadCell:
    batch, low, high = (float(overhead_batch(delta, reference, b)) for b in (b_crit, *interval))
    return OverheadCell(
        delta=delta,
        reference_batch=float(reference),
        batch=batch,
        interval=(low if interval[0] > 0.0 else 0.0, high),
        reference_share=(1.0 + delta) * reference / batch,
    )
