"""Numbers as people read them: exact counts, three significant digits, intervals in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from math import floor, inf, isfinite, isnan, log10

UNKNOWN = "not known"


def count(n: float) -> str:
    """A whole number, exact, with thousands separators.

    >>> count(65536)
    '65,536'
    """
    return f"{n:,.0f}"


def listed(numbers: Sequence[float]) -> str:
    """Whole numbers in a row.

    >>> listed([64, 1024])
    '64, 1,024'
    """
    return ", ".join(count(n) for n in numbers)


def nearest(name: str, names: Sequence[str], most: int = 5) -> str:
    """The names that come nearest to one that is not there; all of them where they are few.

    >>> nearest("optimiser", ["optimizer", "lr"]), nearest("seeds", ["lr", "seed", "batch_size"], most=1)
    ('its columns are optimizer, lr', 'the nearest of its 3 columns are seed')
    """
    if len(names) <= most:
        return f"its columns are {', '.join(names)}"
    near = get_close_matches(name, names, most, cutoff=0.0) or list(names[:most])
    return f"the nearest of its {len(names)} columns are {', '.join(near)}"


def has_thousands(cell: object) -> bool:
    """Whether a text is a number but for its thousands separators.

    >>> has_thousands("1,024"), has_thousands("1 024.5"), has_thousands("1,2"), has_thousands(1024)
    (True, True, False, False)
    """
    return isinstance(cell, str) and re.fullmatch(r"\s*[+-]?\d{1,3}([, '_]\d{3})+(\.\d*)?\s*", cell) is not None


def number(x: float, digits: int = 3) -> str:
    """A measured number to `digits` significant digits, without an exponent between 1e-4 and 1e12.

    >>> number(1234567.0), number(0.012345), number(99.96), number(float("inf")), number(float("nan"))
    ('1,230,000', '0.0123', '100', '∞', 'not known')
    >>> number(3e-5), number(0.5, digits=2)
    ('3e-5', '0.5')
    """
    if isnan(x):
        return UNKNOWN
    if not isfinite(x):
        return "∞" if x > 0 else "-∞"
    if x == 0:
        return "0"
    rounded = float(f"{x:.{digits - 1}e}")
    if not 1e-4 <= abs(rounded) < 1e12:
        mantissa, exponent = f"{rounded:.{digits - 1}e}".split("e")
        return f"{_trimmed(mantissa)}e{int(exponent)}"
    decimals = max(0, digits - 1 - floor(log10(abs(rounded))))
    return _trimmed(f"{rounded:,.{decimals}f}")


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def interval(low: float, high: float, digits: int = 3) -> str:
    """An interval of a positive quantity in words; 0 below and inf above mean that the data do not bound that side.

    >>> interval(70.0, 123.4), interval(70.0, float("inf")), interval(0.0, 123.4), interval(0.0, float("inf"))
    ('70 to 123', '70 or more', 'at most 123', 'unbounded on both sides')
    >>> interval(float("inf"), float("inf"))
    'unbounded'
    """
    if low == inf:
        return "unbounded"
    bounded_below, bounded_above = low > 0, high < inf
    if bounded_below and bounded_above:
        return f"{number(low, digits)} to {number(high, digits)}"
    if bounded_below:
        return f"{number(low, digits)} or more"
    if bounded_above:
        return f"at most {number(high, digits)}"
    return UNKNOWN if isnan(low) or isnan(high) else "unbounded on both sides"


def measured_interval(low: float, high: float) -> str:
    """An interval whose ends are measured batch sizes, which are not rounded.

    >>> measured_interval(512.0, 1024.0), measured_interval(0.0, 128.0)
    ('512 to 1,024', 'at most 128')
    """
    return interval(low, high, digits=9)


def in_brackets(low: float, high: float, confidence: float) -> str:
    """The same with its level, after a number; nothing where it is unbounded on both sides.

    >>> in_brackets(512.0, 1024.0, 0.95), in_brackets(0.0, float("inf"), 0.95)
    (' (95 % interval 512 to 1,024)', '')
    """
    if low == 0.0 and high == inf:
        return ""
    return f" ({level(confidence)} interval {measured_interval(low, high)})"


def percent(share: float) -> str:
    """A share as a percentage: whole above 10 %, one decimal below.

    >>> percent(0.254), percent(0.0312), percent(1.5), percent(float("nan"))
    ('25 %', '3.1 %', '150 %', 'not known')
    """
    if isnan(share):
        return UNKNOWN
    if not isfinite(share):
        return "unbounded"
    hundredths = 100.0 * share
    return f"{hundredths:,.0f} %" if abs(hundredths) >= 9.95 else f"{_trimmed(f'{hundredths:.1f}')} %"


def level(confidence: float) -> str:
    """The confidence of an interval, never rounded to another one.

    >>> level(0.95), level(0.995), level(0.6827)
    ('95 %', '99.5 %', '68.27 %')
    """
    return f"{100.0 * confidence:.12g} %"


def percent_interval(low: float, high: float) -> str:
    """An interval of shares.

    >>> percent_interval(0.2, 0.31)
    '20 to 31 %'
    >>> percent_interval(0.031, 0.2)
    '3.1 to 20 %'
    """
    if not (isfinite(low) and isfinite(high)):
        return f"{percent(low)} to {percent(high)}"
    return f"{percent(low).removesuffix(' %')} to {percent(high)}"


def tick(x: float) -> str:
    """An axis label: plain up to 999,999, millions above, no rounding that would move the tick.

    >>> tick(250.0), tick(20000.0), tick(1.5e6), tick(0.003), tick(2e-5), tick(4e9)
    ('250', '20,000', '1.5M', '0.003', '2e-5', '4,000M')
    """
    if abs(x) >= 1e6:
        return f"{number(x / 1e6, 6)}M"
    return number(x, 6)


def sign(direction: str) -> str:
    """How a metric meets its target.

    >>> sign("min"), sign("max")
    ('≤', '≥')
    """
    return "≤" if direction == "min" else "≥"


def unit_plural(unit: str) -> str:
    """What the samples are.

    >>> unit_plural("token"), unit_plural("")
    ('tokens', 'samples')
    """
    return f"{unit}s" if unit else "samples"


def samples_each(n: float, unit: str) -> str:
    """A number of samples in words, one of them in the singular.

    >>> samples_each(1, "example"), samples_each(4, "token"), samples_each(1, "")
    ('1 example', '4 tokens', '1 sample')
    """
    return f"1 {unit or 'sample'}" if n == 1 else f"{number(n)} {unit_plural(unit)}"


def brief(text: str, most: int = 40) -> str:
    """A name that fits in a figure, with an ellipsis where it was cut.

    >>> brief("eval_loss"), brief("a" * 50, most=8)
    ('eval_loss', 'aaaaaaa…')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"
