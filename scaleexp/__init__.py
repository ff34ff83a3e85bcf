"""scaleexp: how many workers, what batch size, what learning rate, and where adding more stops paying."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("scaleexp")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"

_PUBLIC = {
    "current_trial": "scaleexp.trial_context",
    "TrialContext": "scaleexp.trial_context",
    "track": "scaleexp.tracking",
}
"""What the package offers to a script, and where it is: loaded when it is asked for, so that importing stays light."""


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever is asked for
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
