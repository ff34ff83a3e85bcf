"""The scaling law: exact on one, silent where there is none, and another number under another definition."""

import json
import math

import numpy as np
import pytest

from analysis.scaling_law import FittedGroup, ScalingLaw, scaling_law
from scaleexp.errors import ConfigError
from scaleexp.laws import overhead_batch

SIZES = np.array([85e6, 151e6, 302e6, 604e6, 1.2e9])


def groups(batches: np.ndarray, width: float | None = None, **columns: np.ndarray) -> list[FittedGroup]:
    columns = columns or {"n_params": SIZES}
    return [
        FittedGroup(
            name=f"group {i}",
            regressors={name: float(values[i]) for name, values in columns.items()},
            batch=float(b),
            interval=None if width is None else (float(b) / width, float(b) * width),
        )
        for i, b in enumerate(batches)
    ]


def law(found: list[FittedGroup], *against: str, definition: str = "b_crit") -> ScalingLaw:
    return scaling_law(found, against=against or ("n_params",), definition=definition, confidence=0.95)


@pytest.mark.parametrize("exponent", [0.0, 0.47, 0.62, -0.3])
def test_a_true_law_is_recovered(exponent: float) -> None:
    found = law(groups(0.003 * SIZES**exponent))
    assert found.exponents["n_params"] == pytest.approx(exponent, abs=1e-9)
    assert found.coefficient == pytest.approx(0.003, rel=1e-9)
    assert found.rms_log_residual < 1e-12
    assert (found.status, found.n_groups) == ("ok", 5)


def test_two_regressors_that_vary_apart_are_told_apart() -> None:
    n, d = (np.array(c) for c in ([1e8, 1e8, 1e9, 1e9, 3e8], [2e9, 2e10, 2e9, 2e10, 6e9]))
    found = law(groups(2.0 * n**0.1 * d**0.4, n_params=n, samples=d), "n_params", "samples")
    assert found.exponents == pytest.approx({"n_params": 0.1, "samples": 0.4}, abs=1e-9)
    assert found.coefficient == pytest.approx(2.0, rel=1e-7)
    assert found.variance_inflation is not None
    assert found.variance_inflation < 1.01


def test_regressors_that_move_together_are_refused_with_the_number() -> None:
    noise = np.exp([0.0, 0.05, -0.05, 0.02, 0.0])
    found = law(groups(SIZES**0.5, n_params=SIZES, samples=20 * SIZES * noise), "n_params", "samples")
    assert found.status == "not_identified"
    assert "variance inflation" in found.reason
    assert "0.999" in found.reason
    assert found.to_dict()["exponent"] is None
    exact = law(groups(SIZES**0.5, n_params=SIZES, samples=20 * SIZES), "n_params", "samples")
    assert "variance inflation ∞" in exact.reason


def test_the_overhead_definition_gives_a_smaller_exponent_on_the_same_data() -> None:
    # Exponent 0.62 of B_crit, and a level at which 1.2 * 256 + 0.2 B_crit grows as N^0.47 over these sizes.
    b_crit = 4900.0 * (SIZES / 302e6) ** 0.62
    overhead = np.asarray(overhead_batch(0.2, 256.0, b_crit))
    assert law(groups(b_crit)).exponents["n_params"] == pytest.approx(0.62, abs=1e-9)
    found = law(groups(overhead), definition="overhead")
    assert found.exponents["n_params"] == pytest.approx(0.47, abs=0.005)
    assert found.definition == "overhead"


def test_groups_without_a_fit_to_trust_are_left_out_by_name() -> None:
    good = groups(0.003 * SIZES**0.5)
    bad = FittedGroup(name="tiny", regressors={"n_params": 1e6}, batch=1e9, status="extrapolated", reason="far off.")
    lost = FittedGroup(name="lost", regressors={"n_params": 2e6}, batch=math.nan)
    found = law([bad, *good, lost])
    assert found.exponents["n_params"] == pytest.approx(0.5, abs=1e-9)
    assert found.left_out == (("tiny", "extrapolated: far off."), ("lost", "it has no finite critical batch size."))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [([1e8, 1e9], "needs 3 groups"), ([], "got 0"), ([1e8, 1.5e8, 1.9e8], "spans a factor 1.9 only")],
)
def test_too_few_groups_or_too_narrow_a_range_identify_no_law(sizes: list[float], said: str) -> None:
    n = np.array(sizes)
    found = law(groups(n**0.5, n_params=n))
    assert found.status == "not_identified"
    assert said in found.reason
    json.dumps(found.to_dict(), allow_nan=False)


def test_two_regressors_need_one_group_more() -> None:
    n, d = np.array([1e8, 1e8, 1e9]), np.array([1e9, 1e10, 1e9])
    found = law(groups(n, n_params=n, samples=d), "n_params", "samples")
    assert "needs 4 groups" in found.reason


def test_fits_known_worse_than_they_scatter_are_warned_of() -> None:
    wide = law(groups(0.003 * SIZES**0.5, width=1.5))
    assert len(wide.warnings) == 1
    assert "more closely than they are known" in wide.warnings[0]
    noisy = 0.003 * SIZES**0.5 * np.exp([0.2, -0.2, 0.1, -0.2, 0.2])
    assert law(groups(noisy, width=1.05)).warnings == ()


def test_propagation_has_the_width_of_its_closed_form() -> None:
    found = law(groups(0.003 * SIZES**0.5, width=1.3))
    assert found.propagated_intervals is not None
    low, high = found.propagated_intervals["n_params"]
    x = np.log(SIZES) - np.log(SIZES).mean()
    # the half-width of each fit is 1.96 standard deviations, and so is the half-width looked for
    assert (high - low) / 2 == pytest.approx(math.log(1.3) / math.sqrt((x**2).sum()), rel=0.05)
    assert (high + low) / 2 == pytest.approx(0.5, abs=0.01)


def test_one_group_without_an_interval_leaves_nothing_to_propagate() -> None:
    found = groups(0.003 * SIZES**0.5, width=1.3)
    assert law([*found[:-1], *groups(0.003 * SIZES**0.5)[-1:]]).propagated_intervals is None


def test_the_interval_holds_the_exponent_as_often_as_it_claims() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = law(groups(SIZES**0.5 * np.exp(0.2 * rng.standard_normal(5)))).exponent_intervals["n_params"]
        held += low < 0.5 < high
    assert held / 400 == pytest.approx(0.95, abs=0.035)


@pytest.mark.parametrize("against", [(), ("n_params", "n_params"), ("a", "b", "c"), ("absent",)])
def test_regressors_that_cannot_be_meant_are_refused(against: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError):
        scaling_law(groups(SIZES**0.5), against=against, confidence=0.95)
