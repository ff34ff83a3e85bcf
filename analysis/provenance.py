"""How a study was measured, as label and text: the facts of its trials, told once where all trials share them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from analysis.sections import goal
from analysis.study import StudyAnalysis
from analysis.wording import count, level, number, percent, sign, unit_plural
from scaleexp.schema import Target

MOST_VALUES = 6
ANALYSIS_PACKAGES = ("numpy", "scipy", "pyarrow", "matplotlib")


def measured_rows(study: StudyAnalysis) -> tuple[tuple[str, str], ...]:
    """What was run, from the trials' own facts."""
    facts: list[Mapping[str, Any]] = [dict(t.facts) for t in study.log.trials]
    commits = [t.commit for t in study.log.trials if t.commit]
    unit = unit_plural(study.unit)
    rows = [
        ("Workload", settings(f["workload"] for f in facts)),
        ("Data", f"{_size(facts, unit)}; sha256 {_said(f['data_sha256'] for f in facts)}"),
        ("Parameters", _said(f["n_parameters"] for f in facts)),
        ("Optimizer", settings(f["optimizer"] for f in facts)),
        ("Precision", values(f["dtype"] for f in facts)),
        ("Seeds", values(f["seed"] for f in facts)),
        ("Targets", "; ".join(target_words(t) for t in study.log.plan["targets"]) + f". This report: {goal(study)}"),
        ("Sample limit", f"{values(f['limit_samples'] for f in facts)} {unit} per run"),
        (
            "Trials",
            f"{len(facts)} begun, of which {_statuses(c['status'] for c in commits) or 'none has a commit'}",
        ),
        ("Realisation", settings(c["realisation"] for c in commits)),
        ("Hardware", settings(f["hardware"] for f in facts)),
        ("Run with", settings(f["versions"] for f in facts)),
        ("Code", f"git {_said(f['git_sha'] for f in facts)}"),
        ("Analysed with", settings([{p: version(p) for p in ANALYSIS_PACKAGES}])),
    ]
    return tuple((label, text) for label, text in rows if text)


def fitted_rows(study: StudyAnalysis) -> tuple[tuple[str, str], ...]:
    """What the fit used and how far off it is."""
    fit = study.fit
    if fit is None:
        return (("Fit", study.fit_reason),)
    noise = percent(fit.seed_noise) if fit.seed_noise is not None else "not known: one run per batch"
    return (
        ("Status", f"{fit.status.replace('_', ' ')}: {fit.reason}"),
        (
            "Used",
            f"{fit.n_batches} batch sizes, {fit.n_runs} runs of the learning-rate grid, {fit.n_censored} censored",
        ),
        ("Off the curve", f"{percent(fit.rms_log_residual)} root mean square of log(measured / fitted) over batches"),
        (
            "Seed noise",
            f"{noise} standard deviation of log steps within a batch" if fit.seed_noise is not None else noise,
        ),
        ("Intervals", f"{level(fit.confidence)} confidence"),
    )


def target_words(target: Target) -> str:
    """A target with all its values.

    >>> target_words({"metric": "loss", "values": [0.5, 0.35], "direction": "min"})
    'loss ≤ 0.5, 0.35'
    """
    return f"{target['metric']} {sign(target['direction'])} {', '.join(number(v, 6) for v in target['values'])}"


def settings(mappings: Iterable[Mapping[str, Any]]) -> str:
    """Nested settings of many trials in one line: a key once where all agree, its values side by side where not.

    >>> settings([{"name": "sgd", "wd": {"value": 0.1}}, {"name": "sgd", "wd": {"value": 0.2}}])
    'sgd, wd.value 0.1 | 0.2'
    """
    flats = [dict(_flat(m)) for m in mappings]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    said = {key: values(flat[key] for flat in flats if key in flat) for key in keys}
    return ", ".join(value if key == "name" else f"{key} {value}" for key, value in said.items())


def values(found: Iterable[Any]) -> str:
    """Distinct values in order of appearance; a count where there are too many.

    >>> values([1, 1, 2]), values(range(10)), values([4000]), values([None])
    ('1 | 2', '10 values from 0 to 9', '4,000', 'none')
    """
    distinct = list(dict.fromkeys(_written(v) for v in found))
    if len(distinct) > MOST_VALUES:
        return f"{len(distinct)} values from {distinct[0]} to {distinct[-1]}"
    return " | ".join(distinct)


def _said(found: Iterable[Any]) -> str:
    """Values that a user's own script may leave out.

    >>> _said([None, "", 3])
    'not said | 3'
    """
    return values("not said" if value in (None, "") else value for value in found)


def _size(facts: Iterable[Mapping[str, Any]], unit: str) -> str:
    """Of the training set."""
    sizes = [f["n_train"] for f in facts]
    if all(size is None for size in sizes):
        return f"{unit} of a stream, or of a training set whose size was not said"
    return f"{_said(sizes)} training {unit}"


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _written(value: object) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return number(value, 6)
    return value if isinstance(value, str) else json.dumps(value)


def _statuses(found: Iterable[str]) -> str:
    """Statuses with how often each occurs.

    >>> _statuses(["reached", "limit", "reached"])
    '2 reached, 1 limit'
    """
    every = list(found)
    return ", ".join(f"{every.count(s)} {s}" for s in dict.fromkeys(every)) or "none"
