"""The loss of the curve: plain reproduces, Huber's shrugs at a batch far off, weighted trusts what seeds agree on."""

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from scipy.optimize import least_squares

import analysis
from analysis.cbs import CurveFit, fit_curve
from analysis.choices import multiverse_of
from analysis.cli import main
from analysis.curve_loss import batch_weights
from analysis.defaults import LOSSES, Loss
from analysis.output import schema_of
from analysis.targets import Run, batch_points
from scaleexp.errors import ConfigError
from tests.study_factory import write_study
from tests.test_coverage import run

B = 2.0 ** np.arange(4, 12)
B_CRIT, S_MIN = 256.0, 500.0


def sweep(noises: np.ndarray, seeds: int, seed: int = 0, factors: np.ndarray | float = 1.0) -> list[Run]:
    """Runs of a true curve, every batch with its own noise over seeds, and a factor on all of its runs."""
    rng = np.random.default_rng(seed)
    true = S_MIN * (1.0 + B_CRIT / B) * factors
    steps = true[:, None] * np.exp(noises[:, None] * rng.standard_normal((B.size, seeds)))
    return [run(int(b), 0.1, i, float(s)) for b, row in zip(B, steps, strict=True) for i, s in enumerate(row)]


def fitted(runs: list[Run], loss: Loss, **options: float) -> CurveFit:
    return fit_curve(batch_points(runs)[0], runs, loss=loss, **options)  # type: ignore[arg-type]


def off(fit: CurveFit) -> float:
    return abs(math.log(fit.b_crit / B_CRIT))


def test_one_batch_far_off_the_curve_moves_hubers_fit_least() -> None:
    factors = np.where(B == 32, 1.8, 1.0)
    runs = sweep(np.full(B.size, 0.02), 3, factors=factors)
    assert off(fitted(runs, "huber")) < 0.05
    assert off(fitted(runs, "linear")) > 0.2
    assert fitted(runs, "huber").rms_log_residual > fitted(runs, "linear").rms_log_residual


def test_weights_are_the_inverse_variance_of_each_batchs_mean() -> None:
    noises = np.where(B < 1000, 0.02, 0.2)
    points = batch_points(sweep(noises, 400))[0]
    weights = batch_weights(points)
    assert weights.mean() == pytest.approx(1.0)
    assert weights / weights[-1] == pytest.approx((noises[-1] / noises) ** 2, rel=0.35)
    more = [point.runs[: 100 if point.batch_size == 16 else 400] for point in points]
    fewer = batch_weights(batch_points([r for of in more for r in of])[0])
    assert fewer[0] / fewer[1] == pytest.approx(0.25 * weights[0] / weights[1], rel=0.35)


def test_the_weighted_fit_is_what_a_general_solver_finds_with_these_weights() -> None:
    runs = sweep(np.linspace(0.02, 0.3, B.size), 5)
    points = batch_points(runs)[0]
    y, root = np.log([p.steps for p in points]), np.sqrt(batch_weights(points))
    best = least_squares(lambda x: root * (y - x[1] - np.log1p(np.exp(x[0]) / B)), [5.0, 6.0], xtol=1e-12).x
    assert math.log(fitted(runs, "weighted").b_crit) == pytest.approx(best[0], abs=1e-6)


def test_batches_whose_seeds_disagree_count_less() -> None:
    noises = np.where((B == 16) | (B == 2048), 0.6, 0.02)
    gaps = {loss: [off(fitted(sweep(noises, 5, seed=i), loss)) for i in range(40)] for loss in ("linear", "weighted")}
    assert np.mean(gaps["weighted"]) < 0.6 * np.mean(gaps["linear"])


def test_two_seeds_that_happen_to_agree_do_not_take_over_the_fit() -> None:
    runs = sweep(np.full(B.size, 0.1), 2)
    alike = [r for r in runs if r.batch_size != 64]
    alike += [run(64, 0.1, i, S_MIN * 5.0 * 1.2 * (1.0 + 1e-9 * i)) for i in range(2)]
    assert batch_weights(batch_points(alike)[0]).max() < 2.0


@pytest.mark.parametrize("seeds", [1, 3])
def test_without_a_spread_to_weigh_by_the_weighted_loss_is_the_plain_one(seeds: int) -> None:
    runs = sweep(np.full(B.size, 0.0 if seeds > 1 else 0.05), seeds)
    plain, weighted = fitted(runs, "linear"), fitted(runs, "weighted")
    assert weighted.b_crit == pytest.approx(plain.b_crit, rel=1e-6)
    assert any("tells no variance to weight by" in w for w in weighted.warnings) == (seeds == 1)


@pytest.mark.long
@pytest.mark.parametrize("loss", ["huber", "weighted"])
def test_intervals_under_every_loss_cover_as_often_as_they_claim(loss: Loss) -> None:
    noises, held, fits = np.geomspace(0.05, 0.2, B.size), 0, 500
    for i in range(fits):
        fit = fitted(sweep(noises, 5, seed=i), loss, resamples=200, confidence=0.9, seed=i)
        held += fit.b_crit_interval[0] <= B_CRIT <= fit.b_crit_interval[1]
    print(f"{loss}: {held / fits:.3f} covered")
    assert 0.86 <= held / fits <= 0.95


def test_command_api_json_and_multiverse_tell_one_answer_for_each_loss(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "points.csv"
    rows = sweep(np.linspace(0.02, 0.3, B.size), 3)
    table.write_text("batch_size,samples\n" + "".join(f"{r.batch_size},{r.samples!r}\n" for r in rows))
    found = {}
    for loss in LOSSES:
        assert main(["fit", str(table), "--loss", loss, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        jsonschema.validate(document, schema_of("fit"))
        (fit,) = document["fits"]
        assert fit["loss"] == loss
        found[loss] = fit["b_crit"]
        own = analysis.fit(table, loss=loss)
        assert own.fits[0].b_crit == fit["b_crit"]  # type: ignore[union-attr]
        (other,) = [
            row.batch
            for row in multiverse_of(own.fits[0]).rows  # type: ignore[union-attr]
            if (row.aggregate, row.loss, row.definition) == ("robust", loss, "b_crit")
        ]
        assert other == pytest.approx(fit["b_crit"], rel=1e-9)
    assert len({round(b, 6) for b in found.values()}) == 3
    assert main(["fit", str(table), "--loss", "huber", "--methods"]) == 0
    said = capsys.readouterr().out
    assert "loss    Huber's" in said
    assert "under Huber's loss [huber1981]" in said


def test_a_study_is_fitted_with_the_loss_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(tmp_path / "s", noise=0.1, lrs_per_batch=1, seeds=3, diverged=False, second_realisation=False)
    assert main(["fit", str(study), "--loss", "weighted", "--json"]) == 0
    (fit,) = json.loads(capsys.readouterr().out)["fits"]
    found = analysis.fit(study, loss="weighted")
    assert (fit["loss"], fit["b_crit"]) == ("weighted", found.fit.b_crit)  # type: ignore[union-attr]
    assert fit["b_crit"] != analysis.fit(study).fit.b_crit  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="the loss must be one of linear, huber, weighted, got 'cauchy'"):
        analysis.fit(study, loss="cauchy")  # type: ignore[arg-type]
