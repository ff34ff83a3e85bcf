"""The command of a trial, started by this process as a Ray worker would: how it ends, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from scaleexp import lease
from scaleexp.config import validate_study
from scaleexp.launch import command, guard
from scaleexp.launch.opening import open_study, prepare
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from tests.test_own_script import COMMAND
from tests.without_ray import assigned

ORPHANS = """
import subprocess, sys, time
from pathlib import Path
inner = "import os, pathlib, signal, time\\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\\n" \\
    "pathlib.Path('pids').open('a').write(f'{os.getpid()}\\\\n')\\ntime.sleep(600)"
for _ in range(2):
    subprocess.Popen([sys.executable, "-S", "-c", inner], start_new_session=True)
while len(Path("pids").read_text().split()) < 2 if Path("pids").exists() else True:
    time.sleep(0.05)
Path("pids").open("a").write(f"{__import__('os').getpid()}\\n")
"""
"""A launcher whose two workers have sessions of their own and do not listen to SIGTERM."""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def pids(directory):
    file = directory / "pids"
    return [int(word) for word in file.read_text().split()] if file.exists() else []


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "STOP_S", 0.5)
    monkeypatch.setattr(command, "GRACE_S", 0.5)
    yield tmp_path
    for pid in pids(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ended(here, script, *, arguments=("{lr}",), stop_after_s=None):
    """(how the first trial of a study of a script stands once its command has ended, what was printed)."""
    (here / "train.py").write_text(textwrap.dedent(script))
    prepared = prepare(validate_study({**COMMAND, "command": [sys.executable, "train.py", *arguments]}, "the file"))
    trial = prepared.plan.trials[0]
    with lease.held(Store(here / "study")) as fence:
        store = open_study(prepared, here / "study")
        assignment = assigned(prepared, here / "study", fence=fence)
        if stop_after_s is not None:
            late = time.time() + stop_after_s
            assignment = assigned(prepared, here / "study", fence=fence, deadline=late, deadline_cause="limits.wall_s")
        command.run_command(assignment, trial, threads=1)
        return last_commit(store, trial.key), trial


def test_a_script_that_raises_is_a_failed_trial_with_its_last_words(here, capfd):
    commit, _ = ended(here, "print('began')\nraise ValueError('no such width')")
    assert (commit["status"], commit["cause"]) == ("failed", "ValueError: no such width (exit code 1)")
    printed = capfd.readouterr().out
    assert "began\n" in printed
    assert "Traceback (most recent call last)" in printed


def test_a_script_that_never_reports_is_a_failed_trial_that_says_so(here):
    commit, _ = ended(here, "print('done')")
    assert commit["status"] == "failed"
    assert "never reported" in commit["cause"]
    assert "scaleexp.track" in commit["cause"]


def test_a_program_that_cannot_be_started_is_a_failed_trial(here):
    (here / "train.py").write_text("")
    (here / "run").write_text("no program")
    prepared = prepare(validate_study({**COMMAND, "command": ["{width}", "train.py"]}, "the file"))
    with lease.held(Store(here / "study")) as fence:
        store = open_study(prepared, here / "study")
        command.run_command(assigned(prepared, here / "study", fence=fence), prepared.plan.trials[0], threads=1)
    cause = last_commit(store, prepared.plan.trials[0].key)["cause"]
    assert cause == "32 could not be started: No such file or directory (exit code 127)"


def test_arguments_come_as_they_are_and_the_trial_in_the_environment(here, capfd):
    script = """
    import os, sys, json
    from pathlib import Path
    told = json.loads(os.environ["SCALEEXP_TRIAL"])
    assert sys.argv[1] == "$HOME; ls {lr} *", sys.argv
    assert float(sys.argv[2]) == told["lr"]
    assert Path(sys.argv[3]).is_dir() and sys.argv[3] == told["state_dir"]
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert Path.cwd() == Path(__file__).resolve().parent
    """
    commit, _ = ended(here, script, arguments=["$HOME; ls {{lr}} *", "{lr}", "{checkpoint_dir}"])
    assert "never reported" in commit["cause"]  # and not an assertion
    assert "train.py '$HOME; ls {lr} *' 0." in capfd.readouterr().out  # as a shell would take it


def test_a_script_that_goes_on_after_a_stop_is_ended_with_all_that_it_started(here):
    begin = time.monotonic()
    commit, _ = ended(here, ORPHANS + "time.sleep(600)", stop_after_s=2.0)
    assert commit is None  # it had recorded nothing, and did not fail
    assert time.monotonic() - begin < 60
    assert len(pids(here)) == 3
    assert not [pid for pid in pids(here) if alive(pid)]


def test_what_a_script_leaves_behind_ends_with_it(here):
    ended(here, ORPHANS)
    assert len(pids(here)) == 3
    assert not [pid for pid in pids(here) if alive(pid)]


def test_no_process_of_a_script_outlives_the_worker_that_started_it(here):
    """The worker is killed without a chance to do anything."""
    (here / "launcher.py").write_text(ORPHANS + "time.sleep(600)")
    started = [sys.executable, guard.__file__, "0.5", sys.executable, "launcher.py"]
    worker = f"import subprocess, time; subprocess.Popen({started!r}, stdin=subprocess.PIPE); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", worker], cwd=here) as own:
        try:
            assert wait_for(lambda: len(pids(here)) == 3)
        finally:
            own.kill()
    assert wait_for(lambda: not [pid for pid in pids(here) if alive(pid)])


def test_a_launcher_hears_of_the_death_of_its_guard_and_ends_its_workers(here):
    """As torchrun does on SIGTERM."""
    script = ORPHANS.replace("signal.signal(signal.SIGTERM, signal.SIG_IGN)", "0") + textwrap.dedent("""
    import os, signal
    def end(number, frame):
        for pid in Path("pids").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    signal.signal(signal.SIGTERM, end)
    time.sleep(600)
    """)
    (here / "launcher.py").write_text(script)
    started = [sys.executable, guard.__file__, "0.5", sys.executable, "launcher.py"]
    with subprocess.Popen(started, cwd=here, stdin=subprocess.PIPE) as own:
        try:
            assert wait_for(lambda: len(pids(here)) == 3)
            time.sleep(0.2)  # until it listens
        finally:
            own.kill()
    assert wait_for(lambda: not [pid for pid in pids(here) if alive(pid)])


@pytest.mark.parametrize(("script", "said"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_a_guard_says_how_its_command_ended(script, said):
    started = [sys.executable, guard.__file__, "1", sys.executable, "-c", script]
    with subprocess.Popen(started, stdin=subprocess.PIPE) as own:
        own.wait()
    assert own.returncode == said
