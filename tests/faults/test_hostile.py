"""What somebody else wrote is data: it runs nothing, leads nowhere, allocates nothing, and keeps nobody's secrets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import analysis.read
from analysis.report import write_report
from analysis.study import analyse
from scaleexp.config import load_study
from scaleexp.errors import ConfigError, StorageError
from scaleexp.plan import make_plan
from scaleexp.resume import standing
from scaleexp.storage import Store
from tests.faults.small_study import rewritten
from tests.study_factory import write_study

STUDY = Path(__file__).parents[2] / "scaleexp" / "studies" / "quadratic.yaml"


@pytest.fixture(autouse=True, scope="module")
def _reproducible():
    yield
    torch.use_deterministic_algorithms(False)


# Study files


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "!!python/object/new:subprocess.Popen [['touch', '{}']]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!x 1",
    ],
)
def test_a_yaml_tag_builds_nothing(tmp_path, tag):
    mark, file = tmp_path / "ran", tmp_path / "study.yaml"
    file.write_text(STUDY.read_text() + f"\nhardware: {tag.format(mark)}\n")
    with pytest.raises(ConfigError, match="a YAML tag"):
        load_study(str(file))
    with pytest.raises(ConfigError, match="a YAML tag"):
        load_study("quadratic", [f"hardware={tag.format(mark)}"])
    assert not mark.exists()


def test_a_grid_of_a_thousand_million_points_is_refused_in_one_sentence():
    grid = ["seeds=10000", f"workers={[2**i for i in range(10)]}", "lr_multipliers={count: 9999, span: 1000}"]
    study = load_study("quadratic", [*grid, "limits.samples=1e9", "realisations=[]", "worker_batch=16"])
    with pytest.raises(ConfigError, match=r"spans up to 1,000,200,000 trials.*thin out") as caught:
        make_plan(study, "0" * 64)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="a number of seeds lies between 1 and 10000"):
        load_study("quadratic", ["seeds=1000000000"])


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "<script>", "a\nb", ""])
def test_a_study_name_is_no_path(name):
    with pytest.raises(ConfigError, match="name"):
        load_study("quadratic", [f"name={json.dumps(name)}"])


# Study directories


def refused(root: Path, trial) -> list[str]:
    """What the reader and the one that goes on say about it; neither may read a row that is not the study's."""
    said = []
    for look in (lambda: analysis.read.load(root), lambda: standing(Store(root), trial)):
        try:
            found = look()
        except StorageError as error:
            said.append(str(error))
        else:
            said += found.problems if isinstance(found, analysis.read.StudyLog) else [f"from step {found.step}"]
    assert len(said) >= 2
    assert "from step 2" not in said
    return said


@pytest.mark.parametrize("name", ["../../../secret", "/etc/passwd", "segments/../../../../secret", "a\0b", "x" * 5000])
@pytest.mark.parametrize("what", ["segments", "checkpoint"])
def test_a_name_in_a_commit_leads_nowhere(interrupted, name, what):
    root, trial = interrupted
    secret = root.parent / "secret"
    secret.write_bytes(b"PAR1")

    def change(commit):
        reference = commit["segments"][0] if what == "segments" else commit["checkpoint"]
        reference.update(file=name, sha256=hashlib.sha256(b"PAR1").hexdigest())

    rewritten(root, f"trials/{trial.key}/commits/0002.json", change)
    if what == "checkpoint":
        (root / "plan" / "0001.json").unlink()  # the reader does not look at states
    assert name == "/etc/passwd" or any("leads out" in said for said in refused(root, trial))  # that one lies inside
    assert all("not what was committed" not in said for said in refused(root, trial)), "it was not even read"


@pytest.mark.parametrize("trial_id", ["../../outside", "/etc", "..", "a/../../../outside"])
def test_a_trial_id_in_a_plan_leads_nowhere(interrupted, trial_id):
    root, trial = interrupted
    (root.parent / "outside").mkdir()
    for file in (root / "trials" / trial.key).glob("*.json"):
        (root.parent / "outside" / file.name).write_bytes(file.read_bytes())
    rewritten(root, "plan/0001.json", lambda plan: plan["trials"][0].update(trial_id=trial_id))
    with pytest.raises(StorageError):
        analysis.read.load(root)
    if ".." in trial_id:
        with pytest.raises(StorageError, match="leads out"):
            Store(root).write(f"trials/{trial_id}/trial.json", b"")


@pytest.mark.parametrize("what", ["trial", "segments", "file", "plan"])
def test_a_symbolic_link_leads_nowhere(interrupted, what):
    root, trial = interrupted
    own = root / "trials" / trial.key
    inside = {
        "trial": own,
        "segments": own / "segments",
        "file": next(own.glob("segments/*steps*")),
        "plan": root / "plan",
    }[what]
    moved = root.parent / "moved"
    inside.rename(moved)
    inside.symlink_to(moved)
    assert any("leads out" in said for said in (refused(root, trial) if what != "plan" else _said(root)))
    if what in ("segments", "trial"):
        with pytest.raises(StorageError, match="leads out"):
            Store(root).write(f"trials/{trial.key}/segments/new.parquet", b"")
        assert not list(moved.rglob("new*"))


def _said(root: Path) -> list[str]:
    with pytest.raises(StorageError) as caught:
        analysis.read.load(root)
    return [str(caught.value)]


def test_a_study_behind_a_link_of_its_own_is_read(interrupted, tmp_path):
    (tmp_path / "link").symlink_to(interrupted[0])
    assert analysis.read.load(tmp_path / "link").problems == ()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("commits/0002.json", lambda c: c.update(segments=5)),
        ("commits/0002.json", lambda c: c["segments"][0].update(file=7)),
        ("commits/0002.json", lambda c: c["segments"][0].update(rows="many")),
        ("commits/0002.json", lambda c: c.update(step="2")),
        ("commits/0002.json", lambda c: c.update(status="perfect")),
        ("commits/0002.json", lambda c: c.pop("segments")),
        ("trial.json", lambda c: c.update(workload=[])),
        ("trial.json", lambda c: c.update(trial_id=None)),
    ],
)
def test_a_field_of_another_type_is_refused(interrupted, file, change):
    root, trial = interrupted
    rewritten(root, f"trials/{trial.key}/{file}", change)
    assert any(file in said for said in refused(root, trial))


@pytest.mark.parametrize("content", [b"[" * 10**5, b"[]", b"7", b'{"a": ' * 5000, b"\xff\xfe\x00", b"9" * 10**5, b""])
def test_json_of_any_shape_is_refused(interrupted, content):
    root, trial = interrupted
    (root / f"trials/{trial.key}/commits/0002.json").write_bytes(content)
    assert refused(root, trial)


# Reports


def test_markup_in_a_study_is_text_in_its_report(tmp_path):
    path = write_study(tmp_path / "study", noise=0.03)
    plan = path / "plan" / "0001.json"
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    held = json.loads(plan.read_text())
    plan.write_text(json.dumps(held | {"study": evil, "question": evil}))
    for facts in path.glob("trials/*/trial.json"):
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"workload": {"name": evil}, "git_sha": evil}))
    (page,) = [write_report(analyse(path), tmp_path / "report.html").read_text()]
    assert page.count("<script") == page.count('<script>"use strict";') == 1
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
