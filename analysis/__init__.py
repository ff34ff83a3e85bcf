"""Reads logs, fits curves, draws figures; needs neither ray nor torch.

    import analysis

    study = analysis.fit("runs/my-study")
    study.fit.b_crit, study.fit.b_crit_interval, study.fit.status

    table = analysis.fit("runs.csv", group_by="benchmark", cost_column="epochs", unit="epochs")
    [(fit.sweep.group, fit.b_crit, fit.b_crit_interval, fit.status) for fit in table.fits]

`load` and `fit` are those of `analysis.api`; what they give is frozen, has `to_dict()` and shows itself in a
notebook. Both are looked up when first used, so that the import itself stays cheap (PEP 562); their types are in
`__init__.pyi`.
"""

from importlib import import_module
from typing import Any

__all__ = ["fit", "load"]

_PUBLIC = {"fit": ("analysis.api", "fit"), "load": ("analysis.api", "load")}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
    if name not in _PUBLIC:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)
