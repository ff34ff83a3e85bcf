import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from scaleexp import study_parts
from scaleexp.config import LogGrid, Study, check_against_data, load_study
from scaleexp.errors import ConfigError
from scaleexp.hardware_profile import builtin_hardware, read_hardware
from scaleexp.strict_yaml import apply_overrides, parse
from scaleexp.study_files import builtin_studies

ROOT = Path(__file__).parent.parent

MINIMAL = """
name: tiny
question: Does it load?
workload: {name: quadratic, dimensions: 10}
optimizer: {name: sgd}
base: {batch_size: 8, lr: 1e-1}
workers: [1, 2]
worker_batch: 8
limits: {samples: 1000}
evaluation: {every_samples: 100}
"""


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(MINIMAL)
    return str(path)


def refusal(name_or_path, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_study(name_or_path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert message[-1] in ".?"
    return message


# ---- what a file means


@pytest.mark.parametrize("name", builtin_studies())
def test_every_built_in_study_is_valid_says_its_claim_and_bears_its_file_name(name):
    assert load_study(name).name == name
    assert builtin_studies()[name].read_text().startswith("# Claim: ")


@pytest.mark.parametrize("name", builtin_studies())
def test_a_stored_study_is_the_study_that_was_run(name):
    study = load_study(name)
    stored = json.loads(json.dumps(study.model_dump(mode="json"), allow_nan=False))
    assert Study.model_validate(stored) == study


def test_a_workload_is_stored_as_it_is_written():
    workload = load_study("quickstart").model_dump(mode="json")["workload"]
    assert workload == parse(builtin_studies()["quickstart"].read_text(), "quickstart")["workload"]


def test_batch_is_micro_batch_times_accumulation_times_workers(minimal):
    study = load_study(minimal, ["worker_batch=null", "micro_batch=4", "accumulation_steps=3", "workers=[5, 2]"])
    assert study.batch_sizes == (24, 60)
    assert study.split == (4, 3)


def test_overrides_reach_nested_keys_lists_and_workload_options(minimal):
    study = load_study(
        minimal,
        [
            "base.lr=2e-3",
            "seeds=[10, 11]",
            "workload.dimensions=7",
            "targets=[{metric: loss, values: [1, 2]}]",
            "targets.0.values=[0.4]",
            "workers.1=16",
        ],
    )
    assert (study.base.lr, study.seeds, study.workers) == (0.002, (10, 11), (1, 16))
    assert study.workload.options == {"dimensions": 7}
    assert study.targets[0].values == (0.4,)


def test_an_override_leaves_what_it_was_given_alone():
    raw = {"a": {"b": [1, 2]}}
    assert apply_overrides(raw, ["a.b.0=9"]) == {"a": {"b": [9, 2]}}
    assert raw == {"a": {"b": [1, 2]}}


def test_seeds_may_be_a_count_and_samples_a_float_that_is_whole(minimal):
    study = load_study(minimal, ["seeds=4", "limits.samples=1e6"])
    assert study.seeds == (0, 1, 2, 3)
    assert study.limits.samples == 1_000_000
    assert isinstance(study.limits.samples, int)


@given(count=st.integers(0, 20).map(lambda half: 2 * half + 1), span=st.floats(1.01, 1e6))
def test_a_log_grid_is_symmetric_around_one_and_as_wide_as_its_span(count, span):
    grid = LogGrid(count=count, span=span).multipliers() if count > 1 else LogGrid(count=1, span=1.0).multipliers()
    assert len(grid) == count
    assert 1.0 in grid
    assert [a * b for a, b in zip(grid, grid[::-1], strict=True)] == pytest.approx([1.0] * count, rel=1e-9)
    assert count == 1 or grid[-1] / grid[0] == pytest.approx(span, rel=1e-9)


def test_floats_are_rounded_at_the_door_so_that_ids_and_arithmetic_agree(minimal):
    third = load_study(minimal, [f"base.lr={1 / 3!r}", f"workload.power={2 / 3!r}"])
    assert third.base.lr == 0.333333333333
    assert third.workload.options["power"] == 0.666666666667


def test_layer_wise_optimizers_spare_vectors_unless_told_otherwise(minimal):
    assert load_study(minimal, ["optimizer={name: lars}"]).optimizer.model_dump() == {
        "name": "lars",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "trust_coefficient": 0.001,
        "exclude_vectors": True,
    }
    assert load_study(minimal, ["optimizer={name: lamb, exclude_vectors: false}"]).optimizer.model_dump() == {
        "name": "lamb",
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-6,
        "weight_decay": 0.01,
        "exclude_vectors": False,
    }


def test_a_study_cannot_be_changed(minimal):
    study = load_study(minimal)
    with pytest.raises(ValueError, match="frozen"):
        study.limits.samples = 1


def test_every_field_has_a_line_of_documentation():
    parts = [part for part in vars(study_parts).values() if isinstance(part, type) and issubclass(part, BaseModel)]
    for model in [*parts, Study, LogGrid]:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


# ---- YAML as people mean it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2", -2),
        ("1_000", 1000),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1:30", "1:30"),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("'1e-3'", "1e-3"),
        ("1e", "1e"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = parse(text, "test")
    assert found == value
    assert type(found) is type(value)


def test_a_repeated_key_is_refused_with_its_line(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text(MINIMAL + "name: again\n")
    assert f"line 11 of {path}: the key 'name' appears twice" in refusal(str(path))


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [true]", "!!python/name:os.system", "!mine 3"])
def test_a_tag_is_refused(minimal, tag):
    assert "a YAML tag (!...) would build an object" in refusal(minimal, f"question={tag}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it holds nothing"),
        (b"- 1\n", "it holds a list"),
        (b"a: [1\n", "line 2"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a: \x00", "special characters are not allowed"),
        (b"a: " + b"[" * 100_000, "nested too deeply"),
        (b"# " + b"x" * (1 << 20), "larger than 1048576 bytes"),
        (b"a: " + b"9" * 5000, "integer string conversion"),
    ],
)
def test_what_is_no_study_file_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    assert message in refusal(str(path))


# ---- mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("limits.sampels=3", "unknown key 'limits.sampels'; did you mean 'samples'?"),
        ("optimizer.momentun=0.9", "unknown key 'optimizer.momentun'; did you mean 'momentum'?"),
        ("optimizer.name=sdg", "optimizer.name is \"sdg\"; did you mean 'sgd'?"),
        ("optimizer={}", "optimizer.name is null; valid: adamw, lamb, lars, sgd."),
        ("optimizer={name: lars, trust_coefficient: 0}", "trust_coefficient is 0; it must be greater than 0."),
        ("optimizer={name: lamb, beta2: 1}", "optimizer.beta2 is 1; it must be less than 1."),
        ("optimizer={name: lamb, momentum: 0.9}", "unknown key 'optimizer.momentum'"),
        ("optimizer={name: adamw, eps: 0}", "optimizer.eps is 0; it must be greater than 0."),
        ("base.lr=-1", "base.lr is -1; it must be greater than 0."),
        ("base.lr=.nan", "base.lr is NaN; it must be a finite number."),
        ("base.lr='0.1'", 'base.lr is "0.1"; it must be a valid number.'),
        ("base.lr=true", "base.lr is true; it must be a valid number."),
        ("base={lr: 1}", "'base.batch_size' is missing: Base batch [samples]"),
        ("worker_batch=0", "worker_batch is 0; it must be greater than 0."),
        ("worker_batch=2.5", "worker_batch is 2.5; it must be a valid integer."),
        ("micro_batch=4", "say either worker_batch, or micro_batch and accumulation_steps."),
        ("accumulation_steps=4", "accumulation_steps goes with micro_batch"),
        ("workers=[2, 2]", "workers: 2 appears twice."),
        ("workers=[]", "workers is []; what is meant: Data-parallel worker counts"),
        ("workers=[1.5]", "workers.0 is 1.5; it must be a valid integer."),
        ("seeds=1e9", "seeds: a number of seeds lies between 1 and 10000; got 1e+09."),
        ("seeds=[-1]", "seeds.0 is -1; it must be greater than or equal to 0."),
        ("lr_rules=[sqr]", "There is no rule 'sqr'; did you mean 'sqrt'?"),
        ("lr_multipliers=[0.5, 2]", "1 must be among the multipliers"),
        ("lr_multipliers={count: 4, span: 16}", "lr_multipliers: count is 4; it must be odd"),
        ("lr_multipliers={count: 1e9, span: 16}", "count is 1000000000"),
        ("name=../escape", 'name is "../escape"; what is meant: Name of the study and of its directory'),
        ("name='..'", 'name is ".."'),
        ("dtype=float16", "dtype is \"float16\"; it must be 'float32', 'float64' or 'bf16'."),
        ("limits.samples=15", "the batch of 16 would not take a single step"),
        ("limits.usd=5", "limits.usd needs a price"),
        ("noise.shards=1", "noise.shards is 1; it must be greater than or equal to 2."),
        ("workload=quadratic", 'workload is "quadratic"; it must be a mapping of keys to values.'),
        ("workload.inner={a: 1}", "an option is a number, a text, true, false, null, or a list of these"),
        ("realisations=[{engine: ddp, workers: 3, batch_size: 16}]", "3 workers cannot share a batch of 16 equally"),
        ("realisations=[{engine: ddp, workers: 2, batch_size: 32}]", "the batch of 32 is not on the grid: 8, 16"),
        ("realisations=[{engine: ddp, workers: 2, batch_size: 16, seed: 9}]", "the seed 9 is not one of the study's"),
        ("realisations=[{engine: ddp, workers: 2, batch_size: 16, rule: lin}]", "did you mean 'linear'"),
        ("question", "is not of the form a.b=value"),
        ("a..b=1", "is not of the form a.b=value"),
        ("workers.7=1", "'7' is not an index of a list of 2"),
        ("name.first=1", "lies below 'tiny', which has no keys"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_where_what_and_what_to_do(minimal, override, message):
    assert message in refusal(minimal, override)


def test_several_mistakes_are_counted(minimal):
    assert refusal(minimal, "base.lr=-1", "dtype=int", "seeds=[]").endswith("(and 2 more).")


def test_a_target_that_could_never_be_confirmed_is_refused(minimal):
    target = "targets=[{metric: loss, values: [1]}]"
    assert "evaluated 1 time(s) in 1000 samples" in refusal(minimal, target, "evaluation.every_samples=501")
    assert load_study(minimal, [target, "evaluation.every_samples=500"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrat", "There is no built-in study 'quickstrat'; did you mean 'quickstart'?"),
        ("nowhere/quickstart.yaml", "There is no study file 'nowhere/quickstart.yaml'; built-in: "),
        (".", "There is no built-in study '.'"),
        ("/", "Is a directory"),
        ("a\0b.yaml", "There is no study file"),
    ],
)
def test_a_study_that_is_not_there_is_one_sentence(name, message):
    assert message in refusal(name)


def test_it_is_said_whether_the_file_or_an_override_is_at_fault(minimal, tmp_path):
    assert f"In {minimal} as changed by --set: unknown key 'lr_multiplier'" in refusal(minimal, "lr_multiplier=[1]")
    broken = tmp_path / "broken.yaml"
    broken.write_text(MINIMAL + "\nlr_multiplier: [1]\n")
    assert f"In {broken}: unknown key 'lr_multiplier'" in refusal(str(broken), "seeds=[1]")


text = st.text(alphabet="abz01.-+e:[]{},!&*# '\"\n~", max_size=12)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from([*Study.model_fields, "base.lr", "targets.0", "limits.usd", "workload.x"]), value=text)
def test_any_override_gives_a_study_or_one_sentence(minimal, path, value):
    try:
        study = load_study(minimal, [f"{path}={value}"])
    except ConfigError:
        assert refusal(minimal, f"{path}={value}")
    else:
        assert Study.model_validate(json.loads(json.dumps(study.model_dump(mode="json")))) == study


# ---- data, hardware, wheel


def test_a_batch_larger_than_the_training_set_is_refused(minimal):
    study = load_study(minimal)
    check_against_data(study, n_train=16, metrics={})
    check_against_data(study, n_train=None, metrics={})
    with pytest.raises(ConfigError, match="batch of 16 samples is larger than the training set of 15"):
        check_against_data(study, n_train=15, metrics={})


def test_a_metric_that_the_workload_does_not_report_is_refused_with_the_nearest(minimal):
    study = load_study(minimal, ["targets=[{metric: val_loss, values: [1]}]"])
    with pytest.raises(ConfigError, match="reports no metric 'val_loss'; did you mean 'loss'"):
        check_against_data(study, None, {"loss": "min", "accuracy": "max"})


@pytest.mark.parametrize("name", builtin_hardware())
def test_every_hardware_number_has_a_source_and_a_date(name):
    profile = read_hardware(name)
    sourced = {field for source in profile.sources for field in source.fields}
    assert sourced == {field for field, value in profile if isinstance(value, int | float)}


def priced(tmp_path, price):
    raw = yaml.safe_load((ROOT / "clusters/hardware/t4.yaml").read_text())
    raw["price_usd_per_hour"] = price
    raw["sources"] += [{"fields": ["price_usd_per_hour"], "title": "Our list", "url": "x", "published": "2024-01-31"}]
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_the_price_of_a_profile_becomes_the_study_s_unless_it_has_its_own(minimal, tmp_path):
    path = priced(tmp_path, 0.75)
    assert load_study(minimal, [f"hardware={path}", "limits.usd=3"]).price_usd_per_worker_hour == 0.75
    own = load_study(minimal, [f"hardware={path}", "price_usd_per_worker_hour=2"])
    assert own.price_usd_per_worker_hour == 2


def test_a_profile_without_a_price_carries_no_dollar_limit(minimal):
    assert load_study(minimal, ["hardware=t4"]).price_usd_per_worker_hour is None
    assert "the hardware profile 't4' has none" in refusal(minimal, "hardware=t4", "limits.usd=3")


def test_a_number_without_a_source_is_refused(tmp_path):
    path = tmp_path / "loose.yaml"
    path.write_text((ROOT / "clusters/hardware/t4.yaml").read_text().replace("fields: [memory_bytes, ", "fields: ["))
    with pytest.raises(ConfigError, match="sources name no source for memory_bytes"):
        read_hardware(str(path))
