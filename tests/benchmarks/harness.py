"""What every benchmark has in common: two sides timed in turn, the median of their ratios, one JSON line at the end.

A machine's speed drifts within minutes, so the sides are timed A B A B ... in one run, and the interval comes from
resampling whole alternations: both sides of one are drawn together.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Seconds(float):
    """What a side returns that has timed itself."""


Side = Callable[[], object]
"""One block of work, timed from outside unless it returns `Seconds`."""

ALTERNATIONS = 20
CONFIDENCE = 0.9
_RESAMPLES = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A ratio with its 90 % interval, and the bar that it is held against.

    Attributes:
        value: the ratio.
        low, high: ends of the interval.
        bar: what it should reach; None where nothing is promised.
        at_most: whether it should stay below the bar; else it should reach it.
        medians_s: medians of (numerator, denominator) [seconds], where they are times.
    """

    value: float
    low: float
    high: float
    bar: float | None = None
    at_most: bool = False
    medians_s: tuple[float, float] | None = None

    @property
    def margin(self) -> float:
        """How far it is on the good side of its bar, as a factor; below 1 it misses."""
        if self.bar is None:
            return float("inf")
        return self.bar / self.value if self.at_most else self.value / self.bar

    def fields(self, label: str = "") -> dict[str, Any]:
        """Its part of the JSON object; `label` tells several ratios of one benchmark apart."""
        end = f"_{label}" if label else ""
        return {
            f"ratio{end}": self.value,
            f"ratio{end}_interval": [self.low, self.high],
            f"bar{end}": self.bar,
            f"bar{end}_is": None if self.bar is None else "at most" if self.at_most else "at least",
            f"medians{end}_s": self.medians_s,
        }


def alternate(a: Side, b: Side, n: int, *, warm_up: int = 1) -> tuple[FloatArray, FloatArray]:
    """Time two sides in turn: A B A B ...

    Args:
        a: one side.
        b: the other.
        n: alternations.
        warm_up: untimed alternations before.

    Returns:
        Seconds of each block of a and of b, shape (n,) each.
    """
    times: list[tuple[float, float]] = []
    for i in range(-warm_up, n):
        pair = seconds_of(a), seconds_of(b)
        if i >= 0:
            times.append(pair)
    both = np.array(times, dtype=np.float64).reshape(n, 2)
    return both[:, 0], both[:, 1]


def seconds_of(side: Side) -> Seconds:
    """Wall time of one block [seconds]."""
    begin = time.perf_counter()
    own = side()
    return own if isinstance(own, Seconds) else Seconds(time.perf_counter() - begin)


def ratio(top: FloatArray, bottom: FloatArray, *, bar: float | None = None, at_most: bool = False) -> Ratio:
    """Median over alternations of the ratio within each, with its bootstrap interval.

    Both sides of one alternation ran within seconds, so whatever the machine did for longer cancels.

    For "how many times faster are we" give the other side's seconds as `top` and ours as `bottom`.

    Args:
        top: seconds of the numerator by alternation, shape (n,).
        bottom: seconds of the denominator by alternation, shape (n,).
        bar: what the ratio is held against.
        at_most: whether it should stay below the bar.
    """
    assert top.shape == bottom.shape, "both sides are measured in every alternation"
    drawn = np.random.default_rng(0).integers(len(top), size=(_RESAMPLES, len(top)))
    each = top / bottom
    resampled = np.median(each[drawn], axis=1)
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    medians = float(np.median(top)), float(np.median(bottom))
    return Ratio(value=float(np.median(each)), low=low, high=high, bar=bar, at_most=at_most, medians_s=medians)


def worst(ratios: Mapping[str, Ratio]) -> str:
    """Label of the ratio that is the least far on the good side of its bar."""
    return min(ratios, key=lambda label: ratios[label].margin)


def report(name: str, headline: Ratio | None, others: Mapping[str, Ratio] | None = None, **more: object) -> None:
    """Print the ratios for people, the machine, and the JSON object as the last line.

    Args:
        name: of the benchmark.
        headline: its `ratio`; None where only a part was run.
        others: further ratios by label; fields `ratio_LABEL`, `ratio_LABEL_interval`, `bar_LABEL`.
        more: further fields.
    """
    nothing = dict.fromkeys(("ratio", "ratio_interval", "bar", "bar_is", "medians_s"))
    lines: dict[str, Any] = {"benchmark": name, **(headline.fields() if headline else nothing)}
    print(f"\n{name}: {told(headline) if headline else 'in part'}")
    for label, other in (others or {}).items():
        print(f"  {label}: {told(other)}")
        lines |= other.fields(label)
    here = machine()
    print("machine: " + ", ".join(f"{key} {value}" for key, value in here.items()))
    print(json.dumps({**lines, **more, "machine": here}, allow_nan=False), flush=True)


def told(found: Ratio) -> str:
    """A ratio in words."""
    text = f"{found.value:.3g} (90 % interval {found.low:.3g} to {found.high:.3g})"
    return text if found.bar is None else f"{text}, bar {'<=' if found.at_most else '>='} {found.bar:g}"


def machine() -> dict[str, Any]:
    """What the figures depend on; a load above the cores says that the machine was not quiet."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch": version("torch"),
        "ray": version("ray"),
    }


def options(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run: seconds, and ratios that mean nothing")
    return parser
