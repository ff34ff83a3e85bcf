"""How fast each run was on the machine that it ran on: samples a second, and seconds to the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import numpy as np

from analysis.histories import FloatArray, History
from analysis.study import StudyAnalysis
from analysis.wording import brief


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """One run on one machine.

    Attributes:
        key: trial key.
        series: engine and machine; only runs of one series are to be compared.
        batch_size: B [samples].
        workers: of the trial.
        samples_per_s: batch size over the median step time, evaluations apart. The trials of a pack share the time of
            a step equally, so that this is the throughput of the machine, whatever the number of trials at once.
        seconds: steps up to the target, summed; nan where it was not reached.
        chosen: whether the run is at the best LR of its batch size.
    """

    key: str
    series: str
    batch_size: int
    workers: int
    samples_per_s: float
    seconds: float
    chosen: bool


def speeds(study: StudyAnalysis, found: Mapping[str, History]) -> tuple[Speed, ...]:
    """One per run with timed steps, ascending in batch size; another realisation meets the target where the first did.

    Both realisations are the same mathematics, so that they cross at the same number of samples.
    """
    crossing = {r.key: r.samples for r in study.runs if r.reached}
    chosen = {r.key for p in study.points for r in p.runs}
    made = []
    for key, history in found.items():
        facts = history.trial.facts
        timed = history.step_s[np.isfinite(history.step_s) & (history.step_s > 0)]
        if timed.size:
            made.append(
                Speed(
                    key=key,
                    series=f"{_engine(history)} on {machine(facts['hardware'])}",
                    batch_size=facts["batch_size"],
                    workers=facts["workers"],
                    samples_per_s=facts["batch_size"] / float(np.median(timed)),
                    seconds=seconds_to(history.samples, history.step_s, crossing.get(facts["trial_id"], nan)),
                    chosen=facts["trial_id"] in chosen,
                )
            )
    return tuple(sorted(made, key=lambda s: (s.batch_size, s.key)))


def seconds_to(samples: FloatArray, step_s: FloatArray, crossing: float) -> float:
    """Seconds of the steps up to `crossing` samples, with the share of the step that crosses; nan where none does.

    >>> seconds_to(np.array([10.0, 20.0, 30.0]), np.array([1.0, 1.0, 2.0]), 25.0)
    3.0
    """
    if not isfinite(crossing) or not samples.size or crossing > samples[-1]:
        return nan
    return float(np.interp(crossing, np.concatenate([[0.0], samples]), np.concatenate([[0.0], np.cumsum(step_s)])))


def machine(hardware: Mapping[str, Any]) -> str:
    """A machine in a few words, its accelerators first.

    >>> machine({"processor": "AMD EPYC", "cores": 2, "accelerators": []})
    'AMD EPYC, 2 cores'
    >>> machine({"processor": "AMD EPYC", "cores": 64, "accelerators": ["NVIDIA H100", "NVIDIA H100"]})
    '2 × NVIDIA H100'
    >>> machine({})
    'an unknown machine'
    """
    accelerators = [_accelerator(a) for a in hardware.get("accelerators") or ()]
    if accelerators:
        kinds = dict.fromkeys(accelerators)
        return brief(" + ".join(f"{accelerators.count(k)} × {k}" for k in kinds))
    processor = str(hardware.get("processor") or hardware.get("cpu") or "an unknown machine")
    cores = hardware.get("cores")
    return brief(f"{processor}, {cores} cores" if cores else processor)


def _accelerator(entry: object) -> str:
    return str(entry.get("name", "accelerator")) if isinstance(entry, Mapping) else str(entry)


def _engine(history: History) -> str:
    commit = history.trial.commit
    return str(commit["realisation"].get("engine", "run")) if commit else "run"


def series_of(found: Iterable[Speed]) -> tuple[str, ...]:
    """The distinct series, in order of appearance."""
    return tuple(dict.fromkeys(s.series for s in found))
