"""Workers against time and cost: the arithmetic, the front, the choice, and what is refused."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

from scaleexp.cli import cli
from scaleexp.errors import ConfigError, InfeasibleError, NotEnoughDataError, ScaleexpError
from scaleexp.hardware_profile import read_hardware
from scaleexp.simulate.choose import choose, next_trade
from scaleexp.simulate.configuration import CAUSES, Failures, Limits
from scaleexp.simulate.frontier import frontier
from scaleexp.simulate.given_curve import GivenCurve, by_hand
from scaleexp.simulate.step_sources import RANGES, Constant, Roofline
from scaleexp.simulate.step_time import StepTimeModel

S_MIN, B_CRIT = 1_000.0, 512.0
MODEL = StepTimeModel.by_hand(compute_fixed_s=0.05, compute_per_sample_s=0.004, transfer_s=0.03, latency_s=1e-4)
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128)


def curve(**changed):
    given = {
        "s_min": S_MIN,
        "b_crit": B_CRIT,
        "s_min_interval": (900.0, 1111.0),
        "b_crit_interval": (400.0, 655.0),
        "e_min_interval": (441_000.0, 594_000.0),
        "name": "a fit",
    }
    return GivenCurve(**(given | changed))


def found(given=None, times=MODEL, workers=WORKERS, limits=None, failures=None, price=2.0, **more):
    limits, failures = limits or Limits(workers_per_node=8), failures or Failures()
    return frontier(given or curve(), times, workers, limits=limits, failures=failures, price=price, **more)


def test_every_row_is_the_curve_times_the_step_time_times_the_price_at_the_best_of_all_worker_batches():
    for row in found().rows:
        p = row.workers

        def seconds(b, p=p):
            step = 0.05 + 0.004 * b + 0.03 * 2 * (p - 1) / p + 1e-4 * 2 * (p - 1)
            return S_MIN * (1 + B_CRIT / (p * b)) * step

        best = min((2**k for k in range(16)), key=seconds)
        assert row.worker_batch == best
        assert row.seconds == pytest.approx(seconds(best), rel=1e-9)
        assert row.usd == pytest.approx(p * 2.0 * seconds(best) / 3600, rel=1e-9)
        assert row.batch_size == row.micro_batch * row.accumulation_steps * row.workers
        assert row.samples == pytest.approx(row.steps * row.batch_size)
        assert row.seconds_interval[0] < row.seconds < row.seconds_interval[1]


@pytest.mark.parametrize("mtbf", [np.inf, 50 * 3600.0])
def test_what_is_useful_and_what_is_lost_are_all_of_the_time(mtbf):
    for row in found(failures=Failures(node_mtbf_s=mtbf)).rows:
        assert row.useful + sum(row.lost.values()) == pytest.approx(1.0)
        assert all(share >= -1e-12 for share in row.lost.values())
        assert (row.lost["failures"] > 1e-9) == np.isfinite(mtbf)
        assert (row.lost["communication"] > 0) == (row.workers > 1)
        # Samples beyond the fewest: E / E_min - 1 = B / B_crit of what is useful.
        assert row.lost["statistics"] == pytest.approx(row.useful * row.batch_size / B_CRIT)
    assert set(row.lost) == set(CAUSES)


def test_failures_come_more_often_to_more_nodes():
    rows = found(failures=Failures(node_mtbf_s=1e5)).rows
    per_second = {row.workers: row.failures / row.seconds * 1e5 for row in rows}
    assert per_second[64] == pytest.approx(8, rel=0.2)
    assert per_second[8] == pytest.approx(1, rel=0.05)


def test_what_fails_before_it_can_save_is_left_out_and_said_to_be():
    made = found(failures=Failures(node_mtbf_s=600.0, checkpoint_s=60, restart_s=300))
    kept = [row.workers for row in made.rows]
    assert kept == [n for n in WORKERS if n <= kept[-1]]
    (said,) = made.left_out
    assert said.startswith("128 workers are left out: ")
    assert said.endswith("a run never ends")


def test_no_luck_makes_a_run_shorter_than_its_steps():
    for row in found(
        curve(s_min_interval=(None, None), b_crit_interval=(None, None)), failures=Failures(node_mtbf_s=5e3)
    ).rows:
        assert row.work_s[0] <= row.seconds_interval[0] < row.seconds < row.seconds_interval[1]


def test_what_fails_at_once_has_no_frontier():
    with pytest.raises(InfeasibleError, match="a run never ends"):
        found(failures=Failures(node_mtbf_s=20.0, checkpoint_s=600, restart_s=300))


def test_the_front_holds_exactly_what_nothing_else_beats():
    made = found()
    for row in made.rows:
        beaten = any(
            (other.seconds <= row.seconds and other.usd <= row.usd)
            and (other.seconds < row.seconds or other.usd < row.usd)
            for other in made.rows
        )
        assert row.on_front != beaten


def test_draws_keep_the_width_of_all_three_intervals():
    draw = curve().draws(40_000, 1)
    ends = (0.025, 0.975)
    assert np.quantile(draw(np.array([1e12])), ends) == pytest.approx([900, 1111], rel=0.01)
    assert np.quantile(draw(np.array([1e-6])) * 1e-6, ends) == pytest.approx([441_000, 594_000], rel=0.01)


def test_no_seed_no_other_numbers():
    assert found().rows == found().rows
    assert found(seed=1).rows != found(seed=2).rows


@pytest.mark.parametrize("most", [1, 12, 16])
def test_accumulation_splits_what_does_not_fit_and_leaves_the_batch(most):
    rows = found(limits=Limits(workers_per_node=8, max_micro_batch=most)).rows
    assert all(row.micro_batch <= most for row in rows)
    assert any(row.accumulation_steps > 1 for row in rows)
    assert all(row.micro_batch * row.accumulation_steps == row.worker_batch for row in rows)


def test_one_measured_step_time_is_asked_at_its_worker_batch_alone():
    rows = found(times=Constant(measured_s=0.5, worker_batch=32), limits=Limits(worker_batches=(32,))).rows
    assert {row.worker_batch for row in rows} == {32}
    assert rows[3].seconds == pytest.approx(0.5 * S_MIN * (1 + B_CRIT / 256))
    with pytest.raises(InfeasibleError, match="worker batch of 32"):
        found(times=Constant(measured_s=0.5, worker_batch=32), limits=Limits(worker_batches=(16,)))


def test_a_batch_beyond_what_was_measured_is_said_to_be():
    given = curve(points=[{"batch_size": 16, "lr": None}, {"batch_size": 128, "lr": None}])
    for row in found(given).rows:
        assert (row.status == "extrapolated") == (row.batch_size > 128)
        assert ("outside the measured 16 to 128" in row.reason) == (row.batch_size > 128)


# ---- the choice


def test_a_deadline_takes_the_cheapest_that_is_done_in_nine_of_ten_draws():
    made = found()
    for hours in (0.3, 0.5, 1.0, 2.0):
        choice = choose(made, deadline_s=hours * 3600)
        enough = [i for i in range(len(made.rows)) if (made.seconds[:, i] <= hours * 3600).mean() >= 0.9]
        assert choice.sure == bool(enough)
        if enough:
            assert choice.index == min(enough, key=lambda i: made.rows[i].usd)
        else:
            assert choice.index == max(range(len(made.rows)), key=lambda i: (made.seconds[:, i] <= hours * 3600).mean())


def test_a_budget_takes_the_fastest_within_it_and_neither_takes_the_least_product():
    made = found()
    budget = made.rows[3].usd_interval[1]
    choice = choose(made, budget_usd=budget)
    chances = [(made.seconds[:, i] * row.workers * 2 / 3600 <= budget).mean() for i, row in enumerate(made.rows)]
    assert choice.index == min((i for i, c in enumerate(chances) if c >= 0.9), key=lambda i: made.rows[i].seconds)
    least = choose(made)
    assert least.index == min(range(len(made.rows)), key=lambda i: made.rows[i].seconds * made.rows[i].usd)
    assert least.chance is None


def test_the_trade_off_is_that_of_the_next_faster_point():
    made = found()
    trade = next_trade(made, 2)
    own, other = made.rows[2], made.rows[trade.index]
    assert other.workers == 8
    assert trade.time == pytest.approx(other.seconds / own.seconds - 1)
    assert trade.cost == pytest.approx(other.usd / own.usd - 1)
    fastest = min(range(len(made.rows)), key=lambda i: made.rows[i].seconds)
    assert next_trade(made, fastest).time > 0 > next_trade(made, fastest).cost


def test_a_budget_without_a_price_is_refused():
    with pytest.raises(ConfigError, match="--budget needs a price"):
        choose(found(price=None), budget_usd=10.0)


# ---- a curve that is only bounded


def test_bounds_alone_give_the_slowest_curve_and_an_interval_to_the_fastest():
    given = curve(
        status="not_identified",
        b_crit=None,
        s_min=None,
        b_crit_interval=(300.0, None),
        s_min_interval=(None, 1500.0),
        e_min_interval=(400_000.0, 500_000.0),
    )
    for row in found(given).rows:
        assert row.steps == pytest.approx(1500 + 500_000 / row.batch_size)
        assert row.steps_interval == pytest.approx((400_000 / row.batch_size, row.steps))


def test_a_flat_curve_gains_nothing_from_a_batch():
    given = curve(
        status="not_identified", b_crit_interval=(None, 2.0), s_min_interval=(90.0, 110.0), e_min_interval=(None, 220.0)
    )
    row = found(given).rows[-1]
    assert row.steps_interval == pytest.approx((90.0, 110 + 220 / row.batch_size))


def test_a_curve_that_nothing_bounds_is_not_enough():
    with pytest.raises(NotEnoughDataError, match="does not bound the critical batch size on any side"):
        curve(status="not_identified", b_crit_interval=(None, None))


# ---- the roofline


def roofline(profile="a100-40gb", **ranges):
    return Roofline(
        profile=read_hardware(profile),
        n_parameters=1e9,
        flops_per_sample=6e9,
        precision="bf16",
        ranges={**RANGES, **ranges},
    )


def test_a_roofline_is_the_data_sheet_at_the_efficiencies_that_it_is_told():
    exact = {name: (value, value) for name, value in zip(RANGES, (0.5, 0.8, 0.5, 0.5, 0.01, 1e-6), strict=True)}
    at = roofline(**exact).predict(16, 2, 4096)
    compute = 6e9 * 4096 / (312e12 * 0.5) + 28e9 / (1555e9 * 0.8)
    inside = 2 * 7 * (2e9 / 8 / (300e9 * 0.5) + 3.4e-6)
    between = 2 * 1 * (2e9 / 8 / 2 / (25e9 * 0.5) + 9.6e-6)
    assert float(at.parts["compute"]) == pytest.approx(compute)
    assert float(at.parts["communication"]) == pytest.approx(0.5 * (inside + between))
    assert float(at.parts["straggler"]) == pytest.approx(compute * 0.01 * 1.766, rel=2e-3)  # largest of 16 normals
    assert float(at.step_time_s) == pytest.approx(sum(map(float, at.parts.values())))
    small = float(roofline(**exact).predict(1, 1, 1, 4).parts["compute"])
    assert small == pytest.approx(4 * 3 * 2e9 / (1555e9 * 0.8) + 28e9 / (1555e9 * 0.8))  # bound by memory
    tiny = float(roofline(**{**exact, "launch_s": (0.1, 0.1)}).predict(1, 1, 1, 4).parts["compute"])
    assert tiny == pytest.approx(4 * 0.1 + 28e9 / (1555e9 * 0.8))  # bound by launching kernels


def test_without_measurements_the_interval_is_as_wide_as_what_is_not_known():
    at = roofline().predict(8, 1, 4096)
    low, high = at.interval
    assert high / low > 3
    assert low < at.step_time_s < high
    assert "nothing was measured" in str(at.reason)
    assert str(at.status) == "extrapolated"


def test_workers_on_several_machines_need_a_network_figure():
    alone = roofline("t4")
    object.__setattr__(alone, "precision", "fp16")
    assert float(alone.predict(4, 1, 64).parts["communication"]) > 0
    with pytest.raises(ConfigError, match="no inter_node_bytes_per_s"):
        alone.predict(8, 2, 64)
    with pytest.raises(ConfigError, match="no peak_bf16_flop_per_s: take fp32 or fp16"):
        roofline("t4").predict(1, 1, 64)


# ---- as it is typed

HAND = ["--s-min", "1000", "--b-crit", "512"]
STEP = ["--step-time", "0.4", "--worker-batch", "32"]


def typed(*words, command=("simulate", "frontier")):
    """(exit code, stdout, the error's sentence) of a command."""
    done = CliRunner().invoke(cli, [*command, *words])
    if isinstance(done.exception, ScaleexpError):
        return done.exception.exit_code, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([*HAND, *STEP, "--workers", "0"], 2, "--workers is a list such as 8,16,32 or a range"),
        ([*HAND, *STEP, "--workers", "8:2"], 2, "from the smaller to the larger"),
        ([*HAND, *STEP, "--workers", "many"], 2, "--workers is a list"),
        ([*HAND, *STEP, "--usd-per-gpu-hour", "-2"], 2, "--usd-per-gpu-hour must be a number above 0, got -2"),
        ([*HAND, *STEP, "--usd-per-gpu-hour", "nan"], 2, "--usd-per-gpu-hour must be a number above 0"),
        ([*HAND, *STEP, "--deadline", "soon"], 2, "--deadline is a length of time above 0 with its unit"),
        ([*HAND, *STEP, "--deadline", "24"], 2, "such as 24h"),
        ([*HAND, *STEP, "--deadline", "-3h"], 2, "above 0"),
        ([*HAND, *STEP, "--budget", "5"], 2, "--budget needs a price"),
        ([*HAND, *STEP, "--spot-mtbf", "0h"], 2, "--spot-mtbf is a length of time above 0"),
        ([*HAND, *STEP, "--checkpoint-s", "0"], 2, "--checkpoint-s must be a number above 0"),
        ([*HAND, *STEP, "--confidence", "95"], 2, "--confidence must lie between 0.5 and 1"),
        ([*HAND, "--step-time", "1"], 2, "say which with --worker-batch"),
        ([*HAND, "--step-time", "-1", "--worker-batch", "4"], 2, "--step-time must be a number above 0"),
        (HAND, 2, "nothing says what a step takes"),
        (STEP, 2, "nothing says how steps fall with the batch"),
        (["--s-min", "0", "--b-crit", "5", *STEP], 2, "--s-min must be a number above 0"),
        ([*HAND, "--b-crit-interval", "9", *STEP], 2, "--b-crit-interval is LOW:HIGH"),
        ([*HAND, "--curve", "f.json", *STEP], 2, "both say what the curve is"),
        (["--curve", "nosuch.json", *STEP], 2, "cannot read nosuch.json as JSON"),
        ([*HAND, "--model", "nosuch.json"], 2, "nosuch.json"),
        ([*HAND, "--hardware", "h1000", "--parameters", "1e9"], 2, "There is no built-in hardware profile 'h1000'"),
        ([*HAND, "--hardware", "t4", "--parameters", "1e9"], 2, "the flops of one sample are not known"),
        ([*HAND, "--hardware", "t4", "--parameters", "1e9", "--flops-per-sample", "6e9"], 2, "--workers-per-node"),
    ],
)
def test_nonsense_gets_one_sentence_and_its_code(words, code, said):
    got, out, sentence = typed(*words)
    assert (got, out) == (code, "")
    assert said in sentence
    assert "\n" not in sentence


def test_the_table_says_what_to_take_and_what_to_doubt():
    code, out, _ = typed(*HAND, *STEP, "--workers", "1:64", "--usd-per-gpu-hour", "2.4", "--deadline", "1h")
    assert code == 0
    assert "Done within 1 h, the cheapest: " in out
    assert "-> " in out
    assert "Trade-off: " in out
    assert "Weakest input: the step time: one number" in out
    assert max(map(len, out.splitlines())) <= 160


def test_hours_alone_where_no_price_is_known():
    code, out, _ = typed(*HAND, "--hardware", "a100-40gb", "--parameters", "1e8", "--flops-per-sample", "6e8")
    assert code == 0
    assert "$" not in out
    assert "worker hours" in out
    assert "nothing was measured" in out


@pytest.mark.parametrize(
    "words",
    [
        [*HAND, *STEP],
        [*HAND, *STEP, "--usd-per-gpu-hour", "2", "--budget", "3", "--deadline", "2h", "--spot-mtbf", "6h"],
        [*HAND, *STEP, "--spot-mtbf", "60h", "--workers", "1:4096", "--restart-s", "900"],
        [
            *HAND,
            "--b-crit-interval",
            "300:900",
            "--hardware",
            "h100-80gb-sxm",
            "--parameters",
            "1e9",
            "--flops-per-sample",
            "6e9",
        ],
    ],
)
def test_its_json_is_what_the_schema_says(words):
    code, out, said = typed(*words, "--json")
    assert code == 0, said
    document = json.loads(out)
    jsonschema.validate(document, json.loads((files("scaleexp") / "schemas" / "frontier.json").read_text()))
    assert document["recommended"]["workers"] in [row["workers"] for row in document["rows"]]
    best = [row["workers"] for row in document["rows"] if row["on_front"]]
    assert best == document["front"]


def test_an_exact_curve_has_no_interval_of_its_own():
    rows = found(by_hand(S_MIN, B_CRIT, (None, None), (None, None))).rows
    assert all(row.steps_interval == pytest.approx((row.steps, row.steps)) for row in rows)
