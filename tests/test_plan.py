import json
import subprocess
import sys
from dataclasses import replace
from importlib import resources
from itertools import product
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaleexp.config import load_study
from scaleexp.errors import ConfigError
from scaleexp.packing import cost, makespan
from scaleexp.plan import (
    content_hash,
    directed_targets,
    lr_grid,
    make_plan,
    packs,
    plan_document,
    plan_table,
    render_plan,
)
from scaleexp.plan_rows import Calibration, Estimate, Range

GRID = str(Path(__file__).with_name("grid_study.yaml"))
ESTIMATE = Estimate(seconds=Range(50.0, 60.0, 90.0), disk_bytes=Range(1e6, 2e6, 3e6))
FOUND = Calibration(
    batches=dict.fromkeys([4, 8, 16, 32, 64, 128, 256, 512, 1024], ESTIMATE),
    workers=4,
    repeats=5,
    passing_bytes=1e5,
    study_bytes=5e4,
)


def plan_of(*overrides, name=GRID, **options):
    study = load_study(name, overrides)
    return study, make_plan(study, "d" * 64, **options)


def firsts(plan):
    return [trial for trial in plan.trials if not trial.realisation]


# ---- ids


def settings_of(**changes):
    return {
        "workload": {"name": "quadratic", "dimensions": 100},
        "data_sha256": "ab" * 32,
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "lr": 0.1,
        "batch_size": 64,
        "dtype": "float32",
        "seed": 0,
        "warmup_samples": 0,
    } | changes


@pytest.mark.parametrize(
    ("changes", "golden"),
    [
        ({}, "ba2b9ccb716a5dfb"),
        ({"lr": 0.2}, "789920c8b5080c78"),
        ({"optimizer": {"name": "adamw", "beta1": 0.9, "beta2": 0.999}, "dtype": "float64"}, "8630bbe54a3c0f95"),
        ({"statistics_group": 4}, "7b1197b6c14bbcc4"),
    ],
)
def test_ids_never_change_by_accident(changes, golden):
    """A new id for old settings would run finished work again. If the mathematics changed, raise its version."""
    assert content_hash(**settings_of(**changes)) == golden


@pytest.mark.parametrize(
    "change",
    [
        {"workload": {"name": "quadratic", "dimensions": 101}},
        {"workload": {"name": "quadratic", "dimensions": 100, "power": 1}},
        {"data_sha256": "ac" * 32},
        {"optimizer": {"name": "sgd", "momentum": 0.8}},
        {"lr": 0.100000000001},
        {"batch_size": 32},
        {"dtype": "float64"},
        {"seed": 1},
        {"warmup_samples": 64},
        {"statistics_group": 64},
    ],
)
def test_whatever_changes_the_mathematics_changes_the_id(change):
    assert content_hash(**settings_of(**change)) != content_hash(**settings_of())


@pytest.mark.parametrize(
    "same",
    [
        {"lr": 0.1 + 1e-16},
        {"lr": 0.3 / 3},
        {"workload": {"dimensions": 100.0, "name": "quadratic"}},
        {"warmup_samples": 0.0},
    ],
)
def test_spelling_and_rounding_do_not_change_the_id(same):
    assert content_hash(**settings_of(**same)) == content_hash(**settings_of())


def test_true_is_not_one():
    one = content_hash(**settings_of(workload={"name": "q", "flag": 1}))
    assert one != content_hash(**settings_of(workload={"name": "q", "flag": True}))


@pytest.mark.parametrize(
    "override",
    [
        "engine=ddp",
        "limits.samples=80000",
        "targets=[]",
        "evaluation.every_samples=512",
        "noise.shards=4",
        "lr_rules=[linear]",
        "name=other",
        "question=Why?",
        "price_usd_per_worker_hour=1",
    ],
)
def test_a_realisation_a_limit_or_a_target_leaves_every_id_alone(override):
    ids = {(t.batch_size, t.lr, t.seed): t.trial_id for t in firsts(plan_of("realisations=[]")[1])}
    for trial in firsts(plan_of("realisations=[]", override)[1]):
        assert ids[trial.batch_size, trial.lr, trial.seed] == trial.trial_id


def test_how_a_batch_is_split_leaves_the_ids_alone_unless_statistics_depend_on_it():
    split = ["worker_batch=null", "micro_batch=2", "accumulation_steps=4", "workers=[8]", "realisations=[]"]
    whole = ["worker_batch=64", "workers=[1]", "realisations=[]"]
    ids = [{t.trial_id for t in plan_of(*way)[1].trials} for way in (split, whole)]
    assert ids[0] == ids[1]
    split[1:3] = ["micro_batch=8", "accumulation_steps=1"]
    for batch_norm, same in (("worker", False), ("sync", True), ("4", True)):
        ids = [
            {t.trial_id for t in plan_of(*way, f"batch_norm={batch_norm}", has_batch_norm=True)[1].trials}
            for way in (split, whole)
        ]
        assert (ids[0] == ids[1]) == same
        assert ids[0] != {t.trial_id for t in plan_of(*split)[1].trials}


def test_ids_are_the_same_in_another_process():
    code = (
        "from scaleexp.config import load_study; from scaleexp.plan import make_plan;"
        f"print(*[t.key for t in make_plan(load_study({GRID!r}), 'd' * 64).trials])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert other == [trial.key for trial in plan_of()[1].trials]


def test_planning_imports_neither_torch_nor_ray():
    code = "import sys, scaleexp.plan, scaleexp.config; print([m for m in ('torch', 'ray') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- grid


def test_the_grid_is_the_square_root_line_times_the_multipliers():
    lrs, rules = lr_grid(load_study(GRID, ["lr_rules=[sqrt]"]), kappa=16.0)
    assert lrs == (0.2, 0.4, 0.8, 1.6, 3.2)
    assert rules == {"sqrt": 0.8}


def test_rules_that_fall_on_the_grid_add_no_trial_and_others_add_one():
    study = load_study(GRID)
    assert len(lr_grid(study, kappa=16.0)[0]) == 5
    lrs, rules = lr_grid(study, kappa=2.0)
    assert len(lrs) == 7
    assert set(rules.values()) <= set(lrs)


def test_a_grid_lr_within_the_snap_gives_its_place_to_the_rule_and_not_beyond_it():
    study = load_study(GRID, ["lr_multipliers=[0.5, 1, 2]", "lr_rules=[linear]", "lr_snap=0.02"])
    inside, outside = 3.93, 3.91  # linear / grid point = sqrt(kappa) / 2 = 0.991 and 0.989
    for kappa, snap, count in ((inside, 0.02, 3), (outside, 0.02, 3), (inside, 0.005, 4), (outside, 0.0, 4)):
        lrs, rules = lr_grid(study.model_copy(update={"lr_snap": snap}), kappa)
        assert len(lrs) == count
        assert rules["linear"] in lrs
    assert len(lr_grid(study, 3.8)[0]) == 4


@settings(max_examples=200)
@given(kappa=st.floats(2**-10, 2**10), snap=st.floats(0, 0.25))
def test_every_rule_runs_at_its_exact_lr_and_the_centre_stays(kappa, snap):
    study = load_study(GRID).model_copy(update={"lr_snap": snap})
    lrs, rules = lr_grid(study, kappa)
    assert rules["linear"] == pytest.approx(0.2 * kappa, rel=1e-11)
    assert rules["none"] == 0.2
    assert set(rules.values()) <= set(lrs)
    assert len(study.lr_multipliers) <= len(lrs) <= len(study.lr_multipliers) + 2
    assert list(lrs) == sorted(set(lrs))


def test_at_the_base_batch_all_rules_share_their_trials():
    labels = [label for label in plan_of()[1].labels if label["kappa"] == 1.0]
    assert [label["rule"] for label in labels] == ["none", "sqrt", "linear"]
    assert len({tuple(label["trial_ids"]) for label in labels}) == 1


def test_a_label_names_one_trial_per_seed_at_its_lr_and_batch():
    study, plan = plan_of()
    by_id = {trial.trial_id: trial for trial in firsts(plan)}
    for label in plan.labels:
        trials = [by_id[trial_id] for trial_id in label["trial_ids"]]
        assert [trial.seed for trial in trials] == list(study.seeds)
        assert {(trial.lr, trial.batch_size) for trial in trials} == {(label["lr"], label["batch_size"])}


def test_the_grid_is_the_whole_product_of_batches_lrs_and_seeds_once():
    study, plan = plan_of()
    expected = {
        (batch, lr, seed)
        for batch in study.batch_sizes
        for lr, seed in product(lr_grid(study, batch / 64)[0], study.seeds)
    }
    found = [(trial.batch_size, trial.lr, trial.seed) for trial in firsts(plan)]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len({trial.key for trial in plan.trials}) == len(plan.trials)
    assert all(t.batch_size == t.workers * t.accumulation_steps * t.micro_batch for t in plan.trials)


def test_ddp_runs_one_process_per_worker_and_packed_one_in_all():
    assert {t.processes == t.workers for t in plan_of("engine=ddp", "realisations=[]")[1].trials} == {True}
    assert {t.processes for t in firsts(plan_of()[1])} == {1}


def test_a_billion_trials_are_refused_before_they_are_built():
    many = [f"workers={list(range(1, 1001))}", "limits.samples=1e6", "realisations=[]", "targets=[]"]
    study = load_study(GRID, [*many, "lr_multipliers={count: 999, span: 100}", "seeds=1000"])
    with pytest.raises(ConfigError, match=r"1,002,000,000 trials [(]1000 batches x 1002 LRs x 1000 seeds"):
        make_plan(study, "")


# ---- second realisations


def test_a_second_realisation_is_the_same_trial_in_another_way():
    _, plan = plan_of()
    second = plan.trials[-1]
    first = next(trial for trial in firsts(plan) if trial.trial_id == second.trial_id)
    assert second.key == f"{first.key}@ddp-2"
    assert (first.batch_size, first.lr, first.seed) == (second.batch_size, second.lr, second.seed) == (64, 0.2, 0)
    assert (second.engine, second.processes, second.workers, second.micro_batch) == ("ddp", 2, 2, 32)


def test_a_second_realisation_keeps_the_micro_batch_that_the_study_set_for_memory():
    second = "realisations=[{engine: ddp, workers: 2, batch_size: 64, seed: 1, rule: none}]"
    _, plan = plan_of("worker_batch=null", "micro_batch=8", "workers=[8]", second)
    trial = plan.trials[-1]
    assert (trial.seed, trial.micro_batch, trial.accumulation_steps, trial.workers) == (1, 8, 4, 2)


def test_a_second_realisation_with_another_split_is_refused_where_statistics_depend_on_it():
    with pytest.raises(ConfigError, match="depend on them; ask for 16"):
        plan_of("batch_norm=worker", has_batch_norm=True)
    same = "realisations=[{engine: ddp, workers: 16, processes: 2, batch_size: 64}]"
    trial = plan_of(same, "batch_norm=worker", has_batch_norm=True)[1].trials[-1]
    assert (trial.workers, trial.processes, trial.micro_batch, trial.statistics_group) == (16, 2, 4, 4)
    assert trial.realisation == "ddp-16-on-2"


# ---- plan file


def test_the_plan_file_orders_targets_from_the_easiest_to_the_hardest():
    study = load_study(GRID, ["targets=[{metric: loss, values: [0.1, 0.4]}, {metric: accuracy, values: [0.9, 0.8]}]"])
    loss, accuracy = directed_targets(study, {"loss": "min", "accuracy": "max"})
    assert (loss["values"], loss["direction"]) == ([0.4, 0.1], "min")
    assert (accuracy["values"], accuracy["direction"]) == ([0.8, 0.9], "max")


def test_the_plan_file_survives_json():
    study, plan = plan_of()
    file = plan.to_file(directed_targets(study, {"val_loss": "min"}), unit="example")
    assert json.loads(json.dumps(file, allow_nan=False)) == file
    assert len(file["trials"]) == len(plan.trials)
    assert file["base_lr"] == 0.2


# ---- packs


@pytest.mark.parametrize("slots", [1, 2, 3, 16, 1000])
def test_packs_hold_every_trial_once_share_a_shape_and_start_with_the_dearest(slots):
    _, plan = plan_of()
    chosen = packs(plan.trials, slots=slots)
    assert sorted(t.key for pack in chosen for t in pack) == sorted(t.key for t in plan.trials)
    for pack in chosen:
        assert len({(t.engine, t.processes) for t in pack}) == 1
        if pack[0].engine == "packed":
            assert len({(t.batch_size, t.micro_batch, t.accumulation_steps, t.workers) for t in pack}) == 1
    costs = [cost(pack) for pack in chosen]
    assert costs == sorted(costs, reverse=True)


def test_one_slot_keeps_each_batch_in_one_pack():
    _, plan = plan_of("realisations=[]")
    assert [len({t.batch_size for t in pack}) for pack in packs(plan.trials, slots=1)] == [1] * 9


@pytest.mark.parametrize("slots", [2, 3, 4, 8, 64])
def test_cutting_packs_ends_earlier_than_leaving_each_batch_whole(slots):
    trials = plan_of("workers=[1, 4, 256]", "realisations=[]")[1].trials
    whole = packs(trials, slots=1)
    assert makespan(map(cost, packs(trials, slots=slots)), slots) <= makespan(map(cost, whole), slots)
    assert makespan(map(cost, packs(trials, slots=64)), 64) < 0.7 * makespan(map(cost, whole), 64)


def test_cutting_wastes_no_work_where_whole_packs_fill_the_slots():
    trials = plan_of("workers=[1, 2, 4, 8]", "lr_rules=[sqrt]", "realisations=[]")[1].trials
    assert len(packs(trials, slots=1)) == 4
    assert sum(map(cost, packs(trials, slots=2))) < 1.2 * sum(map(cost, packs(trials, slots=1)))


def test_a_pack_is_cut_between_seeds_before_it_is_cut_between_lrs():
    trials = plan_of("workers=[1]", "realisations=[]")[1].trials
    assert [len({t.seed for t in pack}) for pack in packs(trials, slots=2)] == [2, 1]
    assert [len(pack) for pack in packs(trials, slots=3)] == [5, 5, 5]
    wide = plan_of("workers=[256]", "realisations=[]")[1].trials
    assert max(len(pack) for pack in packs(wide, slots=15)) < 5


def test_a_pack_that_is_mostly_overhead_stays_whole():
    trials = plan_of("workers=[1]", "seeds=1", "realisations=[]")[1].trials
    assert [len(pack) for pack in packs(trials, slots=15)] == [5]


def test_the_schedule_is_the_best_one_where_that_can_be_counted():
    trials = plan_of("workers=[1, 256]", "realisations=[]", "seeds=1")[1].trials
    pair = packs(trials, slots=1)
    assert makespan(map(cost, pair), 1) == sum(map(cost, pair))
    assert makespan(map(cost, pair), 2) == max(map(cost, pair))


def test_ddp_trials_are_grouped_by_their_number_of_processes():
    trials = plan_of("engine=ddp", "realisations=[]")[1].trials
    assert sorted(pack[0].processes for pack in packs(trials, slots=4)) == [1, 2, 4, 8, 16, 32, 64, 128, 256]


def test_a_pack_shares_the_overhead_of_its_steps():
    trials = plan_of("workers=[1]", "realisations=[]")[1].trials
    assert cost(trials) < sum(cost([trial]) for trial in trials)


def test_no_slot_is_refused():
    with pytest.raises(ValueError, match="slots must be 1 or more"):
        packs((), slots=0)


# ---- table and JSON


@pytest.mark.parametrize("name", [GRID, "quickstart", "quadratic"])
@pytest.mark.parametrize("found", [None, FOUND])
def test_plan_json_matches_its_schema(name, found):
    schema = json.loads((resources.files("scaleexp") / "schemas" / "plan.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    study, plan = plan_of("price_usd_per_worker_hour=2", name=name)
    document = json.loads(json.dumps(plan_document(plan, study, found), allow_nan=False))
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "extra": 1}, schema)


def test_the_rows_add_up():
    study, plan = plan_of("price_usd_per_worker_hour=2")
    rows = plan_table(plan, study, FOUND)
    document = plan_document(plan, study, FOUND)
    assert sum(row["trials"] + len(row["second_realisations"]) for row in rows) == len(plan.trials)
    assert document["samples_at_most"] == sum(t.limit_steps * t.batch_size for t in plan.trials)
    assert document["samples_at_most"] <= len(plan.trials) * study.limits.samples
    assert (document["seconds_at_most"], document["seconds_interval"]) == (540.0, [450.0, 810.0])
    assert (document["disk_bytes_at_most"], document["disk_bytes_interval"]) == (18.05e6, [9.05e6, 27.05e6])
    assert document["peak_disk_bytes_at_most"] == 27.15e6
    assert document["usd_at_most"] == pytest.approx(2 * 4 * 540 / 3600)
    assert document["usd_interval"] == pytest.approx([2 * 4 * 450 / 3600, 2 * 4 * 810 / 3600])


def test_only_what_has_not_ended_is_counted():
    study, plan = plan_of("price_usd_per_worker_hour=2")
    going = [t for t in plan.trials if t.batch_size == 64][:3]
    left = {t.key: 10 for t in going}
    found = replace(FOUND, batches={64: ESTIMATE}, study_bytes=0.0)
    document = plan_document(plan, study, found, left)
    assert (document["trials"], document["trials_ended"]) == (3, len(plan.trials) - 3)
    assert document["samples_at_most"] == 3 * 10 * 64
    assert (document["seconds_at_most"], document["disk_bytes_at_most"]) == (60.0, 2e6)
    text = render_plan(document, width=100)
    assert [line.split()[0] for line in text.splitlines() if " x 4 " in line] == ["64"]
    assert f"3 trials ({len(plan.trials) - 3} have ended already and are not counted)" in text
    jsonschema.validate(document, json.loads((resources.files("scaleexp") / "schemas" / "plan.json").read_text()))
    nothing = plan_document(plan, study, Calibration(), {})
    assert (nothing["trials"], nothing["samples_at_most"], nothing["seconds_at_most"]) == (0, 0, 0.0)
    assert "nothing is left to run" in render_plan(nothing)
    jsonschema.validate(nothing, json.loads((resources.files("scaleexp") / "schemas" / "plan.json").read_text()))


def test_an_unknown_part_leaves_the_total_unknown():
    study, plan = plan_of()
    document = plan_document(plan, study, Calibration(batches={4: ESTIMATE}))
    assert document["seconds_at_most"] is document["disk_bytes_at_most"] is None
    assert document["batches"][0]["seconds_at_most"] == 60.0


def test_what_was_not_measured_has_no_number_and_a_reason():
    study, plan = plan_of()
    assert "cost: not known" in (text := render_plan(plan_document(plan, study, FOUND), width=200))
    assert "cost: there is no price: set price_usd_per_worker_hour, or hardware to a profile that has one." in text
    real = replace(ESTIMATE, seconds=None, not_timed=3)
    document = plan_document(plan, study, replace(FOUND, batches=dict.fromkeys(FOUND.batches, real), repeats=0))
    assert (document["seconds_at_most"], document["not_timed_trials"]) == (None, 27)
    text = render_plan(document, width=200)
    assert "time: not known" in text
    assert "time: The time of 27 trials of real workers is not counted: measuring it takes launching them." in text
    assert render_plan(plan_document(plan, study), width=200).count("nothing was measured (--no-calibrate)") == 3


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("found", [None, FOUND])
@pytest.mark.parametrize(
    "overrides", [[], ["price_usd_per_worker_hour=3", "worker_batch=null", "micro_batch=2", "accumulation_steps=2"]]
)
def test_the_table_fits_and_nothing_is_cut(width, found, overrides):
    study, plan = plan_of(*overrides)
    text = render_plan(plan_document(plan, study, found), width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "1024" in text
    assert "159 trials + 1 run a second time" in text
