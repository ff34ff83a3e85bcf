"""The local critical batch size of branches: from tables and curves, as JSON, as a figure, and what is refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import analysis
from analysis.cli import main
from analysis.local_batch import Branch, local_batch
from analysis.output import schema_of
from analysis.plot_local import plot_local
from scaleexp.errors import ConfigError
from tests.study_factory import write_study

BATCHES = (64, 128, 256, 512, 1024)
TRUTH = {1_000: 150.0, 10_000: 300.0, 100_000: 700.0}
"""Branch point -> the batch whose loss is 0.01 above that of batch 64."""
BRANCHED = ("--definition", "branched", "--unit", "token")


def loss_of(at: int, batch: int, seed: int, noise: float = 0.0) -> float:
    """Linear in the batch; what a seed's checkpoint adds is common to all of its branches."""
    own = np.random.default_rng([at, batch, seed]).standard_normal()
    return 3.0 + 0.05 * seed + 0.01 * (batch - 64) / (TRUTH[at] - 64) + noise * own


def branches(path: Path, *, seeds: int = 3, noise: float = 0.0005, points: tuple[int, ...] = tuple(TRUTH)) -> Path:
    rows = [(at, b, s, loss_of(at, b, s, noise)) for at in points for b in BATCHES for s in range(seeds)]
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(["branch_samples,batch_size,seed,loss", *lines]) + "\n")
    return path


def fitted(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    assert main(["fit", *map(str, arguments), "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    jsonschema.Draft202012Validator(schema_of("fit")).validate(document)
    found: list[dict[str, Any]] = document["fits"]
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["fit", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    return str(err)


def test_every_branch_point_has_its_bracket_around_the_truth(capsys, tmp_path):
    found = fitted(capsys, branches(tmp_path / "b.csv"), *BRANCHED)
    assert [fit["group"] for fit in found] == [{"branch_samples": at} for at in TRUTH]
    for fit, truth in zip(found, TRUTH.values(), strict=True):
        low, high = fit["branched"]["bracket"]
        assert low <= truth < high
        assert (fit["definition"], fit["status"], fit["b_crit"]) == ("branched", "ok", low)
        assert fit["b_crit_interval"] == [low, high]  # the noise of seeds is far below the steps of the loss
        assert (fit["s_min"], fit["n_runs"], fit["n_batches"], fit["equal_samples"]) == (None, 15, 5, None)
        assert fit["branched"]["window"] is None


def test_what_the_branches_of_a_seed_share_is_no_noise(capsys, tmp_path):
    # A seed's checkpoint moves its losses by 0.05, five times the tolerance.
    (paired, *_) = fitted(capsys, branches(tmp_path / "b.csv"), *BRANCHED)
    assert (paired["b_crit_interval"], paired["status"]) == ([128, 256], "ok")
    lines = (tmp_path / "b.csv").read_text().splitlines()
    (tmp_path / "c.csv").write_text("\n".join(line for line in lines if not line.startswith("10000,512,2,")) + "\n")
    apart = fitted(capsys, tmp_path / "c.csv", *BRANCHED)[1]
    assert "not branched with the same seeds" in " ".join(apart["branched"]["warnings"])
    assert apart["status"] == "not_identified"


@pytest.mark.parametrize("noise", [0.002, 0.01])
def test_the_interval_holds_the_truth_as_often_as_it_claims_or_more(noise):
    rng, hits = np.random.default_rng(0), 0
    for trial in range(150):
        own = [
            Branch(batch_size=b, seed=s, loss=loss_of(10_000, b, s) + noise * rng.standard_normal())
            for b in BATCHES
            for s in range(5)
        ]
        found = local_batch(own, branch_samples=1.0, epsilon=0.01, confidence=0.9, resamples=300, seed=trial)
        hits += found.interval[0] <= TRUTH[10_000] <= found.interval[1]
    assert hits >= 0.85 * 150


def test_more_noise_never_makes_the_interval_narrower_and_in_the_end_it_is_not_identified():
    def found(noise):
        own = [Branch(batch_size=b, seed=s, loss=loss_of(10_000, b, s, noise)) for b in BATCHES for s in range(4)]
        return local_batch(own, branch_samples=1.0, epsilon=0.01, confidence=0.95)

    calm, wild = found(0.0001), found(0.05)
    assert calm.interval == (256.0, 512.0)
    assert wild.interval[0] == 0.0
    assert wild.status == "not_identified"


def test_where_the_data_bound_one_side_only_there_is_no_number(capsys, tmp_path):
    file = branches(tmp_path / "b.csv", points=(100_000,), noise=0.0)
    (wide,) = fitted(capsys, file, *BRANCHED, "--epsilon", "1")
    assert (wide["status"], wide["b_crit"], wide["branched"]["bracket"]) == ("not_identified", None, [1024, None])
    assert "branch at larger ones" in wide["reason"]
    (narrow,) = fitted(capsys, file, *BRANCHED, "--epsilon", "0.0001")
    assert (narrow["status"], narrow["b_crit"], narrow["branched"]["bracket"]) == ("not_identified", None, [None, 128])
    assert "All they say is: at most 128 tokens." in narrow["answer"]
    (tmp_path / "one.csv").write_text("branch_samples,batch_size,loss\n10,64,3.0\n")
    (one,) = fitted(capsys, tmp_path / "one.csv", *BRANCHED)
    assert one["status"] == "not_identified"
    assert "nothing to compare it with" in one["reason"]


def test_one_seed_gives_the_bracket_without_an_interval_and_says_so(capsys, tmp_path):
    found = fitted(capsys, branches(tmp_path / "b.csv", seeds=1), *BRANCHED)[1]
    assert (found["b_crit"], found["branched"]["bracket"], found["status"]) == (256, [256, 512], "ok")
    assert found["b_crit_interval"] == [None, None]
    assert "one seed only at every batch" in found["branched"]["warnings"][0]


def test_a_diverged_branch_does_not_keep_up_and_a_lost_base_is_refused(capsys, tmp_path):
    text = "branch_samples,batch_size,loss\n5,8,3.0\n5,16,{}\n5,32,3.0\n"
    (tmp_path / "b.csv").write_text(text.format(""))
    (found,) = fitted(capsys, tmp_path / "b.csv", *BRANCHED)
    assert found["branched"]["bracket"] == [None, 16]
    assert found["branched"]["losses"][1]["value"] is None
    assert "batch 32 keeps up behind one that does not" in " ".join(found["branched"]["warnings"])
    (tmp_path / "b.csv").write_text("branch_samples,batch_size,loss\n5,8,nan\n5,16,3.0\n")
    assert "lost a base branch, of batch 8" in refused(capsys, tmp_path / "b.csv", *BRANCHED)


def curves(path: Path, *, from_start: bool, step: float = -1e-4) -> Path:
    """Branches of 4,096 samples as curves: the gap opens over the window, and every batch has its own cadence."""
    lines = ["run,branch_samples,batch_size,samples,value"]
    for at in (0, 8_192):
        for b in BATCHES:
            for n in range(b, 4_096 + b * (b == 64), b):  # the base was trained one step longer
                gap = 0.01 * (b - 64) / (300 - 64) * min(n / 4_096, 1.0)
                lines.append(f"{at}-{b},{at},{b},{n + (at if from_start else 0)},{3.0 + step * n + gap}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("from_start", [True, False])
def test_curves_are_compared_at_the_last_samples_that_all_hold(capsys, tmp_path, from_start):
    file = curves(tmp_path / "c.csv", from_start=from_start)
    found = fitted(capsys, file, *BRANCHED, "--half-life", "1")
    assert [fit["group"]["branch_samples"] for fit in found] == [0, 8_192]
    for fit in found:
        local = fit["branched"]
        assert local["window"] == 3_072  # 1,024 is logged up to there
        assert local["half_life"] == 1.0
        gaps = [loss["gap"] for loss in local["losses"]]
        np.testing.assert_allclose(gaps, [0.01 * (b - 64) / 236 * 0.75 for b in BATCHES], atol=1e-9)
        assert local["bracket"] == [256, 512]
    (smoothed, _) = fitted(capsys, file, *BRANCHED)
    assert smoothed["branched"]["half_life"] == pytest.approx(307.2)


def test_groups_and_several_files_are_kept_apart_and_points_ascend(capsys, tmp_path):
    file = branches(tmp_path / "small.csv", points=(10_000, 1_000), seeds=1)
    head, *rows = file.read_text().splitlines()
    both = [head + ",model", *(f"{row},{m}" for m in ("large", "small") for row in rows)]
    (tmp_path / "models.csv").write_text("\n".join(both) + "\n")
    found = fitted(capsys, tmp_path / "models.csv", *BRANCHED, "--group-by", "model")
    assert [tuple(fit["group"].values()) for fit in found] == [
        ("large", 1_000),
        ("large", 10_000),
        ("small", 1_000),
        ("small", 10_000),
    ]
    other = branches(tmp_path / "other.csv", points=(1_000,), seeds=1)
    assert [fit["group"]["table"] for fit in fitted(capsys, file, other, *BRANCHED)] == ["small", "small", "other"]
    assert "more than once" in refused(capsys, tmp_path / "models.csv", *BRANCHED)


def test_python_gives_what_the_command_prints(capsys, tmp_path):
    file = branches(tmp_path / "b.csv")
    found = analysis.fit(file, definition="branched", unit="token")
    assert [fit.to_dict() for fit in found.fits] == fitted(capsys, file, *BRANCHED)
    said = str(found)
    assert "The local critical batch size at 10,000 tokens is 256 tokens (95 % interval 256 to 512): branches" in said
    assert "512 to 1,024" in said
    assert "128 to 256" in found.fits[0]._repr_html_()


def test_the_figure_has_every_bracket_and_arrows_where_there_is_no_end(capsys, tmp_path):
    file = branches(tmp_path / "b.csv")
    assert main(["fit", str(file), *BRANCHED, "--figure", str(tmp_path / "out" / "local.svg")]) == 0
    assert (tmp_path / "out" / "local.svg").read_text().startswith("<?xml")
    assert "figure: " in capsys.readouterr().err
    found = analysis.fit(file, definition="branched", unit="token", epsilon=0.002)
    ax = plot_local(found.fits)
    bars = {tuple(map(float, line.get_ydata())) for line in ax.get_lines() if len(line.get_ydata()) == 2}
    for fit in found.fits:
        low, high = fit.branched.bracket
        assert any(b[1] == high and (b[0] == low or not low) for b in bars)
    assert sum(line.get_marker() == "v" for line in ax.get_lines()) == sum(
        not f.branched.bracket[0] for f in found.fits
    )
    points = branches_as_points(tmp_path / "p.csv")
    assert "draws --definition branched" in refused(capsys, points, "--figure", tmp_path / "x.png")


HEAD = "branch_samples,batch_size,loss\n"


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("batch_size,loss\n1,2\n", (), "no column 'branch_samples'"),
        ("branch_samples,batch_size\n1,2\n", (), "no column 'loss'.*name the loss with --metric"),
        (HEAD + "1,2,three\n", (), "row 1 of .* has the loss 'three', which is no number"),
        (HEAD + "-1,2,3\n", (), "must say after how many samples a branch began, got -1"),
        (HEAD + "1,2,3\n1,4,3\n", ("--target", "1"), "leave --target, --direction out"),
        (HEAD + "1,2,3\n1,4,3\n", ("--multiverse",), "--definition branched tells how it moves with epsilon"),
        (HEAD + "1,2,3\n1,4,3\n", ("--half-life", "0"), "--half-life must be above 0"),
        (HEAD + "1,2,3\n1,4,3\n", ("--figure", "f.doc"), "--figure must end in .png, .svg, .pdf, got 'f.doc'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_sentence(capsys, tmp_path, text, more, said):
    (tmp_path / "b.csv").write_text(text)
    assert re.search(said, refused(capsys, tmp_path / "b.csv", "--definition", "branched", *more))


def test_a_study_holds_no_branches(capsys, tmp_path):
    root = write_study(tmp_path / "study", batches=(16, 64, 256), seeds=1, second_realisation=False)
    assert "which a study does not hold" in refused(capsys, root, "--definition", "branched")
    with pytest.raises(ConfigError, match="says nowhere where any began"):
        analysis.fit(analysis.load(branches_as_points(tmp_path / "p.csv")), definition="branched")


def branches_as_points(path: Path) -> Path:
    path.write_text("batch_size,steps\n1,100\n2,60\n4,40\n")
    return path


def test_unbounded_is_null_and_never_a_huge_number():
    own = [Branch(batch_size=b, seed=0, loss=3.0) for b in BATCHES]
    found = local_batch(own, branch_samples=1.0, epsilon=0.01, confidence=0.9)
    assert math.isnan(found.batch)
    assert found.to_dict()["bracket"] == [1024.0, None]
    assert all(row[2] is None for row in found.to_dict()["sensitivity"])
