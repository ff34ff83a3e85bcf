"""A frontier as one self-contained HTML file: a reader moves deadline, price and failure rate, and the choice moves."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

from markupsafe import Markup

from analysis.frontier_file import CAUSES, FrontierFile
from analysis.page_file import inline_script, rendered, write_html
from analysis.plot_frontier import NAMES
from analysis.wording import interval, level, number, unit_plural
from scaleexp import __version__

TEMPLATE, SCRIPT = "frontier.html.j2", "frontier.js"


def write_page(found: FrontierFile, path: Path) -> Path:
    """Write the page; the same frontier gives the same bytes.

    Raises:
        StorageError: the file cannot be written.
    """
    return write_html(render(found), path, what="page")


def render(found: FrontierFile) -> str:
    """The page as text; every value is escaped, in the text and in the data of the script."""
    return rendered(TEMPLATE, _context(found))


def _context(found: FrontierFile) -> dict[str, Any]:
    document, curve = found.document, found.document["curve"]
    return {
        **inline_script(SCRIPT),
        # "</script>" in a name would end the element that holds the data.
        "data": Markup(json.dumps(page_data(found), allow_nan=False).replace("<", "\\u003c")),
        "goal": curve["goal"] or "the target",
        "worker": found.worker,
        "curve": _curve_text(curve),
        "bounds_only": curve["bounds_only"],
        "curve_reason": curve["reason"],
        "times": document["step_time"]["source"],
        "unmeasured": document["step_time"]["unmeasured"] or "",
        "weakest": document["weakest"],
        "price_source": document["price_source"] or "",
        "priced": found.priced,
        "checkpoint_s": number(document["failures"]["checkpoint_s"]),
        "restart_s": number(document["failures"]["restart_s"]),
        "left_out": document["left_out"],
        "confidence": f"{level(document['confidence'])}",
        "causes": [NAMES[cause] for cause in CAUSES],
        "version": __version__,
    }


def _curve_text(curve: dict[str, Any]) -> str:
    unit = unit_plural(curve["unit"])
    low, high = (
        end if end is not None else bound
        for end, bound in zip(curve["b_crit_interval"], (0.0, float("inf")), strict=True)
    )
    ends = f"{level(curve['confidence'])} interval {interval(low, high)}"
    if curve["b_crit"] is None:
        return f"not identified ({ends}) {unit}: its bounds alone count"
    return f"{number(curve['b_crit'])} {unit}" + (
        f" ({ends})" if low > 0 or high < float("inf") else ", taken as exact"
    )


def page_data(found: FrontierFile) -> dict[str, Any]:
    """What the script computes of: the undisturbed work of every row, and where the controls begin."""
    document = found.document
    asked, failures = document["recommended"], document["failures"]
    names = ("workers", "nodes", "batch_size", "worker_batch", "steps", "work_s")
    return {
        "rows": [{name: row[name] for name in names} for row in found.rows],
        "worker": found.worker,
        "price": document["price_usd_per_worker_hour"],
        "deadline_s": asked["deadline_s"],
        "budget_usd": asked["budget_usd"],
        "node_mtbf_s": failures["node_mtbf_s"],
        "checkpoint_s": failures["checkpoint_s"],
        "restart_s": failures["restart_s"],
        "z": NormalDist().inv_cdf(0.5 + document["confidence"] / 2),
    }
