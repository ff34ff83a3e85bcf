"""The harness of the benchmarks measures what it says; nothing is asserted about time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.__main__ import NAMES, rows, table
from tests.benchmarks.harness import Ratio, Seconds, alternate, ratio, report, worst

ROOT = Path(__file__).parents[1]


def drifting(rng, n, *, truth, noise=0.05):
    """Times of two sides, the first `truth` times the second, on a machine whose speed both sides feel."""
    drift = np.exp(0.2 * rng.standard_normal(n))
    a, b = (np.exp(noise * rng.standard_normal(n)) for _ in range(2))
    return truth * drift * a, drift * b


def test_the_interval_covers_the_true_ratio_at_least_as_often_as_it_claims_and_is_not_idle():
    rng = np.random.default_rng(1)
    found = [ratio(*drifting(rng, 20, truth=1.3)) for _ in range(300)]
    covered = np.mean([r.low <= 1.3 <= r.high for r in found])
    assert covered > 0.87
    assert np.median([r.high - r.low for r in found]) < 0.2
    assert abs(np.median([r.value for r in found]) - 1.3) < 0.03


def test_the_interval_narrows_with_the_number_of_alternations():
    rng = np.random.default_rng(2)
    few, many = (ratio(*drifting(rng, n, truth=1.0)) for n in (20, 500))
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_a_drift_that_both_sides_feel_does_not_widen_the_interval():
    """Whole alternations are drawn: a machine of changing speed changes both sides of one alike."""
    rng = np.random.default_rng(3)
    top, bottom = drifting(rng, 40, truth=1.0, noise=0.001)
    together, apart = ratio(top, bottom), ratio(top, rng.permutation(bottom))
    assert together.high - together.low < 0.2 * (apart.high - apart.low)


def test_sides_run_in_turn_and_only_the_warm_up_is_untimed():
    order = []
    a_s, b_s = alternate(lambda: order.append("a"), lambda: order.append("b"), 3, warm_up=1)
    assert order == ["a", "b"] * 4
    assert a_s.shape == b_s.shape == (3,)
    assert (a_s > 0).all()


def test_a_side_may_time_itself_but_another_number_that_it_returns_is_no_time():
    a_s, b_s = alternate(lambda: Seconds(7.0), lambda: 7.0, 2)
    assert a_s.tolist() == [7.0, 7.0]
    assert (b_s < 1.0).all()


def test_the_worst_case_is_the_one_that_misses_its_own_bar_most():
    def of(value, bar, at_most=False):
        return Ratio(value=value, low=value, high=value, bar=bar, at_most=at_most)

    assert worst({"fast": of(2.0, 1.0), "misses": of(0.9, 1.3), "nearly": of(0.94, 0.95)}) == "misses"
    assert worst({"cheap": of(1.01, 1.05, True), "dear": of(1.2, 1.05, True)}) == "dear"
    assert worst({"promised": of(5.0, 1.0), "not": of(0.1, None)}) == "promised"


def test_the_last_line_of_a_report_is_its_json_and_the_table_reads_it(capsys):
    headline = Ratio(value=0.97, low=0.96, high=0.98, bar=0.95)
    cost = Ratio(value=1.2, low=1.1, high=1.3, bar=1.05, at_most=True)
    report("some_name", headline, {"tiny": cost}, block_steps=50)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["ratio_interval"] == [0.96, 0.98]
    assert (last["benchmark"], last["ratio"], last["bar"], last["block_steps"]) == ("some_name", 0.97, 0.95, 50)
    assert last["machine"]["cores"] >= 1
    assert [(row[0], row[4]) for row in rows(last)] == [("some_name", "met"), ("some_name tiny", "missed")]
    assert "at most 1.05" in table([last])


def test_every_benchmark_is_among_those_that_are_run_together():
    files = {p.stem for p in (ROOT / "tests" / "benchmarks").glob("*.py") if "report(" in p.read_text()}
    assert set(NAMES) == files - {"harness"}


def test_a_benchmark_that_failed_has_its_line_in_the_table():
    assert "failed" in table([{"benchmark": "some_name", "failed": "exit code 1"}])


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("pack_limit", {"headline_case"}),
        ("memory", {"r_squared", "data_copies_k64"}),
        ("many_trials", {"trials_per_minute", "status_s", "status_bar_s", "fit_s"}),
        ("long_run", {"segments_bound", "commits", "growth_bytes", "reader_growth_bytes"}),
        ("analysis_speed", {"ratio_one_read", "analysis_s", "analysis_bar_s", "peak_bytes", "peak_bar_bytes"}),
        ("simulator_extrapolation", {"ratio_up_to_4_nodes_adaptdl", "up_to_4_nodes_coverage"}),
    ],
)
def test_a_smoke_run_ends_with_its_json(name, more, request):
    if name == "analysis_speed":
        pytest.importorskip("pandas")
    if name == "simulator_extrapolation":
        request.getfixturevalue("measurements")
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout.strip().splitlines()[-1])
    assert last["benchmark"] == name
    assert last.keys() >= {"ratio", "ratio_interval", "bar", "machine", *more}
    low, high = last["ratio_interval"]
    assert 0 < low <= high
    assert last["ratio"] > 0
