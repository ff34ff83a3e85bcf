"""Progress of a study, read from its own log: trials done, running, and the time left."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import TextIO

from scaleexp import schema
from scaleexp.commits import Commits, last_commits
from scaleexp.errors import StorageError
from scaleexp.packing import STEP_OVERHEAD_SAMPLES
from scaleexp.plan_table import duration
from scaleexp.storage import Store
from scaleexp.trial import Trial

_LOOK_S, _FAR_LOOK_S = 0.5, 5.0  # each look at an object store costs requests, which are slow and not free
_LINE_S = 10.0
_KNOWN_SHARE = 0.1


@dataclass(slots=True)
class Watch:
    """How far the trials of a plan have come, by their last commits.

    Attributes:
        store: the study.
        trials: those watched.
        samples: samples eaten by each trial that ended, by key.
        under_way: samples committed by each that has not, by key.
        began: samples at which each began in this run, by key.
        ended: how many trials ended with each status.
        started: keys of trials that have begun.
        idle_s: seconds until the first of them did.
        earlier: number of the last commit of each trial that an earlier run left unfinished; it does not count.
        commits: the last one of each trial that has begun, as of the last look.
    """

    store: Store
    trials: Sequence[Trial]
    samples: dict[str, int] = field(default_factory=dict)
    under_way: dict[str, int] = field(default_factory=dict)
    began: dict[str, int] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    idle_s: float = 0.0
    earlier: dict[str, int] = field(default_factory=dict)
    commits: Commits = field(default_factory=dict)

    @classmethod
    def from_now(cls, store: Store, trials: Sequence[Trial]) -> Watch:
        """A watch that does not count what was there before."""
        there = set(store.names(schema.TRIALS_DIR))
        commits = last_commits(store, [t.key for t in trials if t.key in there])
        earlier = {k: c["number"] if c else 0 for k, c in commits.items()}
        return cls(store=store, trials=trials, earlier=earlier, commits=commits)

    @property
    def waiting(self) -> list[Trial]:
        """Trials that have not ended."""
        return [t for t in self.trials if t.key not in self.samples]

    def look(self) -> None:
        """Read what was committed since the last look; of a storage that is away, nothing."""
        with suppress(StorageError):
            self._look()

    def _look(self) -> None:
        there = set(self.store.names(schema.TRIALS_DIR))
        self.started |= there - self.earlier.keys()
        self.commits = last_commits(self.store, [t.key for t in self.waiting if t.key in there], self.commits)
        for key, commit in self.commits.items():
            if not commit or commit["number"] <= self.earlier.get(key, 0):
                continue
            self.started.add(key)
            self.began[key] = commit.get("began_samples", 0)
            if commit["status"] in ("running", "stopped"):
                self.under_way[key] = commit["samples"]
            else:
                self.ended[commit["status"]] = self.ended.get(commit["status"], 0) + 1
                self.samples[key] = commit["samples"]

    def work(self) -> tuple[float, float]:
        """(done, left) in samples, the overhead of a step counted in.

        Trials of one batch size step together, so a running one has come as far as the last that ended. It may go on
        to its limit; batches that have not begun are taken to need the share of their limits that others needed.
        """
        done = left = unbegun = limits = 0.0
        for (engine, batch_size), group in groupby(sorted(self.trials, key=_shape), key=_shape):
            trials = list(group)
            overhead = STEP_OVERHEAD_SAMPLES / batch_size
            per_sample = 1.0 + (overhead / len(trials) if engine == "packed" else overhead)
            reached = max((self.samples.get(t.key, 0) for t in trials), default=0)
            for trial in trials:
                eaten = self.samples.get(trial.key, max(reached, self.under_way.get(trial.key, 0)))
                rest = 0 if trial.key in self.samples else trial.limit_samples - eaten
                if trial.key in self.started:
                    done += per_sample * max(0, eaten - self.began.get(trial.key, 0))
                    left += per_sample * rest
                    limits += per_sample * trial.limit_samples
                else:
                    unbegun += per_sample * trial.limit_samples
        return done, left + unbegun * ((done + left) / limits if limits else 1.0)

    def left_s(self, elapsed_s: float) -> float | None:
        """Seconds left if the work that is left goes as fast as the work done; None before a tenth is done.

        A pack is known to have come only as far as its last commit, which at first is far behind where it is.
        """
        done, left = self.work()
        return (elapsed_s - self.idle_s) * left / done if done > _KNOWN_SHARE * (done + left) else None

    def line(self, elapsed_s: float) -> str:
        """The state in one line."""
        if not self.started:
            self.idle_s = elapsed_s
        waiting = self.waiting
        running = sum(t.key in self.started for t in waiting)
        left = self.left_s(elapsed_s)
        eta = "ETA not known yet" if left is None else f"ETA {duration(left)}"
        if waiting and not running and all(t.real for t in waiting):
            eta = "starting real workers"
        done = len(self.trials) - len(waiting)
        return f"{done}/{len(self.trials)} trials done, {running} running, {duration(elapsed_s)} elapsed, {eta}"


def _shape(trial: Trial) -> tuple[str, int]:
    return (trial.engine, trial.batch_size)


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


def _pause_s(watch: Watch) -> float:
    return _FAR_LOOK_S if watch.store.remote else _LOOK_S


def _lines(watch: Watch, stream: TextIO, end: threading.Event) -> None:
    begin = said = time.monotonic()
    while not end.wait(_pause_s(watch)):
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
        task = progress.add_task(watch.line(0.0), total=len(watch.trials))
        while True:
            ended = end.wait(_pause_s(watch))
            watch.look()
            done = len(watch.trials) - len(watch.waiting)
            progress.update(task, completed=done, description=watch.line(time.monotonic() - begin))
            if ended:
                return
