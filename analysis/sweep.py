"""The runs of one recipe against one target, wherever they were recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from analysis.equal_samples import Trace
from analysis.targets import Run
from scaleexp.errors import ConfigError

SAMPLES = "samples"
BRANCH = "branch_samples"
"""Column that says where a branch began, counted as the batch size is."""

GroupValue = str | float | int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A batch-size sweep: the runs of one group against one target.

    Attributes:
        group: what distinguishes these runs from those of other sweeps; empty for the only one of its source.
        metric: what the target is a value of; empty where the source does not say.
        direction: how the target is met; None where the source does not say.
        target: value of the metric; None where the source does not say.
        unit: what the batch size counts (example, token, ...); empty where the source does not say.
        cost_unit: "samples" where `Run.samples` counts the same things as the batch size, so that their ratio is a
            number of steps; otherwise what it counts (epochs, tokens, ...), and steps are known up to a factor only.
        runs: every run, censored ones included. An LR of 0 is one that the source does not know.
        provenance: where the runs come from.
        problems: one sentence for each thing that was left out, or used instead of what was meant.
        traces: the runs with their evaluations, for what is compared at equal samples; empty where the source has none.
    """

    group: Mapping[str, GroupValue]
    metric: str
    direction: Literal["min", "max"] | None
    target: float | None
    unit: str
    cost_unit: str
    runs: tuple[Run, ...]
    provenance: Mapping[str, object]
    problems: tuple[str, ...] = ()
    traces: tuple[Trace, ...] = ()

    @property
    def counts_samples(self) -> bool:
        """Whether cost over batch size is a number of steps."""
        return self.cost_unit == SAMPLES

    @property
    def knows_lr(self) -> bool:
        """Whether the source says the learning rate of every run."""
        return all(run.lr > 0.0 for run in self.runs)

    @property
    def is_study(self) -> bool:
        """Whether a study's log is where the runs come from."""
        return "study" in self.provenance


def group_text(group: Mapping[str, GroupValue]) -> str:
    """A group in words.

    >>> group_text({"benchmark": "rgat", "n_params": 70000}), group_text({})
    ('benchmark rgat, n_params 70000', '')
    """
    return ", ".join(f"{name} {value}" for name, value in group.items())


def pooled(sweeps: Iterable[Sweep]) -> tuple[Sweep, ...]:
    """Sweeps of the same group and target as one, in order of first appearance.

    Runs of different sources share no randomness, so each source's seeds are counted on from the last one's.

    Raises:
        ConfigError: sources of one group disagree on what they measure.
    """
    together: dict[tuple[object, ...], Sweep] = {}
    for sweep in sweeps:
        key = (tuple(sweep.group.items()), sweep.metric, sweep.target)
        together[key] = _joined(together[key], sweep) if key in together else sweep
    return tuple(together.values())


def _joined(first: Sweep, second: Sweep) -> Sweep:
    for what in ("cost_unit", "unit", "direction"):
        ours, theirs = getattr(first, what), getattr(second, what)
        if ours != theirs:
            where = f"the group {group_text(first.group)}" if first.group else "the runs"
            raise ConfigError(
                f"{where} of {first.provenance.get('path')} and of {second.provenance.get('path')} differ in "
                f"{what.replace('_', ' ')}: {ours!r} and {theirs!r}; group by a column that keeps them apart."
            )
    after = max(_seeds(first)) + 1 - min(_seeds(second))
    sources = [*source_paths(first), *source_paths(second)]
    return replace(
        first,
        runs=first.runs + tuple(replace(run, seed=run.seed + after) for run in second.runs),
        traces=first.traces + tuple(trace.with_seed(trace.seed + after) for trace in second.traces),
        provenance={**first.provenance, "pooled": sources},
        problems=tuple(dict.fromkeys(first.problems + second.problems)),
    )


def _seeds(sweep: Sweep) -> set[int]:
    return {run.seed for run in sweep.runs} | {trace.seed for trace in sweep.traces}


def source_paths(sweep: Sweep) -> list[object]:
    """Where the runs of a sweep were read from; several for a pooled one."""
    already = sweep.provenance.get("pooled")
    return list(already) if isinstance(already, list) else [sweep.provenance.get("path")]
