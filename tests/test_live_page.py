"""`scaleexp status --html`: the page of a study that runs, as a reader with a browser sees it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from scaleexp import cmd_live, lease
from scaleexp.cli import cli
from scaleexp.cmd_live import PAGE_S, keep_written, left_s, live
from scaleexp.config import load_study
from scaleexp.errors import StorageError
from scaleexp.execute import run_packed
from scaleexp.launch.runner import open_study, prepare
from scaleexp.status import TrialRow, status_of
from tests.browser import CHROMIUM, Page, browser
from tests.without_ray import assigned

SETS = ["workload={name: quadratic, dimensions: 4}", "workers=[2, 4, 8]", "seeds=[0, 1]", "limits.samples=3200"]


class Growing:
    """A study whose trials are run one batch size after another, here and without Ray."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.prepared = prepare(load_study("quadratic", SETS))
        self.store = open_study(self.prepared, root)
        self.batches = sorted({t.batch_size for t in self.prepared.plan.trials})

    def run_next(self, fence: int) -> None:
        batch = self.batches.pop(0)
        trials = [t for t in self.prepared.plan.trials if t.batch_size == batch]
        run_packed(assigned(self.prepared, self.root, fence=fence), trials, threads=1)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What a watch wrote: before the first trial, after each batch size, and after the end."""
    directory = tmp_path_factory.mktemp("live")
    study, file, kept = Growing(directory / "study"), directory / "live.html", []

    def held(number: float) -> None:
        kept.append(file.with_name(f"page-{len(kept)}.html"))
        kept[-1].write_bytes(file.read_bytes())
        assert number >= PAGE_S
        if study.batches:
            study.run_next(fence)
        else:
            context.__exit__(None, None, None)

    context = lease.held(study.store)
    fence = context.__enter__()
    keep_written(str(study.root), file, watch=True, tell=lambda line: None, sleep=held)
    return [*kept, file]


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH to open the page in")
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def states(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('#trials-table tbody tr')].map(r => r.cells[5].textContent)")


def text(page: Page, selector: str) -> str:
    return page.run(f"document.querySelector({selector!r}).textContent")


@pytest.mark.parametrize("dark", [False, True])
def test_every_page_loads_whole_without_a_complaint_and_asks_for_nothing(window, pages, dark):
    for page in pages:
        window.open(page, dark=dark)
        images = window.run("[...document.images].map(i => [i.complete, i.naturalWidth, i.checkVisibility()])")
        assert all(complete and natural > 1000 for complete, natural, _ in images)
        assert [visible for _, _, visible in images] == ([not dark, dark] * 2 if page is not pages[0] else [])
        assert window.complaints() == []
        assert window.requested() == [page.as_uri()]


def test_the_page_grows_with_the_study(window, pages):
    waiting, answers = [], []
    for page in pages:
        window.open(page)
        found = states(window)
        waiting.append(found.count("waiting"))
        assert int(window.run("document.querySelector('progress').value")) == len(found) - waiting[-1]
        answers.append(text(window, "#answer + p"))
    assert waiting == sorted(waiting, reverse=True)
    assert len(set(waiting)) == 4
    assert waiting[-1] == 0
    assert answers[0].startswith("Nothing yet: ")
    assert answers[2].startswith("Of what has ended so far: ")
    assert "critical batch size" in answers[-1]
    assert text(window, ".status") == "ended"
    assert not answers[-1].startswith("Of what")


def test_a_page_loads_itself_anew_for_as_long_as_the_study_runs(pages):
    tag = re.compile(r'<meta http-equiv="refresh" content="(\d+)">')
    found = [tag.findall(page.read_text()) for page in pages]
    assert found == [[str(PAGE_S)]] * (len(pages) - 1) + [[]]
    assert "loads itself anew" not in pages[-1].read_text()


def test_the_browser_shows_the_newer_page_by_itself(window, pages, tmp_path):
    file = tmp_path / "live.html"
    file.write_text(pages[0].read_text().replace(f'content="{PAGE_S}"', 'content="1"'))
    window.open(file)
    before = states(window)
    file.write_bytes(pages[-1].read_bytes())
    window.events.clear()
    while not any(method == "Page.loadEventFired" for method, _ in window.events):
        window._next()
    assert "waiting" in before
    assert "waiting" not in states(window)


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_but_inside_a_box_that_scrolls(window, pages, width):
    window.open(pages[2], width=width)
    assert window.run("document.documentElement.scrollWidth") == width


def test_names_of_a_study_are_text_and_never_markup(window, tmp_path):
    study = Growing(tmp_path / "study")
    document = status_of(study.store)
    document["question"] = "<script>document.title = 'taken'</script>"
    file = tmp_path / "page.html"
    from analysis.live_page import write_live

    write_live(live(str(study.root), document, refresh_s=None), file)
    window.open(file)
    assert window.run("document.title") != "taken"
    assert text(window, ".question") == document["question"]


def row(**changed: object) -> TrialRow:
    fields = {"key": "a", "batch_size": 8, "workers": 2, "lr": 0.1, "seed": 0, "status": "running", "step": 100}
    return TrialRow(**{**fields, "samples": 800, "limit_samples": 3200, "elapsed_s": 10.0, "cause": "", **changed})


def test_the_time_left_of_a_trial_is_that_to_its_limit_at_its_own_pace():
    assert left_s(row()) == 30.0
    assert left_s(row(samples=3200)) == 0.0
    assert [left_s(row(**c)) for c in ({"status": "reached"}, {"limit_samples": None}, {"samples": 0})] == [None] * 3


def test_a_study_of_which_nothing_can_be_read_yet_still_has_its_page(tmp_path, monkeypatch):
    study = Growing(tmp_path / "study")

    def unreadable(directory: str) -> None:
        raise StorageError("a file is gone")

    monkeypatch.setattr("analysis.study.analyse", unreadable)
    keep_written(str(study.root), tmp_path / "page.html", watch=False, tell=lambda line: None)
    assert "Nothing yet: a file is gone" in (tmp_path / "page.html").read_text()


def test_a_table_of_too_many_trials_says_how_many_are_left_out(tmp_path, monkeypatch):
    study = Growing(tmp_path / "study")
    monkeypatch.setattr(cmd_live, "MOST_ROWS", 3)
    total = len(study.prepared.plan.trials)
    keep_written(str(study.root), tmp_path / "page.html", watch=False, tell=lambda line: None)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<tr><td") == 3
    assert f"and {total - 3} more: " in page


def test_the_command_says_where_the_page_is_and_what_does_not_go_together(tmp_path):
    study = Growing(tmp_path / "study")
    done = CliRunner().invoke(cli, ["status", str(study.root), "--html", str(tmp_path / "page.html"), "--watch"])
    assert (done.exit_code, done.stdout) == (0, "")
    assert '<p class="status">not running</p>' in (tmp_path / "page.html").read_text()
    assert done.stderr == f"open {tmp_path / 'page.html'}\n"
    both = CliRunner().invoke(cli, ["status", str(study.root), "--html", "x.html", "--json"])
    assert "leave --json and --all out" in str(both.exception)
    none = CliRunner().invoke(cli, ["status", str(tmp_path / "nowhere"), "--html", "x.html"])
    assert isinstance(none.exception, StorageError)
    taken = CliRunner().invoke(cli, ["status", str(study.root), "--html", str(study.root / "study.json" / "x.html")])
    assert "Choose a writable place" in str(taken.exception)


def test_a_trial_that_runs_away_leaves_the_others_readable(tmp_path):
    from analysis.plot_training import plot_training
    from analysis.study import analyse

    study = Growing(tmp_path / "study")
    with lease.held(study.store) as fence:
        while study.batches:
            study.run_next(fence)
    found = analyse(str(study.root))
    ax = plot_training(found)
    low, high = ax.get_ylim()
    worst = max(max(line.get_ydata()) for line in ax.get_lines())
    assert worst > 1e3, "one of them ran away"
    assert 0 < low < found.target < high < 10
    assert "dots" not in ax.get_title(loc="left"), "nothing runs any more"
