"""Training curves that anybody logged, in whatever format: one importer, which asks for what is missing.

A curve needs the global batch size, because steps are no samples, and the unit that it counts. Neither is ever guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysis.sources.curve_runs import Curve, Curves, ReadFile, split
from analysis.sources.files import read_files
from analysis.sources.logged import Logged, Named, Series
from analysis.sources.said import Facts, Said, facts_of
from analysis.targets import Run, refuse_met_at_start, run_to_target
from analysis.wording import sign, unit_plural
from scaleexp.errors import ConfigError
from scaleexp.schema import DISTANCE

__all__ = ["Curve", "Curves", "ReadFile", "read_curves", "runs_against", "split", "unconfirmed"]

MAX_EXACT = 2**53
"""Above this a float64 no longer counts every sample."""


def read_curves(
    paths: str | Path | Sequence[str | Path],
    *,
    metric: str | None = None,
    unit: str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    run_pattern: str | None = None,
    run_column: str | None = None,
    batch_column: str | None = None,
    steps_column: str | None = None,
    samples_column: str | None = None,
) -> Curves:
    r"""Read a long table, `trainer_state.json`, TensorBoard event files or a W&B history; the content decides which.

    A step counts optimizer steps taken: a script that logs its first update as step 0 is one batch short everywhere.

    Args:
        paths: files, or directories of event files or of `trainer_state.json`.
        metric: its name, or that of its column; may be left out where there is one only.
        unit: what batch sizes count (example, token, ...), unless a column `unit` says.
        batch_size: global batch of every run [unit].
        lr: peak learning rate of every run.
        run_pattern: regular expression that finds facts in the names of runs by its named groups, such as
            `bs(?P<batch_size>\d+)-lr(?P<lr>[^-]+)-seed(?P<seed>\d+)`; other names become groups.
        run_column: column that names the run.
        batch_column: column of the global batch size.
        steps_column: column of the optimizer steps taken.
        samples_column: column of the samples eaten [unit], in place of steps.

    Raises:
        ConfigError: the batch size or unit of a run is missing or contradicts itself, several metrics are there and
            none is named, or a file is of no kind that is known.
        StorageError: a file cannot be read.
    """
    named = Named(
        metric=metric,
        run_column=run_column,
        batch_column=batch_column,
        steps_column=steps_column,
        samples_column=samples_column,
    )
    said = Said(batch_size=batch_size, unit=unit, lr=lr, run_pattern=run_pattern)
    files = read_files([Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)], named)
    chosen = _metric(files.runs, metric)
    problems = list(files.problems)
    runs, facts, peaks = _merged([run for run in files.runs if chosen in run.series], chosen, said)
    silent = len(files.runs) - sum(chosen in run.series for run in files.runs)
    if silent:
        problems.append(f"{silent} of {len(files.runs)} runs did not log {chosen} and are left out.")
    units = {fact.unit for fact in facts}
    if len(units) > 1:
        raise ConfigError(
            f"the runs count {' and '.join(unit_plural(u) for u in sorted(units))}: read those of one unit at a time."
        )
    curves = [_curve(name, series, fact) for (name, series), fact in zip(runs.items(), facts, strict=True)]
    problems += [*_left_out(runs, curves), *_taken_for_peaks(peaks, len(curves))]
    if all(curve.lr == 0.0 for curve in curves):
        problems.append("no learning rate is given: the runs of a batch size are taken to have the same one.")
    return Curves(
        metric=chosen,
        unit=units.pop(),
        runs=_numbered(curves, facts),
        provenance=tuple(
            ReadFile(path=str(s.path), kind=kind, sha256=sha256(s.content).hexdigest(), rows=files.rows[s.path])
            for s, kind in files.sources
        ),
        problems=tuple(problems),
    )


def runs_against(curves: Curves, target: float, direction: Literal["min", "max"] = "min") -> tuple[Run, ...]:
    """Every run against one target, by the rule that holds for studies.

    The status of a run that says none is "reached" or "limit": it ended where its log does.

    Raises:
        ConfigError: some run meets the target before it took a step, or the target is not finite.
    """
    if not math.isfinite(target):
        raise ConfigError(f"a target must be a finite value of {curves.metric}, got {target:g}.")
    found = []
    for curve in curves.runs:
        run = run_to_target(curve, target, direction, key=curve.run, workers=curve.workers, status=curve.status)
        found.append(run if run.status else replace(run, status="reached" if run.reached else "limit"))
    refuse_met_at_start(found, curves.metric, target, direction)
    return tuple(found)


def unconfirmed(curves: Curves, target: float, direction: Literal["min", "max"] = "min") -> str | None:
    """One sentence on the runs whose last evaluation alone meets the target, as where a script stops at it."""
    runs = zip(curves.runs, runs_against(curves, target, direction), strict=True)
    ends = [
        curve.run
        for curve, run in runs
        if not run.reached and (curve.values[-1] <= target if direction == "min" else curve.values[-1] >= target)
    ]
    if not ends:
        return None
    return (
        f"{len(ends)} of {len(curves.runs)} runs (first: {ends[0]}) end at their first evaluation with {curves.metric} "
        f"{sign(direction)} {target:g}, which no further one confirms; they count as not having reached it."
    )


def _metric(runs: Sequence[Logged], metric: str | None) -> str:
    logged = list(dict.fromkeys(name for run in runs for name in run.series))
    if metric in logged:
        return str(metric)
    there = [name for name in logged if name.rpartition("/")[2] != DISTANCE]  # which measures no success
    if not there:
        raise ConfigError("no metric is logged in these files: name the column of its values by --metric.")
    if metric is None and len(there) == 1:
        return there[0]
    listed = ", ".join(sorted(there)[:20]) + (", ..." if len(there) > 20 else "")
    if metric is None:
        raise ConfigError(f"several metrics are logged: choose one by --metric ({listed}).")
    raise ConfigError(f"no run logged {metric!r}: choose another by --metric ({listed}).")


def _merged(
    logged: Sequence[Logged], metric: str, said: Said
) -> tuple[dict[str, Series], list[Facts], dict[str, float]]:
    """Runs of one name, in one or more files, are one run; its facts; and the LRs taken for peaks of a schedule."""
    names = _short([run.run for run in logged])
    series: dict[str, Series] = {}
    facts: dict[str, Facts] = {}
    rates: dict[str, list[float]] = {}
    for name, run in zip(names, logged, strict=True):
        rates.setdefault(name, []).extend(run.logged_lr or ())
        mine, own = facts_of(name, run, said), run.series[metric]
        if name not in series:
            series[name], facts[name] = own, mine
            continue
        if mine != facts[name] or own.counted != series[name].counted:
            raise ConfigError(f"two files tell different things of one run {name!r}: rename one of the two.")
        first = series[name]
        series[name] = replace(
            own, counts=np.append(first.counts, own.counts), values=np.append(first.values, own.values)
        )
    unsaid = {name: (min(rates[name]), max(rates[name])) for name in facts if rates[name] and not facts[name].lr}
    joined = [replace(f, lr=unsaid[name][1]) if name in unsaid else f for name, f in facts.items()]
    return series, joined, {name: peak for name, (least, peak) in unsaid.items() if least < peak}


def _taken_for_peaks(peaks: Mapping[str, float], runs: int) -> Iterator[str]:
    """One sentence for the runs whose log alone says a learning rate, which changes along the way."""
    if peaks:
        name, peak = next(iter(peaks.items()))
        which = f"1 run ({name}, {peak:g})" if runs == 1 else f"{len(peaks)} of {runs} runs (first: {name}, {peak:g})"
        yield (
            f"the largest learning rate that {which} logged is taken for the peak: give --lr, or a group (?P<lr>...) "
            "in --run-pattern, where it was another."
        )


def _short(names: Sequence[str | Path]) -> list[str]:
    """Names as they are; paths without what they have in common, one alone by its last part."""
    parts = [name.absolute().parts for name in names if isinstance(name, Path)]
    parents = [path[:-1] for path in parts]
    common = 0
    while parents and all(len(p) > common and p[common] == parents[0][common] for p in parents):
        common += 1
    return ["/".join(n.absolute().parts[common:]) if isinstance(n, Path) else n for n in names]


def _curve(name: str, series: Series, facts: Facts) -> Curve:
    samples = series.counts * (facts.batch_size if series.counted == "steps" else 1)
    there = _countable(series)
    samples, values = samples[there], series.values[there]
    if not samples.size or samples.max() > MAX_EXACT:
        raise ConfigError(f"run {name} has no evaluation at a countable number of {series.counted}: leave the run out.")
    # The last written of each: unique keeps the first, so it sees them backwards.
    unique, last = np.unique(samples[::-1], return_index=True)
    values = values[::-1][last]
    return Curve(
        run=name,
        batch_size=facts.batch_size,
        workers=facts.workers,
        lr=facts.lr,
        seed=facts.seed if facts.seed is not None else -1,
        group=facts.group,
        samples=unique,
        values=values,
        status=facts.status or ("" if np.isfinite(values).all() else "diverged"),
    )


def _countable(series: Series) -> npt.NDArray[np.bool_]:
    return np.isfinite(series.counts) & (series.counts >= 0)


def _left_out(runs: Mapping[str, Series], curves: Sequence[Curve]) -> Iterator[str]:
    """One sentence for what no curve has of what its log had."""
    nowhere = {name: int((~_countable(series)).sum()) for name, series in runs.items()}
    again = {c.run: runs[c.run].counts.size - nowhere[c.run] - c.samples.size for c in curves}
    for counts, what in (
        (nowhere, "do not say how far the run had come, and are left out"),
        (again, "were logged again later for the same step, as by a run that was resumed; the last of each counts"),
    ):
        named = [name for name, count in counts.items() if count]
        if named:
            some = f"{len(named)} of {len(curves)} runs (first: {named[0]})"
            yield f"{sum(counts.values())} evaluations in {some} {what}."


def _numbered(curves: Sequence[Curve], facts: Sequence[Facts]) -> tuple[Curve, ...]:
    """Runs without a seed are counted through within a batch size and LR."""
    counts: dict[tuple[int, float], int] = {}
    numbered = []
    for curve, fact in zip(curves, facts, strict=True):
        if fact.seed is None:
            cell = (curve.batch_size, curve.lr)
            curve = replace(curve, seed=counts.get(cell, 0))
            counts[cell] = curve.seed + 1
        numbered.append(curve)
    return tuple(numbered)
