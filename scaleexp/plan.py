"""From a study to its trials: which batches, which learning rates, which seeds, each once.

study -> lr_grid (LRs of one batch, and which rule stands where) -> make_plan (trials, labels) -> packing.packs
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import sqrt
from typing import Literal

from scaleexp.config import Study
from scaleexp.errors import ConfigError
from scaleexp.own_script import identity
from scaleexp.packing import packs
from scaleexp.plan_rows import plan_document, plan_table
from scaleexp.plan_table import render_plan
from scaleexp.scaling_rules import scaled_lr
from scaleexp.schema import RuleLabel, Target
from scaleexp.study_parts import RealisationSpec, as_trained
from scaleexp.trial import Engine, Plan, Trial
from scaleexp.trial_id import content_hash

__all__ = [
    "MAX_TRIALS",
    "Engine",
    "Plan",
    "Trial",
    "content_hash",
    "directed_targets",
    "lr_grid",
    "make_plan",
    "packs",
    "plan_document",
    "plan_table",
    "render_plan",
]

LR_RANGE = (1e-20, 1e20)
"""Outside, a learning rate is a typing error: in float32 its updates vanish or overflow."""
MAX_TRIALS = 100_000
"""A study with more trials is a typing error."""


def directed_targets(study: Study, metrics: Mapping[str, Literal["min", "max"]]) -> list[Target]:
    """The study's targets with the workload's directions or a script's own, values from the easiest to the hardest."""
    directions = {target.metric: target.direction or metrics[target.metric] for target in study.targets}
    return [
        Target(
            metric=target.metric,
            values=sorted(set(target.values), reverse=directions[target.metric] == "min"),
            direction=directions[target.metric],
        )
        for target in study.targets
    ]


def lr_grid(study: Study, kappa: float) -> tuple[tuple[float, ...], dict[str, float]]:
    """LRs to run at a batch kappa times the base batch, and the LR of each rule among them.

    The grid is base.lr sqrt(kappa) x lr_multipliers. A rule whose LR lies within `lr_snap` of a grid LR takes its
    place, so that the rule runs at its exact LR without a near-duplicate; any other rule's LR is added.

    Returns:
        (LRs ascending, rule -> LR).
    """
    centre = study.base.lr * sqrt(kappa)
    rule_lrs = {rule: as_trained(scaled_lr(rule, study.base.lr, kappa)) for rule in study.lr_rules}
    lrs = {as_trained(centre * multiplier) for multiplier in study.lr_multipliers}
    # The grid's centre stays: it is the square-root rule, labelled or not.
    for lr in (*lrs, *rule_lrs.values()):
        if not LR_RANGE[0] <= lr <= LR_RANGE[1]:
            raise ConfigError(f"A learning rate of {lr:g} is on the grid; give a base.lr whose grid stays sensible.")
    taken = {as_trained(centre), *rule_lrs.values()}
    for lr in sorted(set(rule_lrs.values()) - lrs):
        free = [grid_lr for grid_lr in lrs - taken if abs(grid_lr - lr) <= study.lr_snap * lr]
        lrs -= {min(free, key=lambda grid_lr: abs(grid_lr - lr))} if free else set()
        lrs.add(lr)
    return tuple(sorted(lrs)), rule_lrs


def make_plan(study: Study, data_sha256: str, *, has_batch_norm: bool = False) -> Plan:
    """Trials of a study: every batch, every LR of its grid, every seed; then the second realisations.

    Args:
        study: the study.
        data_sha256: of the data that its workload reads.
        has_batch_norm: whether the workload's model has; then the samples that share its statistics are part of a
            trial's id.

    Raises:
        ConfigError: if there are more than `MAX_TRIALS` trials, a second realisation would be another trial, or
            batch norm is in the model and not in the study, or the other way round.
    """
    _refuse_endless(study)
    _check_batch_norm(study, has_batch_norm)
    micro_batch, accumulation_steps = study.split
    trials: dict[str, Trial] = {}
    labels: list[RuleLabel] = []
    for workers in sorted(study.workers):
        batch_size = micro_batch * accumulation_steps * workers
        kappa = batch_size / study.base.batch_size
        lrs, rule_lrs = lr_grid(study, kappa)
        group = statistics_group(study, batch_size, workers)
        engine: Engine = study.script or ("ddp" if study.engine == "ddp" else "packed")
        ids: dict[float, list[str]] = {}
        for lr in lrs:
            for seed in study.seeds:
                trial = Trial(
                    trial_id=_trial_id(study, data_sha256, lr, seed, batch_size, group),
                    realisation="",
                    seed=seed,
                    batch_size=batch_size,
                    workers=workers,
                    micro_batch=micro_batch,
                    accumulation_steps=accumulation_steps,
                    lr=lr,
                    engine=engine,
                    processes=1 if engine == "packed" else min(workers, study.processes or workers),
                    limit_samples=study.limits.samples,
                    statistics_group=group,
                )
                trials.setdefault(trial.key, trial)
                ids.setdefault(lr, []).append(trial.trial_id)
        labels += [
            RuleLabel(rule=rule, batch_size=batch_size, kappa=kappa, lr=lr, trial_ids=ids[lr])
            for rule, lr in rule_lrs.items()
        ]
    for spec in study.realisations:
        second = _second_realisation(study, spec, trials.values())
        trials[second.key] = second
    return Plan(
        study=study.name,
        question=study.question,
        base_batch_size=study.base.batch_size,
        base_lr=study.base.lr,
        trials=tuple(trials.values()),
        labels=tuple(labels),
    )


def _refuse_endless(study: Study) -> None:
    """Count before building."""
    lrs_at_most = len(study.lr_multipliers) + len(study.lr_rules)
    at_most = len(study.workers) * lrs_at_most * len(study.seeds)
    if at_most > MAX_TRIALS:
        raise ConfigError(
            f"The study {study.name!r} spans up to {at_most:,} trials ({len(study.workers)} batches x "
            f"{lrs_at_most} LRs x {len(study.seeds)} seeds); at most {MAX_TRIALS:,} are planned, "
            "so thin out workers, LRs or seeds."
        )


def _check_batch_norm(study: Study, has_batch_norm: bool) -> None:
    if has_batch_norm and study.batch_norm is None:
        raise ConfigError(
            f"The model of workload {study.workload.name!r} has batch norm, and whose samples share its statistics "
            "changes the result: set batch_norm to worker, sync, or a number of samples (ghost batch norm)."
        )
    if study.batch_norm is not None and not has_batch_norm:
        raise ConfigError(
            f"batch_norm is {study.batch_norm!r} and the model of workload {study.workload.name!r} has no batch norm: "
            "leave it out."
        )


def statistics_group(study: Study, batch_size: int, workers: int) -> int | None:
    """Samples that share batch-norm statistics at this batch; None if the study has no batch norm."""
    match study.batch_norm:
        case "worker":
            return batch_size // workers
        case "sync":
            return batch_size
        case group:
            return group


def _trial_id(study: Study, data_sha256: str, lr: float, seed: int, batch_size: int, group: int | None) -> str:
    return content_hash(
        workload=identity(study),
        data_sha256=data_sha256,
        optimizer=study.optimizer.model_dump(mode="json"),
        lr=lr,
        batch_size=batch_size,
        dtype=study.dtype,
        seed=seed,
        warmup_samples=study.warmup_samples,
        statistics_group=group,
    )


def _second_realisation(study: Study, spec: RealisationSpec, trials: Iterable[Trial]) -> Trial:
    """The grid's trial that `spec` points to, as it is to be run a second time."""
    kappa = spec.batch_size / study.base.batch_size
    lr = as_trained(scaled_lr(spec.rule, study.base.lr, kappa))
    seed = study.seeds[0] if spec.seed is None else spec.seed
    wanted = (spec.batch_size, lr, seed)
    first = next(trial for trial in trials if (trial.batch_size, trial.lr, trial.seed) == wanted)
    if study.batch_norm == "worker" and spec.workers != first.workers:
        raise ConfigError(
            f"The realisation {spec.label!r} of batch {spec.batch_size} cannot repeat a trial of {first.workers} "
            f"workers: with batch_norm: worker its statistics depend on them; ask for {first.workers}."
        )
    micro_batch, accumulation_steps = _split_for(study, spec)
    if isinstance(study.batch_norm, int) and micro_batch % study.batch_norm:
        raise ConfigError(
            f"The realisation {spec.label!r} gives each worker {micro_batch} samples at once, no whole groups of "
            f"{study.batch_norm} (batch_norm): ask for fewer workers."
        )
    return replace(
        first,
        realisation=spec.label,
        workers=spec.workers,
        micro_batch=micro_batch,
        accumulation_steps=accumulation_steps,
        engine=spec.engine,
        processes=(spec.processes or spec.workers) if spec.engine == "ddp" else 1,
    )


def _split_for(study: Study, spec: RealisationSpec) -> tuple[int, int]:
    """(micro_batch, accumulation_steps): the study's micro_batch where it set one and it fits, else none at all."""
    worker_batch = spec.batch_size // spec.workers
    if study.micro_batch is not None and worker_batch % study.micro_batch == 0:
        return study.micro_batch, worker_batch // study.micro_batch
    return worker_batch, 1
