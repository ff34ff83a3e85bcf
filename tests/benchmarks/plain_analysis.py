"""A study's critical batch size with pandas and scipy alone, as one would write it for oneself in an afternoon.

The same numbers as the package's: the first confirmed crossing of every run, the learning rate with the fewest median
steps at every batch, the geometric mean over its seeds, the curve, an interval from resampled seeds with the learning
rate chosen anew; and the noise scale of every batch over training. No checks of what was read, no verdicts, no figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

EVALS = ["trial_id", "batch_size", "lr", "seed", "samples", "metric", "value"]
STEPS = ["trial_id", "batch_size", "samples", "grad_sq_small", "grad_sq_big", "shards"]
WINDOWS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """Its answer.

    Attributes:
        b_crit: [samples].
        interval: (low, high) [samples].
        steps: aggregate steps to target by batch size.
        noise: noise scale [samples] by batch size and window of training.
    """

    b_crit: float
    interval: tuple[float, float]
    steps: pd.Series
    noise: pd.Series


def plain_analysis(root: Path, metric: str, target: float, resamples: int, *, one_by_one: bool) -> Plain:
    """Analyse the finished trials of a study.

    Args:
        root: of the study.
        metric: counts steps to `target` of this.
        target: met from above.
        resamples: of the bootstrap.
        one_by_one: whether every file is a read of its own; else pandas is given the list of all.
    """
    evals = _read(root.glob("trials/*/evals.parquet"), EVALS, one_by_one)
    steps = _read(root.glob("trials/*/steps.parquet"), STEPS, one_by_one)
    runs = _steps_to_target(evals[evals["metric"] == metric], target)
    tables = {
        B: of_batch.pivot(index="lr", columns="seed", values="steps") for B, of_batch in runs.groupby("batch_size")
    }
    best_lr = {B: table.median(axis=1).idxmin() for B, table in tables.items()}
    tuned = pd.Series({B: _geometric_mean(table.loc[best_lr[B]]) for B, table in tables.items()})
    b_crit = _b_crit(tuned)
    rng = np.random.default_rng(0)
    drawn = [_b_crit(_resampled(tables, rng)) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.05, 0.95])
    best = runs[runs["lr"] == runs["batch_size"].map(best_lr)]
    return Plain(
        b_crit=b_crit,
        interval=(float(low), float(high)),
        steps=tuned,
        noise=_noise_scale(steps[steps["trial_id"].isin(best["trial_id"])]),
    )


def _read(files: Iterable[Path], columns: list[str], one_by_one: bool) -> pd.DataFrame:
    if one_by_one:
        return pd.concat((pd.read_parquet(file, columns=columns) for file in sorted(files)), ignore_index=True)
    return pd.read_parquet([str(file) for file in sorted(files)], columns=columns)


def _steps_to_target(evals: pd.DataFrame, target: float) -> pd.DataFrame:
    """One row per run; a run that never confirmed the target took infinitely many steps."""
    rows = []
    for trial_id, run in evals.groupby("trial_id"):
        run = run.sort_values("samples")
        samples, values = run["samples"].to_numpy(), run["value"].to_numpy()
        batch_size, lr, seed = run["batch_size"].iloc[0], run["lr"].iloc[0], run["seed"].iloc[0]
        rows.append((trial_id, batch_size, lr, seed, _crossing(samples, values, target) / batch_size))
    return pd.DataFrame(rows, columns=["trial_id", "batch_size", "lr", "seed", "steps"])


def _crossing(samples: np.ndarray, values: np.ndarray, target: float) -> float:
    met = values <= target
    confirmed = np.flatnonzero(met[:-1] & met[1:])
    if not confirmed.size:
        return np.inf
    i = confirmed[0]
    if i == 0:
        return float(samples[0])
    share = (target - values[i - 1]) / (values[i] - values[i - 1])
    return float(samples[i - 1] + (samples[i] - samples[i - 1]) * share)


def _geometric_mean(steps: pd.Series) -> float:
    return float(np.exp(np.log(steps).mean()))


def _curve(log_b: np.ndarray, log_s_min: float, log_b_crit: float) -> np.ndarray:
    return log_s_min + np.logaddexp(0.0, log_b_crit - log_b)


def _b_crit(tuned: pd.Series) -> float:
    x, y = np.log(tuned.index.to_numpy(dtype=float)), np.log(tuned.to_numpy())
    (_, log_b_crit), _ = curve_fit(_curve, x, y, p0=(y.min(), x.mean()))
    return float(np.exp(log_b_crit))


def _resampled(tables: dict[int, pd.DataFrame], rng: np.random.Generator) -> pd.Series:
    """Seeds drawn anew within each batch, for all its learning rates together, and the best of those chosen anew."""
    steps = {}
    for B, table in tables.items():
        sample = table.iloc[:, rng.integers(table.shape[1], size=table.shape[1])]
        steps[B] = _geometric_mean(sample.loc[sample.median(axis=1).idxmin()])
    return pd.Series(steps)


def _noise_scale(steps: pd.DataFrame) -> pd.Series:
    """tr(Sigma) / |G|^2 of each batch size in windows of log samples (McCandlish et al. 2018, appendix A.1)."""
    steps = steps.dropna()
    B, n, small, big = (steps[name] for name in ("batch_size", "shards", "grad_sq_small", "grad_sq_big"))
    tr_sigma = B * (small - big) / (n - 1)
    log_samples = np.log(steps["samples"])
    window = log_samples.groupby(B).transform(lambda x: pd.cut(x, WINDOWS, labels=False))
    means = (
        pd.DataFrame({"tr": tr_sigma, "g": big - tr_sigma / B, "window": window, "B": B})
        .groupby(["B", "window"])
        .mean()
    )
    return means["tr"] / means["g"]
