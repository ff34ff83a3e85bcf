"""The commands as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from jsonschema import validate

from scaleexp.config import load_study
from scaleexp.launch.opening import open_study, prepare

STUDY = """
name: mine
question: Does it fit?
workload: {name: quadratic}
targets: [{metric: expected_loss, values: [0.5]}]
optimizer: {name: sgd}
base: {batch_size: 16, lr: 0.1}
workers: [1, 2]
worker_batch: 4
limits: {samples: 1000}
evaluation: {every_samples: 100}
"""


def scaleexp(*args: str, cwd=None, module: str = "scaleexp") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, check=False)


@pytest.mark.parametrize("module", ["scaleexp", "analysis"])
def test_help_imports_neither_ray_nor_torch(module):
    script = (
        f"import sys; sys.argv = ['x', '--help']\n"
        f"from {module}.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'ray', 'torch', 'matplotlib', 'obstore'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout
    assert "\\b" not in done.stdout


BAD_INPUT = {
    "unknown key": (["worker_batchs=4"], "did you mean 'worker_batch'?"),
    "negative lr": (["base.lr=-0.1"], "base.lr"),
    "no samples per worker": (["worker_batch=0"], "worker_batch"),
    "metric that is never reported": (["targets.0.metric=expected_los"], "did you mean 'expected_loss'?"),
    "unknown workload": (["workload.name=quadratik"], "did you mean 'quadratic'?"),
    "unknown option of a workload": (["workload.noize=2"], "did you mean 'noise'?"),
    "option out of range": (["workload.noise=-1"], "workload.noise is -1"),
    "class that is no workload": (["workload={name: 'tests.plugin_workloads:NoMetrics'}"], "lacks unit, n_train"),
    "batch norm": (
        ["workload={name: classifier, model: 'tests.plugin_workloads:with_batch_norm'}", "targets=[]"],
        "has batch norm, and whose samples share its statistics changes the result: set batch_norm to worker, sync",
    ),
    "model that changes a buffer": (
        ["workload={name: classifier, model: 'tests.plugin_workloads:that_counts'}", "targets=[]"],
        "changes its buffer 'passes'",
    ),
    "batch norm that the model does not have": (["batch_norm=sync"], "has no batch norm: leave it out"),
    "ghost that does not divide": (["batch_norm=3"], "needs micro-batches that are multiples of it"),
    "processes without real workers": (["processes=2"], "processes are for engine: ddp"),
    "workload that draws at random": (
        ["workload={name: 'tests.plugin_workloads:Dropping'}"],
        "two passes over the same samples differ",
    ),
    "workload that fails at once": (
        ["workload={name: 'tests.plugin_workloads:Forgetful'}"],
        "fails on its first two samples: KeyError: 'pixels'",
    ),
    "model that does not fit the data": (
        ["workload={name: classifier, model: 'tests.plugin_workloads:misfit'}"],
        "fails on its first two samples: RuntimeError",
    ),
    "model of another signature": (
        ["workload={name: classifier, model: 'tests.plugin_workloads:no_arguments'}"],
        "unexpected keyword argument 'shape'",
    ),
    "option of another type": (["workload={name: classifier, hidden: wide}"], "cannot take hidden = 'wide'"),
    "number that is a truth": (["workload={name: classifier, held_out: true}"], "it is a number"),
    "reserved option": (["workload={name: classifier, dtype: float64}"], "no option 'dtype'"),
    "learning rate beyond numbers": (["base.lr=1e300"], "learning rate of"),
    "unknown option of the data": (["workload={name: classifier, held_uot: 3}"], "did you mean 'held_out'?"),
    "unknown rule": (["lr_rules=[squrt]"], "did you mean 'sqrt'?"),
    "python object": (["base.lr=!!python/object/apply:os.getcwd []"], "tag"),
    "override without a value": (["base.lr"], "base.lr"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_gets_one_sentence_and_exit_code_2(tmp_path, case):
    (tmp_path / "mine.yaml").write_text(STUDY)
    sets, expected = BAD_INPUT[case]
    done = scaleexp("run", "mine.yaml", "--yes", *(a for s in sets for a in ("--set", s)), cwd=tmp_path)
    assert_one_sentence(done, 2, expected)
    assert not (tmp_path / "scaleexp-results").exists()


def assert_one_sentence(done, code, expected):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert expected in done.stderr
    assert done.stdout == ""


def test_a_missing_file_is_named_with_the_nearest_built_in_study(tmp_path):
    assert_one_sentence(scaleexp("plan", "no/such.yaml", cwd=tmp_path), 2, "no/such.yaml")
    assert_one_sentence(scaleexp("plan", "quikstart", cwd=tmp_path), 2, "did you mean 'quickstart'?")


def test_a_yaml_tag_in_the_file_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY.replace("quadratic}", "!!python/name:os.system x}"))
    assert_one_sentence(scaleexp("plan", "mine.yaml", cwd=tmp_path), 2, "tag")


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    done = scaleexp("plan", "quickstart", "--set", "workers=[16, 2000]", cwd=tmp_path)
    assert_one_sentence(done, 2, "The batch of 8000 samples is larger than the training set of 4000")


def test_running_without_a_terminal_asks_for_yes(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    assert_one_sentence(scaleexp("run", "mine.yaml", cwd=tmp_path), 2, "add --yes")


def test_storage_that_cannot_be_written_is_exit_code_5(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    done = scaleexp("run", "mine.yaml", "--yes", "--storage", "/proc/nowhere", cwd=tmp_path)
    assert done.returncode == 5
    assert "Traceback" not in done.stderr
    assert "/proc/nowhere" in done.stderr


def test_plan_prints_a_table_and_the_same_as_json(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    table = scaleexp("plan", "mine.yaml", cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "1 x 4" in table.stdout
    done = scaleexp("plan", "mine.yaml", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    from importlib.resources import files

    validate(document, json.loads((files("scaleexp") / "schemas" / "plan.json").read_text()))


def test_run_shows_the_plan_and_asks_before_it_starts(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    terminal, theirs = os.openpty()
    command = [sys.executable, "-m", "scaleexp", "run", "mine.yaml"]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as asked:
        os.close(theirs)
        os.write(terminal, b"n\n")
        said, told = asked.communicate(timeout=300)
    os.close(terminal)
    for expected in (b" trials: at most", b"time: at most", b"disk: at most", b"cost: not known", b"Start? [y/N]"):
        assert expected in said + told
    assert asked.returncode == 130
    assert not (tmp_path / "scaleexp-results").exists()
    alone = scaleexp("run", "mine.yaml", cwd=tmp_path)
    assert (alone.returncode, "add --yes" in alone.stderr) == (2, True)


def test_another_study_in_the_default_place_is_noted_by_plan_and_refused_where_it_was_named(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    open_study(prepare(load_study("quadratic")), tmp_path / "scaleexp-results" / "mine")
    noted = scaleexp("plan", "mine.yaml", "--no-calibrate", cwd=tmp_path)
    assert noted.returncode == 0
    assert noted.stderr.startswith("note: ")
    assert "give another --storage" in noted.stderr
    named = scaleexp("plan", "mine.yaml", "--no-calibrate", "--storage", "scaleexp-results/mine", cwd=tmp_path)
    assert_one_sentence(named, 2, "give another --storage")


@pytest.mark.parametrize("what", ["workloads", "rules", "studies"])
def test_listings_name_what_a_study_may_name(what):
    document = json.loads(scaleexp("list", what, "--json").stdout)
    names = {item["name"] for item in document[what]}
    assert names >= {"workloads": {"classifier", "quadratic"}, "rules": {"sqrt"}, "studies": {"quickstart"}}[what]
    assert names <= set(scaleexp("list", what).stdout.split())
    from importlib.resources import files

    validate(document, json.loads((files("scaleexp") / "schemas" / "list.json").read_text()))


@pytest.mark.ray
def test_run_writes_a_study_that_the_analysis_reads(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    done = scaleexp("run", "mine.yaml", "--yes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reached the target" in done.stdout
    assert "scaleexp-analysis report" in done.stdout
    fit = scaleexp("fit", "scaleexp-results/mine", cwd=tmp_path, module="analysis")
    assert fit.returncode == 6  # two batch sizes do not make a curve
    assert "Traceback" not in fit.stderr


@pytest.mark.ray
def test_real_workers_that_never_fit_are_exit_code_4(tmp_path):
    sets = ["engine=ddp", "workers=[64]", "realisations=[]"]
    done = scaleexp("run", "quickstart", "--yes", *(a for s in sets for a in ("--set", s)), cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "64 real workers" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_a_failed_trial_is_exit_code_3(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY.replace("name: quadratic", "name: 'tests.plugin_workloads:Broken'"))
    done = scaleexp("run", "mine.yaml", "--yes", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "RuntimeError: the data went missing" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_file_in_the_place_of_the_storage_is_exit_code_5(tmp_path):
    (tmp_path / "mine.yaml").write_text(STUDY)
    done = scaleexp("run", "mine.yaml", "--yes", "--storage", "mine.yaml", cwd=tmp_path)
    assert done.returncode == 5
    assert "is a file: give a directory" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "scaleexp", "run", "quickstart", "--yes", "--storage", "study"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as study:
        deadline = time.monotonic() + 300
        while not list(tmp_path.glob("study/trials/*/commits/*.json")) and time.monotonic() < deadline:
            time.sleep(0.2)
        study.send_signal(signal.SIGINT)
        _, told = study.communicate(timeout=300)
    assert study.returncode == 130, told
    assert told.strip().splitlines()[-1].startswith("error: stopped; what was committed is kept in study")
    assert "Traceback" not in told
