"""One study, analysed: what enters the answer, what is compared beside it, and what is said when there is none."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from analysis.agreements import agreements, largest_relative_difference
from analysis.card import card
from analysis.read import load
from analysis.study import StudyAnalysis, analyse, answer
from tests.study_factory import sha256, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyAnalysis:
    return analyse(write_study(tmp_path_factory.mktemp("studies") / "s", noise=0.03))


def rewrite(trial: Path, name: str, change) -> None:
    """Change a committed segment and bind it anew."""
    file = trial / "segments" / name
    pq.write_table(change(pq.read_table(file)), file)
    commit_file = trial / "commits" / "0002.json"
    commit = json.loads(commit_file.read_text())
    for segment in commit["segments"]:
        if segment["file"].endswith(name):
            segment.update(sha256=sha256(file.read_bytes()), rows=pq.read_metadata(file).num_rows)
    commit_file.write_text(json.dumps(commit))


def with_last(column: str, value: float):
    def change(table: pa.Table) -> pa.Table:
        values = table[column].to_numpy().copy()
        values[-1] = value
        return table.set_column(table.column_names.index(column), table.schema.field(column), pa.array(values))

    return change


def test_the_hardest_planned_target_is_the_default(study: StudyAnalysis) -> None:
    assert (study.metric, study.target, study.direction, study.unit) == ("loss", 1.0, "min", "example")


def test_a_second_realisation_never_enters_the_fit(tmp_path: Path, study: StudyAnalysis) -> None:
    alone = analyse(write_study(tmp_path / "s", noise=0.03, second_realisation=False))
    assert alone.fit == study.fit
    assert alone.noise == study.noise
    assert alone.agreements == ()
    assert len(study.agreements) == 1


def test_agreement_is_the_largest_relative_difference_of_any_row(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", noise=0.03)
    second = next(path.glob("trials/*@ddp-2"))
    (before,) = agreements(load(path))
    assert before.loss_difference == pytest.approx(1e-12, rel=0.01)
    assert (before.agrees, before.tolerance) == (True, 1e-8)
    assert before.other_step_s == pytest.approx(1.5 * before.step_s)
    last = pq.read_table(second / "segments" / "steps-0002.parquet")["loss"][-1].as_py()
    rewrite(second, "steps-0002.parquet", with_last("loss", 1.25 * last))
    (after,) = agreements(load(path))
    assert after.loss_difference == pytest.approx(0.2)
    assert not after.agrees
    assert "DISAGREE" in card(analyse(path)).split("\n\n")[0]
    assert after.value_difference == before.value_difference
    assert after.steps == before.steps
    rewrite(second, "steps-0002.parquet", lambda t: t.filter(pc.less(t["step"], 90)))
    facts_file = second / "trial.json"
    facts_file.write_text(json.dumps(json.loads(facts_file.read_text()) | {"dtype": "float32"}))
    (short,) = agreements(load(path))
    assert short.steps == 89
    assert (short.agrees, short.tolerance) == (True, 1e-3)
    assert short.loss_difference == before.loss_difference


def test_nan_on_one_side_is_no_agreement() -> None:
    one, other = np.array([1.0, math.nan]), np.array([1.0, math.nan])
    assert largest_relative_difference(one, other) == 0.0
    assert math.isinf(largest_relative_difference(one, np.array([1.0, 2.0])))
    assert math.isnan(largest_relative_difference(one[:0], other[:0]))


def test_one_trial_left_out_as_corrupt_does_not_change_what_the_others_say(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", noise=0.0, diverged=False)
    whole = analyse(path)
    (path / "trials" / whole.points[0].runs[0].key / "segments" / "evals-0001.parquet").write_bytes(b"")
    rest = analyse(path)
    assert rest.fit is not None
    assert whole.fit is not None
    assert rest.fit.b_crit == pytest.approx(whole.fit.b_crit, rel=1e-6)
    assert "is left out" in rest.left_out[0]
    assert any("fewer than 3 seeds at batch 16" in warning for warning in rest.fit.warnings)


def test_running_trials_are_told_from_those_that_met_their_limit(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", noise=0.03)
    for commit in path.glob("trials/*/commits/0002.json"):
        if json.loads(commit.read_text())["status"] == "limit":
            commit.unlink()
    left_out = analyse(path).left_out
    assert any(sentence.startswith("6 of 42 runs stopped short") for sentence in left_out)
    assert not any("met their limit" in sentence for sentence in left_out)


def test_the_answer_names_target_interval_unit_and_definition(study: StudyAnalysis) -> None:
    said = answer(study)
    assert said.startswith("The critical batch size for loss ≤ 1 is ")
    assert "examples (95 % interval " in said
    assert said.endswith("there a run takes twice the fewest steps and twice the fewest samples.")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "not_identified", "b_crit_interval": (70.0, math.inf)}, "All they say is: 70 or more examples."),
        ({"status": "not_identified", "b_crit_interval": (0.0, 70.0)}, "All they say is: at most 70 examples."),
        ({"status": "not_identified", "b_crit_interval": (50.0, 70.0)}, "is: because."),
        ({"status": "not_identified", "b_crit_interval": (0.0, math.inf)}, "is: because."),
        ({"status": "misfit"}, "The data do not follow the curve"),
        ({"status": "extrapolated"}, "this is extrapolated: because."),
    ],
)
def test_the_answer_is_never_surer_than_the_status(study: StudyAnalysis, changes: dict, says: str) -> None:
    assert study.fit is not None
    said = answer(replace(study, fit=replace(study.fit, reason="because.", **changes)))
    assert says in said
    assert ("is 2" in said) == (changes["status"] == "extrapolated")


def test_too_few_batches_give_no_fit_and_say_which_target_has_enough(tmp_path: Path) -> None:
    result = analyse(write_study(tmp_path / "s", noise=0.03), target=0.3)
    assert result.fit is None
    assert result.fit_reason in answer(result)
    assert "take the easier target 1, which enough runs reached" in result.fit_reason
    assert [batch for batch, _ in result.missing] == [16, 64, 256, 1024]
    assert result.noise is None


def test_one_example_is_in_the_singular(study: StudyAnalysis) -> None:
    single = tuple(replace(run, workers=run.batch_size) for run in study.runs)
    assert "workers of 1 example each" in answer(replace(study, runs=single))
