"""What a study has used of its limits over all runs of the command, and for how long what is left of them lasts.

used = workers held x time since they were held. A run holds every worker of its cluster, a GPU each or a CPU core where
there is none, busy or not, from the moment that it takes the study's lease until it lets go. The lease says how many
and at what price, and its signs of life say for how long, also of a run that was killed (see `scaleexp.lease.held_s`).
Only while a killed run could not reach the storage is its use unknown.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from scaleexp import lease
from scaleexp.config import Study
from scaleexp.errors import ConfigError
from scaleexp.storage import Store
from scaleexp.study_parts import Limits

LEAST_S = 10.0
"""What is left is too little to begin with if it lasts no longer [seconds]: starting Ray takes as long."""
_SHARE_TO_STOP, _LEAST_TO_STOP_S, _MOST_TO_STOP_S = 0.02, 5.0, 60.0
"""So long before a limit is met [share of what is left, within these seconds] trials are asked to commit and stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What a run of the command holds.

    Attributes:
        workers: GPUs of the cluster, or its CPU cores if it has none.
        gpus: GPUs of the cluster.
        usd_per_worker_hour: price of one worker; None if the study has none.
    """

    workers: int
    gpus: int
    usd_per_worker_hour: float | None = None

    def on_record(self, limits: Limits) -> dict[str, Any]:
        """What the lease says: these, and the limits that the run was given."""
        return {**asdict(self), "limits": {name: limit for name, limit in limits if name != "samples"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What all runs of a study have held.

    Attributes:
        gpu_hours: GPUs x hours.
        usd: workers x hours x price [US dollars].
        runs: how many runs.
    """

    gpu_hours: float = 0.0
    usd: float = 0.0
    runs: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What the limits leave to a run.

    Attributes:
        seconds: until the first of them is met; infinite without limits.
        limit: its name, such as `limits.usd`; empty without limits.
        value: of that limit, in its unit.
    """

    seconds: float = inf
    limit: str = ""
    value: float = inf

    @property
    def cause(self) -> str:
        """The limit, as trials that it stops tell it."""
        return f"{self.limit} = {self.value:g}" if self.limit else ""

    @property
    def tidy_s(self) -> float:
        """Until trials are asked to commit and stop [seconds]."""
        return self.seconds - self._to_stop_s

    @property
    def cut_s(self) -> float:
        """Until what has not stopped by itself is ended [seconds], so that this is over when the limit is met."""
        return self.seconds - self._to_stop_s / 2

    @property
    def _to_stop_s(self) -> float:
        return max(_LEAST_TO_STOP_S, min(_SHARE_TO_STOP * self.seconds, _MOST_TO_STOP_S))


def used(store: Store, now: Holding, *, before: int | None = None) -> Used:
    """What the runs of a study have used up to now.

    Args:
        store: the study.
        now: what is held now; of a run whose lease does not say what it held, or at what price, this is taken.
        before: number of the lease of the run that asks, which is not counted; None counts all.
    """
    gpu_hours = usd = 0.0
    runs = 0
    for number, held in lease.holdings(store).items():
        gpus, workers = held.get("gpus", now.gpus), held.get("workers", now.workers)
        price = held.get("usd_per_worker_hour") or now.usd_per_worker_hour or 0.0
        if (before is not None and number >= before) or not workers:
            continue
        hours = lease.held_s(store, number) / 3600.0
        gpu_hours, usd, runs = gpu_hours + gpus * hours, usd + workers * price * hours, runs + 1
    return Used(gpu_hours=gpu_hours, usd=usd, runs=runs)


def left(limits: Limits, now: Holding, spent: Used, ran_s: float) -> Left:
    """How long a run can hold its workers before the first limit is met.

    Args:
        limits: of the study.
        now: what the run holds.
        spent: what the runs before it have used.
        ran_s: how long it has run, before it held anything [seconds].

    >>> left(Limits(samples=1, usd=2.0), Holding(workers=2, gpus=0, usd_per_worker_hour=60.0), Used(usd=1.0), 0.0)
    Left(seconds=30.0, limit='limits.usd', value=2.0)
    """
    usd_per_s = now.workers * (now.usd_per_worker_hour or 0.0) / 3600.0
    bounds = []
    if limits.wall_s is not None:
        bounds.append(Left(seconds=limits.wall_s - ran_s, limit="limits.wall_s", value=limits.wall_s))
    if limits.gpu_hours is not None:
        rest_s = _lasts(limits.gpu_hours - spent.gpu_hours, now.gpus / 3600.0)
        bounds.append(Left(seconds=rest_s, limit="limits.gpu_hours", value=limits.gpu_hours))
    if limits.usd is not None:
        rest_s = _lasts(limits.usd - spent.usd, usd_per_s)
        bounds.append(Left(seconds=rest_s, limit="limits.usd", value=limits.usd))
    return min(bounds, key=lambda bound: bound.seconds, default=Left())


def _lasts(rest: float, per_s: float) -> float:
    """Seconds that a rest lasts; 0 where there is none."""
    return rest / per_s if rest > 0 and per_s > 0 else inf if rest > 0 else 0.0


def check_countable(study: Study, now: Holding) -> None:
    """Refuse a limit on what the cluster does not have.

    Raises:
        ConfigError: GPU hours without a GPU.
    """
    if study.limits.gpu_hours is not None and not now.gpus:
        raise ConfigError("limits.gpu_hours is set and Ray has no GPU: set limits.wall_s or limits.usd instead.")


def before_run(store: Store, study: Study) -> list[tuple[str, float, float]]:
    """Of each limit of a study that is to run: its name, its value, and what earlier runs have used of it."""
    limits = study.limits
    price = study.price_usd_per_worker_hour
    spent = used(store, Holding(workers=0, gpus=0, usd_per_worker_hour=price))
    so_far = {"wall_s": 0.0, "gpu_hours": spent.gpu_hours, "usd": spent.usd}
    return [(f"limits.{name}", value, so_far[name]) for name, value in limits if name in so_far and value is not None]


def of_limits(store: Store) -> list[tuple[str, float, float]]:
    """Of each limit that the newest run was given: its name, its value, and what was used of it."""
    held = lease.holdings(store)
    newest = max(held, default=0)
    limits = {name: value for name, value in held.get(newest, {}).get("limits", {}).items() if value is not None}
    if not limits:
        return []
    now = Holding(**{name: value for name, value in held[newest].items() if name != "limits"})
    spent = used(store, now)
    so_far = {"wall_s": lease.held_s(store, newest), "gpu_hours": spent.gpu_hours, "usd": spent.usd}
    return [(f"limits.{name}", value, so_far[name]) for name, value in limits.items() if name in so_far]
