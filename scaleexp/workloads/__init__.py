"""Built-in workloads and how a study's workload is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from scaleexp.errors import ConfigError
from scaleexp.plugins import nearest, resolve

if TYPE_CHECKING:
    from scaleexp.workloads.base import Workload

BUILT_IN: Mapping[str, str] = {
    "classifier": "scaleexp.workloads.classifier:Classifier",
    "quadratic": "scaleexp.workloads.quadratic:Quadratic",
}
"""Name -> "module:Class"; resolved on use, so that listing them imports no torch."""


def make_workload(name: str, options: Mapping[str, Any], *, dtype: str = "float32") -> Workload:
    """The workload of a study.

    Args:
        name: built-in name or "module:Class".
        options: keyword arguments of the class.
        dtype: float32 or float64.

    Raises:
        ConfigError: an unknown name, or options that the class does not take.
    """
    factory = _factory(name)
    known = [k for k in inspect.signature(factory).parameters if k != "dtype"]
    for option in options:
        if option not in known:
            raise ConfigError(f"The workload {name!r} has no option {option!r}; {nearest(option, known)}")
    import torch

    return factory(**options, dtype=getattr(torch, dtype))


def _factory(name: str) -> Callable[..., Workload]:
    """The class that a workload's name stands for."""
    built_in: Mapping[str, Any] = BUILT_IN
    found = resolve(BUILT_IN.get(name, name), built_in, kind="workload")
    if not callable(found):
        raise ConfigError(f"workload {name!r} is {type(found).__name__}, not a class: name one as 'module:Class'")
    return found  # type: ignore[no-any-return]  # a plug-in's class: its Protocol is checked by use
