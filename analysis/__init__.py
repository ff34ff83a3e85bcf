"""Reads logs, fits curves, draws figures; needs neither ray nor torch.

    import analysis

    study = analysis.fit("runs/my-study")
    study.fit.b_crit, study.fit.b_crit_interval, study.fit.status

`load` is `analysis.read.load`, `fit` is `analysis.study.analyse`. Both are looked up when first used, so that the
import itself stays cheap (PEP 562); their types are in `__init__.pyi`.
"""

from importlib import import_module
from typing import Any

__all__ = ["fit", "load"]

_PUBLIC = {"fit": ("analysis.study", "analyse"), "load": ("analysis.read", "load")}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever is asked for
    if name not in _PUBLIC:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)
