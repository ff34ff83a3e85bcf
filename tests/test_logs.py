"""Text files of what processes print: whole lines, no secrets, no harm where they cannot be written."""

from __future__ import annotations

import faulthandler
import io
import logging
import sys
import threading

import pytest

from scaleexp.launch.logs import Log, captured, ray_messages, run_directory, tidy

CANARY = "canary-2b8e61c40f"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "logs" / "0001" / "packed-0.log"


def test_what_is_printed_logged_and_raised_is_found_without_secrets(file, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", CANARY)
    streams = sys.stdout, sys.stderr, logging.getLogger().handlers

    def run():
        print("half a line", CANARY[:5], end="")
        print(CANARY[5:], "\nto stdout", CANARY)
        print("to stderr", file=sys.stderr)
        logging.getLogger("mine").warning("logged %s", CANARY)
        raise RuntimeError(f"no {CANARY}")

    with pytest.raises(RuntimeError, match=CANARY), captured(file, "trials 3f2a"):
        run()
    assert (sys.stdout, sys.stderr, logging.getLogger().handlers) == streams
    text = file.read_text()
    assert CANARY not in text
    assert text.startswith("--- ")
    assert ": trials 3f2a\n" in text
    for said in ("to stdout [HF_TOKEN]\n", "to stderr\n", "WARNING mine: logged [HF_TOKEN]\n"):
        assert said in text
    assert text.endswith("RuntimeError: no [HF_TOKEN]\n")
    assert capsys.readouterr() == ("", "")


def test_a_process_that_says_nothing_leaves_no_file(file):
    with captured(file, "trials 3f2a"):
        sys.stdout.write("")
    assert not file.exists()


def test_a_line_is_there_as_soon_as_it_ends_and_the_rest_at_the_end(file):
    with captured(file, "trials 3f2a"):
        print("one")
        sys.stdout.write("two")
        assert file.read_text().endswith("\none\n")
    assert file.read_text().endswith("\none\ntwo\n")


def test_attempts_follow_each_other_in_one_file(file):
    for attempt in ("first", "second"):
        with captured(file, attempt):
            print("said in the", attempt)
    assert [line.rpartition(": ")[2] for line in file.read_text().splitlines()] == [
        "first",
        "said in the first",
        "second",
        "said in the second",
    ]


def test_the_last_traceback_of_a_process_that_dies_is_there(file):
    with captured(file, "trials 3f2a"):
        faulthandler.dump_traceback(sys.stdout._file)  # as on SIGSEGV
        print("said something")
    assert "test_the_last_traceback_of_a_process_that_dies_is_there" in file.read_text()


def test_a_log_that_cannot_be_written_goes_where_it_would_have_gone(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file where a directory should be")
    with captured(tmp_path / "logs" / "packed-0.log", "trials 3f2a"):
        print("said all the same")
    assert capsys.readouterr().err.endswith("said all the same\n")


def test_a_disk_that_fills_ends_nothing(file):
    stream = io.StringIO()
    log = Log(file, "trials 3f2a", stream)
    log._file.close()
    log.write("said all the same\n")
    log.end()
    assert stream.getvalue() == "said all the same\n"


def test_ray_tells_a_file_and_everybody_else_the_terminal(tmp_path, capsys):
    logger = logging.getLogger("ray")
    before = sys.stdout, logger.handlers
    with ray_messages(tmp_path / "ray.log"):
        logging.getLogger("ray.tune").error("a trial failed")
        ray = threading.Thread(target=print, args=("(raylet) a node died",), name="ray_listen_error_messages")
        ray.start()
        ray.join()
        print("of the user")
    assert (sys.stdout, logger.handlers) == before
    assert capsys.readouterr() == ("of the user\n", "")
    said = (tmp_path / "ray.log").read_text()
    assert "ERROR ray.tune: a trial failed\n(raylet) a node died\n" in said


def test_runs_have_directories_by_their_leases(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_directory(str(tmp_path), 3) == tmp_path / "logs" / "0003"
    assert run_directory("s3://bucket/study", 3).is_dir()


def test_directories_of_a_run_that_says_nothing_go(file):
    with captured(file, "trials 3f2a"):
        pass
    silent, telling = file.parent / "real-2-0", file.parent / "real-2-1"
    silent.mkdir()
    with captured(telling / "rank-0.log", "rank 0"):
        print("said")
    tidy(file.parent)
    assert [path.name for path in file.parent.iterdir()] == ["real-2-1"]
    (telling / "rank-0.log").unlink()
    tidy(file.parent)
    assert not file.parent.exists()
