"""Progress of a study, read from its own log: trials done, running, and the time left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from scaleexp import schema
from scaleexp.packing import cost
from scaleexp.plan_table import duration
from scaleexp.runlog import last_commit
from scaleexp.storage import Store
from scaleexp.trial import Trial

_LOOK_S = 0.5
_LINE_S = 10.0


@dataclass(slots=True)
class Watch:
    """Which trials of a plan are done, by their last commit.

    Attributes:
        store: the study.
        waiting: trials without a commit that ends them, by key.
        work_left: their share of the work at most [samples, step overhead included].
        work: that of all trials watched.
        ended: how many trials ended with each status.
        running: waiting trials that have started.
    """

    store: Store
    trials: Sequence[Trial]
    waiting: dict[str, float] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    running: int = 0
    work: float = 0.0

    def __post_init__(self) -> None:
        self.waiting = {t.key: cost((t,)) for t in self.trials}
        self.work = sum(self.waiting.values())

    @property
    def done(self) -> int:
        """Trials that ended."""
        return len(self.trials) - len(self.waiting)

    def look(self) -> None:
        """Read what was committed since the last look."""
        started = set(self.store.names(schema.TRIALS_DIR))
        for key in [k for k in self.waiting if k in started]:
            commit = last_commit(self.store, key)
            if commit and commit["status"] != "running":
                self.ended[commit["status"]] = self.ended.get(commit["status"], 0) + 1
                del self.waiting[key]
        self.running = sum(key in started for key in self.waiting)

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds left if the work not done goes as fast as the work done; None until a twentieth is done."""
        share = 1.0 - sum(self.waiting.values()) / self.work if self.work else 1.0
        return elapsed_s * (1.0 - share) / share if share > 0.05 else None  # before, it means nothing

    def line(self, elapsed_s: float) -> str:
        """The state in one line."""
        left = self.left_s(elapsed_s)
        eta = "ETA not known yet" if left is None else f"ETA {duration(left)}"
        return (
            f"{self.done}/{len(self.trials)} trials done, {self.running} running, {duration(elapsed_s)} elapsed, {eta}"
        )


@contextmanager
def shown(watch: Watch, stream: TextIO | None = None) -> Iterator[None]:
    """Show progress while the body runs: a live bar on a terminal, a plain line every few seconds elsewhere."""
    stream = stream or sys.stderr
    end = threading.Event()
    show = _live if stream.isatty() else _lines
    thread = threading.Thread(target=show, args=(watch, stream, end), daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _lines(watch: Watch, stream: TextIO, end: threading.Event) -> None:
    begin = said = time.monotonic()
    while not end.wait(_LOOK_S):
        watch.look()
        if time.monotonic() - said >= _LINE_S:
            said = time.monotonic()
            print(watch.line(said - begin), file=stream, flush=True)  # this is the display
    watch.look()
    print(watch.line(time.monotonic() - begin), file=stream, flush=True)


def _live(watch: Watch, stream: TextIO, end: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    begin = time.monotonic()
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(file=stream), transient=False) as progress:
        task = progress.add_task(watch.line(0.0), total=watch.work)
        while True:
            ended = end.wait(_LOOK_S)
            watch.look()
            work_done = watch.work - sum(watch.waiting.values())
            progress.update(task, completed=work_done, description=watch.line(time.monotonic() - begin))
            if ended:
                return
