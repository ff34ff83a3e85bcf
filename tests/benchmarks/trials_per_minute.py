"""Trials per minute of the quickstart grid: our study runner against what else a person would use.

(a) `ratio`: Ray Tune with one TorchTrainer per trial. Ours is the whole command `scaleexp run quickstart`, from the
    start of the process to its end: imports, Ray, plan, log, the trial on real workers. The other side is a Tune driver
    from start to end on a few of the same trials, carried on to as many trials as the study has at the pace that it
    shows after its first wave, so that its start, too, is spread over all of them.
(b) `ratio_b_MODEL`: a hand-written loop in plain torch, two processes that each take the next trial. Ours trains the
    same trials in packs, in the same two processes. The start of the processes is left out on both sides; building the
    models is in on both, and so are our log and whatever each pack reads anew.

ratio = ours / theirs in trials per minute. Both sides train the same trials from the same weights on the same samples,
evaluate at the same cadence and stop by the same rule; `same_endings` is the share of trials that stopped at the same
step (float32 rounding moves some at high learning rates).
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import ours
from tests.benchmarks.harness import ALTERNATIONS, Ratio, Seconds, alternate, options, ratio, report, seconds_of, told
from tests.benchmarks.plain_loop import Arrays, Ending, Job, losses, train
from tests.benchmarks.processes import environment, module_json, run

BAR_TUNE = 15.0
TUNE_ALTERNATIONS = 3
TUNE_TRIALS = 6
PROCESSES = 2
NO_REAL_WORKERS = "realisations=[]"
QUICK = [NO_REAL_WORKERS, "workers=[16, 64]", "seeds=1", "lr_multipliers={count: 3, span: 4}"]

SUBSETS: dict[str, tuple[float, list[str]]] = {
    "mlp": (1.3, []),
    "cnn": (
        0.95,
        ["workers=[16]", "workload.model=cnn", "workload.hidden=[8, 16]", "seeds=[0, 1]", "limits.samples=12288"],
    ),
    "transformer": (
        0.95,
        [
            "workers=[4]",
            "workload.model=tests.benchmarks.models:transformer",
            "workload.hidden=[64, 64]",
            "workload.held_out=200",
            "seeds=[0]",
            "limits.samples=6144",
            "base.lr=0.05",
        ],
    ),
}
"""Model -> (bar, overrides of the quickstart): the whole grid, or a few seconds of work for each side."""
WHOLE_GRID_ALTERNATIONS = 4  # of half a minute a side, against a bar far from 1


# (a)


def against_tune(overrides: Sequence[str], *, alternations: int, trials: int) -> tuple[Ratio, dict[str, Any]]:
    """The whole command against Tune with one TorchTrainer per trial, both for as many trials as the study has."""
    study = ours.prepared(overrides)
    total = len(study.plan.trials)
    found: list[dict[str, Any]] = []
    ended: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as directory:
        numbered = count()

        def command() -> None:
            root = Path(directory) / f"study-{next(numbered)}"
            run(ours.run_command(overrides, root), env=environment())
            ended.update(ours.endings(root, study.plan.trials))
            assert len(ended) == total, f"{total - len(ended)} trials did not end"

        def tune() -> Seconds:
            found.append(module_json("tune_baseline", "--trials", str(trials), *overrides))
            return Seconds(carried_on(found[-1]["ended_s"], found[-1]["seconds"], found[-1]["concurrent"], total))

        command_s, tune_s = alternate(command, tune, alternations, warm_up=0)
    more = {
        "trials": total,
        "tune_trials_run": trials,
        "tune_alternations": alternations,
        "ours_trials_per_minute": 60 * total / float(np.median(command_s)),
        "tune_trials_per_minute": 60 * total / float(np.median(tune_s)),
        "same_endings_tune": float(np.mean([ended[key] == steps for key, steps in found[-1]["endings"].items()])),
    }
    return ratio(tune_s, command_s, bar=BAR_TUNE), more


def carried_on(ended_s: Sequence[float], seconds: float, concurrent: int, total: int) -> float:
    """Seconds of `total` trials of a driver that ended its first ones at these times, at the pace after the first wave.

    >>> carried_on([10.0, 10.5, 15.0, 15.5], 17.0, concurrent=2, total=8)
    27.0
    """
    first_wave, last = sorted(ended_s)[concurrent - 1], max(ended_s)
    return seconds + (total - len(ended_s)) * (last - first_wave) / (len(ended_s) - concurrent)


# (b): the two functions below run in the processes of a pool


@cache
def _held(overrides: tuple[str, ...]) -> Any:
    return ours.prepared(overrides)


@cache
def _data(overrides: tuple[str, ...], seed: int, samples: int) -> Arrays:
    return ours.arrays(_held(overrides).workload, seed, samples)


def _ready(overrides: tuple[str, ...]) -> None:
    """Bring a process to where both sides begin: modules imported, data and orders in memory, one thread."""
    import torch

    torch.set_num_threads(1)
    study = _held(overrides)
    for trial in study.plan.trials:
        _data(overrides, trial.seed, trial.limit_samples)


def _by_hand(task: tuple[tuple[str, ...], ours.Trial]) -> tuple[str, Ending]:
    """One trial by the hand-written loop."""
    overrides, trial = task
    data = _data(overrides, trial.seed, trial.limit_samples)
    return trial.key, train(ours.model(_held(overrides).workload, trial.seed), data, job(_held(overrides), trial))


def _packed(task: tuple[tuple[str, ...], Path, Sequence[ours.Trial]]) -> None:
    """One pack by ours."""
    ours.run_pack(*task)


def job(study: Any, trial: ours.Trial) -> Job:
    """A trial as the hand-written loop takes it."""
    return Job(
        batch_size=trial.batch_size,
        lr=trial.lr,
        limit_samples=trial.limit_samples,
        evaluate_every=study.study.evaluation.every_samples,
        target=study.targets[0]["values"][-1],
    )


@contextmanager
def pool(overrides: tuple[str, ...]) -> Iterator[Any]:
    """Two fresh processes, brought to the start."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES, _ready, (overrides,)) as processes:
        yield processes


def against_hand(bar: float, overrides: tuple[str, ...], *, alternations: int) -> tuple[Ratio, dict[str, Any]]:
    """Packs against the hand-written loop, on all trials of these overrides."""
    study = ours.prepared(overrides)
    check_same_losses(study)
    packs = ours.study_packs(study, PROCESSES)
    dearest_first = sorted(study.plan.trials, key=lambda t: t.limit_steps, reverse=True)
    by_hand: dict[str, Ending] = {}
    with tempfile.TemporaryDirectory() as directory, pool(overrides) as processes:
        root = Path(directory) / "study"

        def packed() -> Seconds:
            shutil.rmtree(root, ignore_errors=True)
            return seconds_of(lambda: processes.map(_packed, [(overrides, root, p) for p in packs], chunksize=1))

        def hand() -> None:
            tasks = [(overrides, trial) for trial in dearest_first]
            by_hand.update(processes.imap_unordered(_by_hand, tasks, chunksize=1))

        packed()
        hand()
        facts = same_work(ours.endings(root, study.plan.trials), by_hand)
        packed_s, hand_s = alternate(packed, hand, alternations, warm_up=0)
    return ratio(hand_s, packed_s, bar=bar), facts


def same_work(ended: dict[str, int], by_hand: dict[str, Ending]) -> dict[str, Any]:
    """Both sides stopped the same trials at the same steps, but for the few that rounding moves."""
    assert ended.keys() == by_hand.keys()
    same = float(np.mean([ended[key] == ending.steps for key, ending in by_hand.items()]))
    work = sum(ended.values()) / sum(ending.steps for ending in by_hand.values())
    assert same > 0.7, f"only {same:.0%} of the trials stopped at the same step"
    assert 0.9 < work < 1.1, f"our trials took {work:.2f} times the steps"
    return {"trials": len(by_hand), "same_endings": same, "steps_ratio": work}


def check_same_losses(study: Any, steps: int = 20) -> None:
    """Both sides give the same training losses to rounding, at the lowest learning rate."""
    trial = min(study.plan.trials, key=lambda t: (t.lr, t.batch_size))
    data = ours.arrays(study.workload, trial.seed, steps * trial.batch_size)
    expected = losses(ours.model(study.workload, trial.seed), data, job(study, trial), steps)
    engine = ours.packed_engine(study.workload, [trial.seed], trial.batch_size, optimizer={"name": "sgd"})
    found = ours.steps(engine, [trial.lr], trial.batch_size, count=steps)
    np.testing.assert_allclose(np.ravel(found), expected, rtol=1e-3)


def main() -> None:
    """Both comparisons."""
    parser = options(__doc__)
    parser.add_argument("--only", choices=["tune", *SUBSETS], help="one comparison; the others are null")
    arguments = parser.parse_args()
    quick, only = arguments.quick, arguments.only
    headline: Ratio | None = None
    others: dict[str, Ratio] = {}
    more: dict[str, Any] = {}
    for model, (bar, subset) in SUBSETS.items():
        if only in (None, model):
            overrides = (NO_REAL_WORKERS, *subset, *(["limits.samples=512"] if quick else []))
            label = f"b_{model}"
            alternations = 2 if quick else ALTERNATIONS if subset else WHOLE_GRID_ALTERNATIONS
            others[label], facts = against_hand(bar, overrides, alternations=alternations)
            more |= {f"{name}_{label}": value for name, value in facts.items()}
            print(f"{label}: {told(others[label])} {facts}", flush=True)
    if only in (None, "tune"):
        headline, facts = against_tune(
            QUICK if quick else [],
            alternations=1 if quick else TUNE_ALTERNATIONS,
            trials=3 if quick else TUNE_TRIALS,
        )
        more |= facts
        print(f"tune: {told(headline)} {facts}", flush=True)
    report("trials_per_minute", headline, others, **more)


if __name__ == "__main__":
    main()
