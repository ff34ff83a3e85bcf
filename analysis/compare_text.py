"""What `compare` prints: for a person the verdict first, then what it rests on; and its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from analysis.card import aligned
from analysis.cbs import CurveFit
from analysis.compare import PARAMETERS, Comparison, Ratio
from analysis.output import json_safe
from analysis.recipe import Difference
from analysis.study import StudyAnalysis
from analysis.wording import brief, count, interval, number, sign, unit_plural

VERSION = 1
_LONGEST = 60
_LABELS = {"b_crit": "B_crit", "s_min": "S_min", "e_min": "E_min"}


def compare_text(found: Comparison) -> str:
    """A comparison in lines."""
    parts = [
        [found.sentence, *([found.pairing] if found.ratios else [])],
        [_legend("A", found.a), _legend("B", found.b)],
        _parameters(found),
        _steps(found),
        ["recipe", *_differences(found.recipe, "the same in every field that a result rests on")],
        ["measured", *_differences(found.grid, "the same grid, seeds, targets and limits")],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def compare_document(found: Comparison) -> dict[str, Any]:
    """`compare --json`; a side that the data do not bound is null, and `ratios` is null where none is given."""
    document = {
        "schema_version": VERSION,
        "verdict": found.verdict,
        "sentence": found.sentence,
        "a": _side(found.a),
        "b": _side(found.b),
        "ratios": {name: _bounded(ratio) for name, ratio in found.ratios.items()} or None,
        "pairing": {"shared_seeds": found.shared_seeds, "used": found.same_runs, "sentence": found.pairing},
        "steps": [{"batch_size": batch, "a": a, "b": b, "ratio": b / a} for batch, a, b in found.steps],
        "recipe": found.recipe,
        "grid": found.grid,
    }
    return cast(dict[str, Any], json_safe(document))


def _bounded(ratio: Ratio) -> dict[str, Any]:
    return {"ratio": ratio.ratio, "interval": [end or None for end in ratio.interval]}


def _side(study: StudyAnalysis) -> dict[str, Any]:
    fit = study.fit
    values = {name: getattr(fit, name) if fit else None for name in PARAMETERS}
    bounds = {f"{n}_interval": [end or None for end in getattr(fit, f"{n}_interval")] if fit else None for n in values}
    return {
        "study": study.log.plan["study"],
        "path": study.log.path,
        "metric": study.metric,
        "direction": study.direction,
        "target": study.target,
        "unit": study.unit,
        "status": fit.status if fit else "no_fit",
        "reason": fit.reason if fit else study.fit_reason,
        **values,
        **bounds,
        "confidence": fit.confidence if fit else None,
        "n_batches": len(study.points),
        "n_runs": len(study.runs),
    }


def _legend(name: str, study: StudyAnalysis) -> str:
    status = study.fit.status.replace("_", " ") if study.fit else "no curve"
    goal = f"{study.metric} {sign(study.direction)} {number(study.target, 6)}"
    return f"{name}  {study.log.plan['study']}, {goal}, {len(study.runs)} runs, fit {status}  ({study.log.path})"


def _parameters(found: Comparison) -> list[str]:
    unit = unit_plural(found.a.unit)
    rows = [["", "A", "B", "B/A", ""]]
    for name in PARAMETERS:
        ratio = found.ratios.get(name)
        rows.append(
            [
                _LABELS[name],
                *(_estimate(study.fit, name) for study in (found.a, found.b)),
                "-" if ratio is None else f"{number(ratio.ratio)} ({interval(*ratio.interval)})",
                "steps" if name == "s_min" else unit,
            ]
        )
    return aligned(rows, words=range(len(rows[0])))


def _estimate(fit: CurveFit | None, name: str) -> str:
    if fit is None:
        return "-"
    return f"{number(getattr(fit, name))} ({interval(*getattr(fit, f'{name}_interval'))})"


def _steps(found: Comparison) -> list[str]:
    if not found.steps:
        return ["No batch size has steps to target in both."]
    rows = [["batch", "steps A", "steps B", "B/A"]]
    rows += [[count(batch), number(a, 4), number(b, 4), number(b / a)] for batch, a, b in found.steps]
    return aligned(rows, words=range(len(rows[0])))


def _differences(found: Sequence[Difference], none: str) -> list[str]:
    if not found:
        return [f"  {none}"]
    rows = [["", "A", "B"], *([d.field, _value(d.a), _value(d.b)] for d in found)]
    return [f"  {line}" for line in aligned(rows, words=range(len(rows[0])))]


def _value(value: object) -> str:
    if value is None:
        return "-"
    return brief(value if isinstance(value, str) else json.dumps(value), _LONGEST)
