"""`scaleexp status --html`: a page of a study, written anew for as long as it runs, from its directory alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from scaleexp import schema
from scaleexp.errors import ScaleexpError
from scaleexp.plan_table import duration
from scaleexp.status import StatusDocument, TrialRow, status_of
from scaleexp.status_text import causes, headlines
from scaleexp.storage import Store

if TYPE_CHECKING:
    from analysis.live_page import Live, LiveRow

PAGE_S = 5
"""The page loads itself anew so often [seconds], and is written as often at most."""
_SHARE = 4.0
"""The pause is so many times as long as making the page took, which leaves the cores to the study."""
MOST_ROWS = 2000
_ORDER = ("running", "failed", "stopped", "waiting", "diverged", "limit", "reached")


def keep_written(
    directory: str,
    file: Path,
    *,
    watch: bool,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Write the page of a study once, or again and again until nobody runs the study any more.

    Args:
        directory: of the study.
        file: of the page.
        watch: whether to go on.
        tell: is told where the page is, once.
        sleep: waits so many seconds.

    Raises:
        StorageError: there is no study, or the page cannot be written.
    """
    from analysis.live_page import write_live

    told = False
    while True:
        begin = time.monotonic()
        document = status_of(Store(directory))
        goes_on = watch and document["driver"] is not None and document["driver"]["running"]
        write_live(live(directory, document, refresh_s=PAGE_S if goes_on else None), file)
        if not told:
            tell(f"open {file.absolute()}{'; Ctrl-C ends the watch, not the study' if goes_on else ''}")
            told = True
        if not goes_on:
            return
        sleep(max(float(PAGE_S), _SHARE * (time.monotonic() - begin)))


def live(directory: str, document: StatusDocument, *, refresh_s: int | None) -> Live:
    """What the page shows of a study.

    Args:
        directory: of the study.
        document: how it stands.
        refresh_s: after how many seconds the page loads itself anew; None for never.
    """
    from analysis.live_page import Live
    from analysis.study import analyse

    study, reason = None, ""
    try:
        study = analyse(directory)
    except ScaleexpError as error:  # while it runs a file may be newer than the one that names it
        reason = str(error)
    rows = sorted(document["rows"], key=lambda row: _ORDER.index(row["status"]))
    driver = document["driver"]
    alive = driver is not None and driver["running"]
    return Live(
        name=document["study"],
        question=document["question"],
        lines=headlines(document),
        ended=sum(document["trials"].get(s, 0) for s in schema.FINAL_STATUSES),
        total=len(rows),
        running=alive,
        rows=[_shown(row, alive=alive) for row in rows[:MOST_ROWS]],
        left_out=max(0, len(rows) - MOST_ROWS),
        causes=causes(document),
        study=study,
        reason=reason,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
        refresh_s=refresh_s,
    )


def _shown(row: TrialRow, *, alive: bool) -> LiveRow:
    from analysis.live_page import LiveRow

    state = "interrupted" if row["status"] == "running" and not alive else row["status"]
    limit = (row["limit_samples"] or 0) // row["batch_size"]
    left = left_s(row) if alive else None
    cells = (
        *(row["key"], f"{row['batch_size']:,}", str(row["workers"]), f"{row['lr']:.4g}", str(row["seed"]), state),
        *(f"{row['step']:,}" if row["step"] else "", f"{limit:,}" if limit else ""),
        "" if left is None else duration(left),
    )
    return LiveRow(state=state, cells=cells)


def left_s(row: TrialRow) -> float | None:
    """Seconds until a running trial meets its sample limit at the pace that it has had; None where that is unknown."""
    if row["status"] != "running" or not row["limit_samples"] or row["samples"] <= 0:
        return None
    return row["elapsed_s"] * max(0, row["limit_samples"] - row["samples"]) / row["samples"]
