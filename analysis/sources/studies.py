"""Studies as sweeps: whole, or their runs grouped by what the log says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.fits import FitOptions, SweepFit, joined
from analysis.read import StudyLog
from analysis.study import StudyAnalysis, answer, goals
from analysis.study_traces import study_traces
from analysis.sweep import GroupValue, Sweep, group_text
from analysis.targets import Run, runs_to_target
from analysis.wording import nearest
from scaleexp.errors import ConfigError

_TRIAL_ONLY = {"schema_version", "trial_id", "seed", "batch_size", "micro_batch", "accumulation_steps", "lr"}
"""What differs from run to run of one sweep, so that a group by it would hold no curve."""


def study_fit(
    study: StudyAnalysis, options: FitOptions | None = None, group: Mapping[str, GroupValue] | None = None
) -> SweepFit:
    """The fit of an analysed study with everything that is fitted to any sweep.

    Args:
        study: as analysed; its curve is taken over.
        options: that it was analysed with, and of what is read off it; its own if None.
        group: what tells it from other studies.
    """
    chosen = options or study.options
    sweep = Sweep(
        group=dict(group or {}),
        metric=study.metric,
        direction="min" if study.direction == "min" else "max",
        target=study.target,
        unit=study.unit,
        cost_unit="samples",
        runs=study.runs,
        provenance=study_provenance(study.log),
        problems=study.log.problems,
        traces=study_traces(study.log, study.metric) if chosen.definition == "equal-samples" else (),
    )
    says = f"{group_text(group)}: {answer(study)}" if group else answer(study)
    return joined(sweep, chosen, study.points, study.fit, study.fit_reason, says, study.left_out)


def study_sweeps(
    log: StudyLog,
    group_by: Sequence[str],
    *,
    targets: Sequence[float] = (),
    metric: str | None = None,
    with_traces: bool = False,
) -> tuple[Sweep, ...]:
    """A study's runs grouped by facts of their trials, one sweep per target and group.

    Args:
        log: the study.
        group_by: names from `trial_columns`.
        targets: values of the metric; the hardest planned one if empty.
        metric: one that the plan has a target for; its first if None.
        with_traces: whether the evaluations of every run are wanted as well.

    Raises:
        ConfigError: a column that the log does not have, or a target that cannot be meant.
    """
    columns = {trial.key: trial_columns(log, trial.facts) for trial in log.trials}
    known = sorted(set.intersection(*(set(c) for c in columns.values())))
    for name in group_by:
        if name not in known:
            raise ConfigError(f"{log.path} has no column {name!r} to group by; {nearest(name, known)}.")
    found = []
    for planned, goal in goals(log, targets, metric):
        traces = study_traces(log, planned["metric"]) if with_traces else ()
        groups: dict[tuple[GroupValue, ...], list[Run]] = {}
        for run in runs_to_target(log, planned["metric"], goal, planned["direction"]):
            groups.setdefault(tuple(columns[run.key][name] for name in group_by), []).append(run)
        found += [
            Sweep(
                group=dict(zip(group_by, key, strict=True)),
                metric=planned["metric"],
                direction=planned["direction"],
                target=goal,
                unit=log.plan["unit"],
                cost_unit="samples",
                runs=tuple(runs),
                provenance=study_provenance(log),
                problems=log.problems,
                traces=tuple(t for t in traces if tuple(columns[t.key][name] for name in group_by) == key),
            )
            for key, runs in groups.items()
        ]
    return tuple(found)


def trial_columns(log: StudyLog, facts: Mapping[str, Any]) -> dict[str, GroupValue]:
    """What runs may be grouped by: the facts of a trial, nested ones with a dot, `n_params` for `n_parameters`."""
    study = log.plan["study"]
    found: dict[str, GroupValue] = {"study": study, "name": study}
    for key, value in facts.items():
        if key not in _TRIAL_ONLY:
            found |= dict(_flat(key, value))
    return found | {"n_params": facts["n_parameters"]}


def _flat(key: str, value: object) -> Iterator[tuple[str, GroupValue]]:
    """`optimizer.momentum` and the like; the name of a nested fact stands for it."""
    if isinstance(value, Mapping):
        for inner, item in value.items():
            yield from _flat(key if inner == "name" else f"{key}.{inner}", item)
    elif isinstance(value, str | int | float):
        yield key, value


def study_provenance(log: StudyLog) -> dict[str, object]:
    """Where a study's numbers come from."""
    facts = [trial.facts for trial in log.trials]
    return {
        "study": log.plan["study"],
        "path": str(log.path),
        "planned_trials": len(log.plan["trials"]),
        "read_trials": len(log.trials),
        "data_sha256": sorted({fact["data_sha256"] for fact in facts}),
        "git_sha": sorted({fact["git_sha"] for fact in facts if fact["git_sha"]}),
        "versions": {name: text for fact in facts for name, text in fact["versions"].items()},
    }
