"""The report in a browser: it loads whole and in silence, its table sorts, its downloads are the figures' numbers."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.figure_data import csv_text, runs_sheet, sheets
from analysis.further import Further, further
from analysis.report import write_report
from analysis.study import analyse
from tests import study_factory
from tests.browser import CHROMIUM, Page, browser
from tests.study_factory import write_study

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the page in")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Further]:
    """A report with every figure, and what it was made of."""
    directory = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_factory, "METRIC", "val_loss")
        study = analyse(write_study(directory / "study", distances=True))
    return write_report(study, directory / "report.html"), further(study)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def column(page: Page, number: int) -> list[str | None]:
    """Sort keys down a column of the table of runs; None where a cell has none."""
    return page.run(f"[...document.querySelectorAll('#runs-table tbody tr')].map(r => r.cells[{number}].dataset.key)")


def sorts(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('#runs-table thead th')].map(h => h.getAttribute('aria-sort'))")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_loads_whole_without_a_complaint_and_asks_for_nothing(window, written, dark):
    window.open(written[0], dark=dark)
    images = window.run(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.width, i.checkVisibility(), i.className])"
    )
    assert len(images) == 2 * 12
    assert all(complete and natural == 2 * 620 for complete, natural, *_ in images)
    shown = {name for _, _, width, visible, name in images if visible and width > 300}
    assert shown == {"on-dark" if dark else "on-light"}
    assert window.complaints() == []
    assert window.requested() == [written[0].as_uri()]


def test_a_broken_picture_or_a_script_of_another_is_noticed(window, written, tmp_path):
    html = written[0].read_text(encoding="utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(html.replace('src="data:image/png;base64,', 'src="data:image/png;base64,AAAA', 1))
    window.open(broken)
    assert window.run("[...document.images].filter(i => !i.naturalWidth).length") == 1
    foreign = tmp_path / "foreign.html"
    foreign.write_text(html.replace("</body>", "<script>document.title = 'taken'</script></body>"))
    window.open(foreign)
    assert window.run("document.title") != "taken"
    assert "Content Security Policy" in " ".join(window.complaints())


@pytest.mark.parametrize("number", range(11))
def test_a_click_sorts_by_its_column_and_another_the_other_way_round(window, written, number):
    window.open(written[0])
    words = number in (4, 5)
    before = column(window, number)
    click = f"document.querySelectorAll('#runs-table thead button')[{number}].click()"
    for order in ("ascending", "descending"):
        window.run(click)
        found = column(window, number)
        known = [k for k in found if k is not None]
        keys = known if words else [float(k) for k in known]
        assert keys == sorted(keys, reverse=order == "descending")
        assert found[len(known) :] == [None] * before.count(None)  # what is not known comes last, either way
        assert sorts(window) == [order if i == number else "none" for i in range(11)]
        assert len(found) == len(before) == len(written[1].rows)


def test_the_table_sorts_from_the_keyboard(window, written):
    window.open(written[0])
    window.run("document.querySelectorAll('#runs-table thead button')[5].focus()")
    window.press("Tab")
    window.press("Enter")
    assert sorts(window)[6] == "ascending"
    steps = [float(k) for k in column(window, 6)]
    assert steps == sorted(steps) != [float(r.steps) for r in written[1].rows]


def test_what_is_downloaded_is_the_numbers_of_the_figure(window, written, tmp_path):
    page, data = written
    window.open(page)
    expected = {f"{name}.csv": csv_text(sheet) for name, sheet in sheets(data.study, data).items()}
    expected["runs.csv"] = csv_text(runs_sheet(data.rows))
    bytes_of = "Uint8Array.from(atob(a.href.split(',')[1]), c => c.codePointAt(0))"
    text = f"[a.download, new TextDecoder().decode({bytes_of})]"
    found = dict(window.run(f"[...document.querySelectorAll('a[download$=\".csv\"]')].map(a => {text})"))
    assert found == expected
    rows = list(csv.DictReader(found["throughput.csv"].splitlines()))
    assert [float(r["samples_per_s"]) for r in rows] == [s.samples_per_s for s in data.speeds]
    window.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    for kind, start in (("csv", b"run,series"), ("svg", b"<?xml"), ("png", b"\x89PNG")):
        window.run(f"document.querySelector('a[download=\"throughput.{kind}\"]').click()")
        assert saved(tmp_path / f"throughput.{kind}").startswith(start)
    assert (tmp_path / "throughput.csv").read_bytes().decode() == expected["throughput.csv"]


def saved(file: Path) -> bytes:
    """A download's bytes once it has its name, which it is given when it is whole."""
    deadline = time.monotonic() + 60.0
    while not file.exists():
        assert time.monotonic() < deadline, f"{file.name} was not downloaded"
        time.sleep(0.05)
    return file.read_bytes()


@pytest.mark.parametrize("dark", [False, True])
def test_the_switch_turns_the_paper_over_and_back(window, written, dark):
    window.open(written[0], dark=dark)
    look = """[getComputedStyle(document.body).backgroundColor,
        document.getElementById("theme").getAttribute("aria-pressed"),
        ...["dark", "light"].map(paper => document.querySelector(`img.on-${paper}`).checkVisibility())]"""
    on_light, on_dark = ["rgb(255, 255, 255)", "false", False, True], ["rgb(22, 24, 29)", "true", True, False]
    looks = (on_dark, on_light, on_dark) if dark else (on_light, on_dark, on_light)
    for expected in looks:
        assert window.run(look) == expected
        window.run("document.getElementById('theme').click()")
    window.open(written[0], dark=dark, media="print")
    assert window.run(look)[2:] == [False, True]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_but_inside_a_box_that_scrolls(window, written, width):
    window.open(written[0], width=width)
    assert window.run("document.documentElement.scrollWidth") == width
    outside = """[...document.querySelectorAll("body *")].filter(e => {
        const box = e.getBoundingClientRect();
        return e.checkVisibility() && !e.closest(".box") && (box.right > innerWidth + 1 || box.left < -1);
    }).map(e => e.outerHTML.slice(0, 80))"""
    assert window.run(outside) == []
    boxes = """[...document.querySelectorAll(".box")].map(
        b => [b.getBoundingClientRect().right, b.scrollWidth > b.clientWidth, b.tabIndex])"""
    for right, scrolls, tab in window.run(boxes):
        assert right <= width
        assert not scrolls or tab == 0  # a box that scrolls is reached from the keyboard
    if width == 1280:
        fits = "(b => b.scrollWidth <= b.clientWidth)(document.querySelector('#runs-table').closest('.box'))"
        assert window.run(fits)


def test_a_printed_page_is_light_and_cuts_no_table_off(window, written):
    window.open(written[0], width=700, dark=True, media="print")  # the width of A4 between its margins, 18 cm
    assert window.run("document.documentElement.scrollWidth") == 700
    assert window.run("getComputedStyle(document.body).color") == "rgb(26, 26, 26)"
    assert not window.run("document.querySelector('nav').checkVisibility()")
    last = "document.querySelector('#runs-table tbody tr:last-child').getBoundingClientRect()"
    assert window.run(f"{last}.bottom <= document.getElementById('method').getBoundingClientRect().top")
