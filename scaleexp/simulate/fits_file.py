"""One fit of `scaleexp-analysis fit --json` as a curve; scaleexp reads the file and imports nothing that wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from scaleexp.errors import ConfigError, NotEnoughDataError
from scaleexp.simulate.given_curve import Ends, GivenCurve


def read_fits(path: str | Path) -> dict[str, Any]:
    """What `scaleexp-analysis fit --json` wrote.

    Raises:
        ConfigError: no such file, or not of that kind.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot read {path} as JSON ({reason}): give what `scaleexp-analysis fit --json` wrote."
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("fits"), list) or not document["fits"]:
        raise ConfigError(f"{path} holds no fits: give what `scaleexp-analysis fit --json` wrote.")
    return document


def of_document(
    document: Mapping[str, Any], name: str, *, target: float | None = None, group: Sequence[str] = ()
) -> GivenCurve:
    """The curve of one fit of a document.

    Args:
        document: what `scaleexp-analysis fit --json` prints.
        name: where it comes from, for messages.
        target: which, where there are fits at several.
        group: "name=value" each, which, where there are several groups.

    Raises:
        ConfigError: none or several fits are meant, or the one that is has no curve in steps.
        NotEnoughDataError: the fit bounds nothing.
    """
    fits = [fit for fit in document["fits"] if _meant(fit, target, group)]
    if len(fits) != 1:
        known = "; ".join(dict.fromkeys(_label(fit) for fit in document["fits"]))
        raise ConfigError(
            f"{len(fits) or 'none'} of the fits of {name} is meant: choose one with --target or --group of {known}."
        )
    (fit,) = fits
    try:
        return _of_fit(fit, document.get("rules", ()), name)
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{name} holds no fit that can be read, for want of {error}: make it with this version."
        ) from None


def _meant(fit: Mapping[str, Any], target: float | None, group: Sequence[str]) -> bool:
    own = {f"{key}={value}" for key, value in fit.get("group", {}).items()}
    return set(group) <= own and (target is None or fit.get("target") == target)


def _label(fit: Mapping[str, Any]) -> str:
    group = ", ".join(f"{key}={value}" for key, value in fit.get("group", {}).items())
    return (
        " ".join(part for part in (group, "" if fit.get("target") is None else f"target {fit['target']:g}") if part)
        or "the only one"
    )


def _of_fit(fit: Mapping[str, Any], rules: Sequence[Mapping[str, Any]], name: str) -> GivenCurve:
    if fit["definition"] == "equal-samples":
        raise ConfigError(
            f"{name} was made with --definition equal-samples, which has no curve of steps: fit it without."
        )
    if fit["cost_unit"] != "samples":
        raise ConfigError(
            f"{name} counts cost in {fit['cost_unit']}, which gives no number of steps: fit steps or samples."
        )
    if fit["rms_log_residual"] is None and fit["b_crit"] is None:
        raise NotEnoughDataError(f"{name} has no curve: {fit['reason']}")
    sign = {"min": "<=", "max": ">="}.get(fit["direction"], "at")
    goal = "" if fit["target"] is None else f"{fit['metric'] or 'target'} {sign} {fit['target']:g}"
    ends = {key: cast(Ends, tuple(fit[f"{key}_interval"])) for key in ("s_min", "b_crit", "e_min")}
    return GivenCurve(
        s_min=fit["s_min"],
        b_crit=fit["b_crit"],
        s_min_interval=ends["s_min"],
        b_crit_interval=ends["b_crit"],
        e_min_interval=ends["e_min"],
        confidence=fit["confidence"],
        unit=fit["unit"],
        status=fit["status"],
        reason=fit["reason"],
        name=name,
        goal=goal,
        points=fit["points"],
        rules=rules,
    )
