"""A trial and a plan, as facts: what is run, and what it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from scaleexp.schema import SCHEMA_VERSION, PlanFile, PlannedTrial, RuleLabel, Target, trial_key

if TYPE_CHECKING:
    from scaleexp.trial_context import TrialContext

Engine = Literal["packed", "ddp", "entrypoint", "command"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of the grid, in one realisation.

    Attributes:
        trial_id: content hash of what changes the mathematics.
        realisation: empty for the first way it is run, else its name, such as `ddp-2`.
        seed: of data order and initialisation.
        batch_size: B = micro_batch x accumulation_steps x workers [samples].
        workers: data-parallel workers, real or virtual.
        micro_batch: samples a worker passes through the model at once.
        accumulation_steps: micro-batches per worker and step.
        lr: peak LR.
        engine: packed (virtual workers), ddp (real ones), or how a user's own script is started: entrypoint or command.
        processes: that share its workers: 1 for packed, one each for a script.
        limit_samples: where it ends without its target [samples].
        statistics_group: samples that share batch-norm statistics; None for a model without.
    """

    trial_id: str
    realisation: str
    seed: int
    batch_size: int
    workers: int
    micro_batch: int
    accumulation_steps: int
    lr: float
    engine: Engine
    processes: int
    limit_samples: int
    statistics_group: int | None = None

    @property
    def key(self) -> str:
        """Name of its directory, `id` or `id@realisation`."""
        return trial_key(self.trial_id, self.realisation)

    @property
    def real(self) -> bool:
        """Whether its workers are processes, each with a CPU or GPU of its own."""
        return self.engine != "packed"

    @property
    def scripted(self) -> bool:
        """Whether a user's own script trains it."""
        return self.engine in ("entrypoint", "command")

    @property
    def limit_steps(self) -> int:
        """Steps that fit into the limit."""
        return self.limit_samples // self.batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The trials of a study and what they stand for.

    Attributes:
        study: its name.
        question: what it asks.
        base_batch_size: B_base that kappa refers to [samples].
        base_lr: LR tuned there.
        trials: by batch, LR, seed; second realisations last.
        labels: which trials a rule stands for, by batch and rule.
    """

    study: str
    question: str
    base_batch_size: int
    base_lr: float
    trials: tuple[Trial, ...]
    labels: tuple[RuleLabel, ...]

    def to_file(self, targets: Sequence[Target], *, unit: str = "example") -> PlanFile:
        """Content of `plan/NNNN.json`.

        Args:
            targets: with the direction that the workload gives each metric (see `directed_targets`).
            unit: what a sample is: example or token.
        """
        return PlanFile(
            schema_version=SCHEMA_VERSION,
            study=self.study,
            question=self.question,
            targets=list(targets),
            base_batch_size=self.base_batch_size,
            base_lr=self.base_lr,
            unit=unit,
            trials=[planned_trial(trial) for trial in self.trials],
            rules=list(self.labels),
        )


def planned_trial(trial: Trial | TrialContext) -> PlannedTrial:
    """What a plan, trial.json and the script that trains it all say of a trial."""
    return PlannedTrial(
        trial_id=trial.trial_id,
        realisation=trial.realisation,
        seed=trial.seed,
        batch_size=trial.batch_size,
        workers=trial.workers,
        micro_batch=trial.micro_batch,
        accumulation_steps=trial.accumulation_steps,
        lr=trial.lr,
    )
