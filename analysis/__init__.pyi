from typing import Any

from analysis.api import StudyResult
from analysis.api import load as load

# `analysis.api.fit`: a StudyResult of one study, a SweepFit of one sweep, Fits of anything else. Whoever calls it knows
# which, so `Any` spares the cast.
def fit(source: object, *more: object, **options: Any) -> StudyResult | Any: ...  # noqa: ANN401

__all__ = ["fit", "load"]
