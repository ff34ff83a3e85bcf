"""The page of a frontier in a browser: it chooses what Python chooses, and its controls move the choice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.cli import main
from analysis.frontier_file import read_frontier
from analysis.frontier_page import write_page
from tests.browser import CHROMIUM, browser
from tests.test_frontier import HAND, STEP, typed

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH to open the page in")

ASKED = {
    "deadline": ["--usd-per-gpu-hour", "2.4", "--deadline", "1h", "--node-mtbf", "200h"],
    "budget": ["--usd-per-gpu-hour", "2.4", "--budget", "8", "--spot-mtbf", "40h", "--restart-s", "600"],
    "both": ["--usd-per-gpu-hour", "2.4", "--budget", "20", "--deadline", "2h"],
    "least": ["--b-crit-interval", "400:650", "--s-min-interval", "900:1100"],
    "missed": ["--usd-per-gpu-hour", "2.4", "--deadline", "2m"],
}


def frontier(directory, name, *words):
    code, out, said = typed(*HAND, *STEP, "--workers", "1:256", *words, "--json")
    assert code == 0, said
    path = directory / f"{name}.json"
    path.write_text(out)
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name -> (what Python says, page)."""
    directory = tmp_path_factory.mktemp("pages")
    made = {}
    for name, words in ASKED.items():
        path = frontier(directory, name, *words)
        made[name] = json.loads(path.read_text()), write_page(read_frontier(path), path.with_suffix(".html"))
    return made


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


def chosen(window):
    """Workers of the marked row."""
    return int(window.run("document.querySelector('#rows .chosen-row th').textContent").replace(",", ""))


def put(window, control, value):
    script = (
        f"(c => {{ c.value = '{value}'; c.dispatchEvent(new Event('input')); }})(document.getElementById('{control}'))"
    )
    window.run(script)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("dark", [False, True])
def test_it_loads_in_silence_and_chooses_what_python_chooses(window, pages, name, dark):
    document, page = pages[name]
    window.open(page, dark=dark)
    assert window.complaints() == []
    assert window.requested() == [page.as_uri()]
    assert chosen(window) == document["recommended"]["workers"]


@pytest.mark.parametrize("name", ["deadline", "budget"])
def test_its_times_through_failures_are_those_of_python(window, pages, name):
    document, page = pages[name]
    window.open(page)
    cells = window.run(
        "[...document.querySelectorAll('#rows tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert len(cells) == len(document["rows"])
    for row, (workers, time, cost, batch, _, _, failures, _) in zip(document["rows"], cells, strict=True):
        assert int(workers.replace(",", "")) == row["workers"]
        assert int(batch.replace(",", "")) == row["batch_size"]
        assert seconds(time) == pytest.approx(row["hours"] * 3600, rel=0.01)
        assert float(cost.strip("$").replace(",", "")) == pytest.approx(row["usd"], rel=0.01)
        assert float(failures) == pytest.approx(row["failures"], rel=0.01)


def seconds(text):
    """Of 1h07m, 3m05s or 12 h."""
    if text.endswith((" h", " s")):
        return float(text[:-2].replace(",", "")) * (3600 if text.endswith("h") else 1)
    big, _, small = text[:-1].partition("h" if "h" in text else "m")
    return int(big) * (3600 if "h" in text else 60) + int(small) * (60 if "h" in text else 1)


def test_a_harder_deadline_takes_more_workers_and_none_takes_the_least_product(window, pages):
    document, page = pages["deadline"]
    window.open(page)
    before = chosen(window)
    said = "document.getElementById('sentence').textContent"
    put(window, "deadline", 1000)
    assert window.run("document.getElementById('kind').textContent") == "Least time x cost"
    rows = document["rows"]
    assert chosen(window) == min(rows, key=lambda row: row["hours"] * row["usd"])["workers"]
    seen = []
    for position in range(900, 0, -60):
        put(window, "deadline", position)
        if "nearest" in window.run(said):
            break
        seen.append(chosen(window))
    assert seen == sorted(seen)
    assert len(set(seen)) > 2
    put(window, "deadline", 0)
    assert "Not in 9 of 10 runs; the nearest" in window.run(said)
    assert window.run("document.getElementById('answer').className") == "answer misfit"
    assert before in seen


def test_more_failures_take_fewer_workers_and_longer(window, pages):
    _, page = pages["least"]
    window.open(page)
    seen = []
    for position in (1000, 500, 300, 100):
        put(window, "mtbf", position)
        seen.append(chosen(window))
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > seen[-1]


def test_a_price_makes_dollars_and_a_budget_that_it_keeps(window, pages):
    _, page = pages["least"]
    window.open(page)
    assert "worker hours" in window.run("document.getElementById('sentence').textContent")
    put(window, "price", "2.4")
    assert "$" in window.run("document.getElementById('sentence').textContent")
    free = chosen(window)
    put(window, "budget", "6")
    assert window.run("document.getElementById('kind').textContent") == "Done within $6.00"
    assert chosen(window) != free
    put(window, "price", "")
    assert window.run("document.getElementById('kind').textContent") == "Least time x cost"


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_and_letters_keep_their_size(window, pages, width):
    window.open(pages["deadline"][1], width=width)
    assert window.run("document.documentElement.scrollWidth") == width
    assert window.run("document.querySelector('#chart text').getBoundingClientRect().height") > 12
    outside = """[...document.querySelectorAll("#chart text")].filter(t => {
        const [a, b] = [t.getBoundingClientRect(), document.getElementById("chart").getBoundingClientRect()];
        return a.left < b.left - 1 || a.right > b.right + 1;
    }).map(t => t.textContent)"""
    assert window.run(outside) == []


def test_a_name_is_text_whatever_it_says(window, tmp_path):
    path = frontier(tmp_path, "evil")
    document = json.loads(path.read_text())
    document["curve"]["goal"] = "</script><script>document.title = 'taken'</script>"
    document["worker"] = "worker"
    path.write_text(json.dumps(document))
    window.open(write_page(read_frontier(path), tmp_path / "evil.html"))
    assert window.run("document.title") != "taken"
    assert chosen(window)


def test_figures_and_page_are_written_beside_the_file(tmp_path, capsys):
    path = frontier(
        tmp_path, "mine", "--usd-per-gpu-hour", "2", "--deadline", "1h", "--budget", "9", "--node-mtbf", "90h"
    )
    assert main(["plot", str(path)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert [file.relative_to(tmp_path).as_posix() for file in written] == ["mine/time_cost.png", "mine/lost_time.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") and file.with_suffix(".svg").exists() for file in written)
    again = [file.read_bytes() for file in written]
    assert main(["plot", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"].keys() == {"time_cost", "lost_time"}
    assert [file.read_bytes() for file in written] == again
    assert main(["page", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "page": str(path.with_suffix(".html"))}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"rows": []}', '{"advice": [], "decision": null}'])
def test_what_is_no_frontier_is_refused_in_one_sentence(tmp_path, capsys, content):
    path = tmp_path / "x.json"
    path.write_text(content)
    for command in ("plot", "page"):
        assert main([command, str(path)]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
