"""Every call that the benchmarks make into the package: where an interface changes, only this file does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from scaleexp import schema
from scaleexp.config import load_study
from scaleexp.engines.base import Engine, FloatArray, NoiseMeasurement
from scaleexp.engines.ddp import DdpEngine
from scaleexp.engines.packed import PackedEngine
from scaleexp.execute import Assignment, noise_cadence, run_packed
from scaleexp.launch.runner import Prepared, open_study, prepare
from scaleexp.laws import noise_estimates
from scaleexp.loop import Recipe, Signal, train_pack
from scaleexp.packing import packs
from scaleexp.resume import unfinished
from scaleexp.runlog import TrialLog, last_commit
from scaleexp.sampling import derived_seed, sample_order
from scaleexp.schedules import warmup_constant
from scaleexp.status import status_of
from scaleexp.storage import Store
from scaleexp.trial import Trial
from scaleexp.workloads.base import Workload
from scaleexp.workloads.classifier import Classifier
from scaleexp.workloads.quadratic import Quadratic
from scaleexp.writer import Writer
from tests.benchmarks.plain_loop import Arrays

SGD = {"name": "sgd", "momentum": 0.9}
NOISE_SHARDS = 8

__all__ = ["Classifier", "Engine", "Quadratic", "Trial", "Workload"]


# engines


def packed_engine(
    workload: Workload,
    seeds: Sequence[int],
    batch_size: int,
    *,
    optimizer: Mapping[str, Any] = SGD,
    like: PackedEngine | None = None,
) -> PackedEngine:
    """A pack at step 0, on one thread as a study runs it; by the choices of another if that is given."""
    return PackedEngine(
        workload,
        seeds=seeds,
        batch_size=batch_size,
        optimizer=optimizer,
        noise_shards=NOISE_SHARDS,
        threads=1,
        kernel="time",
        record=like.realisation if like else None,
    )


def ddp_engine(workload: Workload, batch_size: int, processes: int) -> DdpEngine:
    """One trial on the live process group, at step 0."""
    return DdpEngine(
        workload,
        seed=0,
        batch_size=batch_size,
        samples_at_once=batch_size // processes,
        optimizer=SGD,
        noise_shards=NOISE_SHARDS,
        device=torch.device("cpu"),
    )


def steps(
    engine: Engine, lr: Sequence[float], batch_size: int, *, count: int, first: int = 0, measure_every: int = 0
) -> list[FloatArray]:
    """Take `count` steps from step `first` on; their losses, shape (K,) each. `measure_every` 0: never measure."""
    rates = np.array(lr)
    return [
        engine.step(
            i * batch_size, (i + 1) * batch_size, rates, measure=measure_every > 0 and i % measure_every == 0
        ).loss
        for i in range(first, first + count)
    ]


def measured_step(engine: Engine, lr: Sequence[float], batch_size: int, *, step: int) -> NoiseMeasurement:
    """One step that measures noise."""
    found = engine.step(step * batch_size, (step + 1) * batch_size, np.array(lr), measure=True).noise
    assert found is not None
    return found


def noise_scale(found: Sequence[NoiseMeasurement], batch_size: int, data_size: int | None) -> tuple[float, float]:
    """(|G|^2, tr(Sigma)) of the first trial, each averaged over the steps, which are the first of the run."""
    small, big = (np.array([getattr(m, name)[0] for m in found]) for name in ("small", "big"))
    shards = np.array([m.shards for m in found])
    first = batch_size * np.arange(len(found))
    g_sq, tr_sigma = noise_estimates(small, big, shards, batch_size, data_size=data_size, first=first)
    return float(g_sq.mean()), float(tr_sigma.mean())


def default_cadence(engine: Engine, batch_size: int) -> int:
    """Steps between noise measurements of a study that does not say."""
    every, _ = noise_cadence(load_study("quickstart", ["noise={}"]), engine, batch_size)
    return every


def train_until(
    engine: Engine, lr: float, batch_size: int, *, noise_every: int, root: Path | None, stop: Callable[[], str]
) -> None:
    """The loop as a study runs it, without evaluations in between, until `stop` gives a reason; logged under root."""
    logged = root is not None and engine.leader
    endless = 1 << 50
    recipe = Recipe(
        batch_size=batch_size,
        limit_samples=endless,
        evaluate_every=endless,
        noise_every=noise_every,
        targets=(),
        schedule=lambda start, stop: warmup_constant(start, stop, warmup_samples=0),
    )
    with Writer() as writer:
        log = _log(root, batch_size, lr, engine.realisation, writer) if logged and root else None
        train_pack(engine, [lr], [log], recipe, lambda: Signal(stop()))


def _log(root: Path, batch_size: int, lr: float, realisation: Mapping[str, Any], writer: Writer) -> TrialLog:
    facts = {
        "trial_id": "benchmark",
        "realisation": "",
        "seed": 0,
        "batch_size": batch_size,
        "workers": 1,
        "micro_batch": batch_size,
        "accumulation_steps": 1,
        "lr": lr,
    }
    return TrialLog(Store(root), cast("schema.TrialFacts", facts), realisation, writer=writer)


# data and models, for the other side


def model(workload: Workload, seed: int) -> torch.nn.Module:
    """The model that a trial of this seed starts from."""
    return workload.model(derived_seed(seed, "init"))


def arrays(workload: Workload, seed: int, samples: int) -> Arrays:
    """The data in memory and the order in which a trial of this seed eats them."""
    assert isinstance(workload, Classifier)
    assert workload.n_train is not None
    order = sample_order(0, samples, seed=derived_seed(seed, "data"), size=workload.n_train)
    x_eval, y_eval = workload.eval_batch(0, workload.n_eval)
    return Arrays(x=workload._x, y=workload._y, x_eval=x_eval, y_eval=y_eval, order=torch.from_numpy(order))


def batch(workload: Workload, seed: int, start: int, stop: int) -> tuple[torch.Tensor, ...]:
    """Samples of a trial of this seed."""
    return workload.batch(derived_seed(seed, "data"), start, stop)


# studies


def prepared(overrides: Sequence[str], study: str = "quickstart") -> Prepared:
    """A study with overrides, planned."""
    return prepare(load_study(study, overrides))


def study_packs(study: Prepared, slots: int) -> list[tuple[Trial, ...]]:
    """Its packs, the dearest first."""
    return packs(study.plan.trials, slots=slots)


def run_pack(overrides: Sequence[str], root: Path, pack: Sequence[Trial]) -> None:
    """Train a pack of the study in this process, on one thread, logged under root."""
    study = load_study("quickstart", overrides)
    assignment = Assignment(
        study=study,
        targets=_targets(study),
        root=str(root),
        git_sha=None,
        deadline=None,
        deadline_cause="",
    )
    run_packed(assignment, pack, threads=1)


def _targets(study: Any) -> tuple[schema.Target, ...]:
    from scaleexp.plan import directed_targets

    return tuple(directed_targets(study, Classifier.metrics))


def run_command(overrides: Sequence[str], root: Path) -> list[str]:
    """The command that runs the quickstart with overrides."""
    options = [word for override in overrides for word in ("--set", override)]
    return [sys.executable, "-m", "scaleexp", "run", "quickstart", "--storage", str(root), "--yes", *options]


def command(*words: str) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", *words]


def options_of(overrides: Sequence[str]) -> list[str]:
    """Overrides of a study as options of a command."""
    return [word for override in overrides for word in ("--set", override)]


def status(root: Path) -> dict[str, int]:
    """Trials by status, as `scaleexp status` finds them."""
    return status_of(Store(root))["trials"]


def still_to_run(root: Path, study: Prepared) -> int:
    """Trials that a run would go on with."""
    return len(unfinished(Store(root), study.plan.trials, study.targets))


@dataclass(frozen=True, kw_only=True)
class Watched(Assignment):
    """An assignment that says after which steps it is, counted over all trials, without changing anything."""

    each_step: Callable[[], None]

    def stop(self) -> str:
        """As any."""
        self.each_step()
        return super().stop()


def run_watched(overrides: Sequence[str], root: Path, each_step: Callable[[], None]) -> str:
    """Run a study of the quadratic in this process as a worker does; the key of its only trial."""
    study = load_study("quadratic", overrides)
    planned = prepare(study)
    store = open_study(planned, root)
    work = Watched(
        study=study,
        targets=planned.targets,
        root=store.root,
        git_sha=None,
        deadline=None,
        deadline_cause="",
        each_step=each_step,
    )
    run_packed(work, planned.plan.trials, threads=1)
    (trial,) = planned.plan.trials
    return trial.key


def committed(root: Path, key: str) -> schema.Commit:
    """The last commit of a trial."""
    found = last_commit(Store(root), key)
    assert found is not None
    return found


def endings(root: Path, trials: Sequence[Trial]) -> dict[str, int]:
    """Steps that each trial took, by key."""
    store = Store(root)
    commits = {t.key: last_commit(store, t.key) for t in trials}
    return {key: commit["step"] for key, commit in commits.items() if commit}
