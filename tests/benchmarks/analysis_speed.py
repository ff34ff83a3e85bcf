"""How long the analysis of a large study takes: ten thousand trials with ten million logged steps.

ratio = the plain way with pandas and scipy (`plain_analysis`, a read per file) over ours, from a study directory to the
fitted curve with 1,000 resamples and the noise scale over training. Ours also reads what commits bind and checks every
byte against them, judges the rules and draws up the loss curves; the plain way does none of that. `ratio_one_read` is
against the plain way that gives pandas the list of all files at once, which is faster and holds more in memory. Each
side is a process of its own, timed after its imports, with the files in the page cache. Two bars are absolute:
`analysis_bar_s` and `peak_bar_bytes`.

pandas is needed: pip install "pandas>=2.2"
"""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.harness import options, ratio, report, seconds_of
from tests.benchmarks.large_study import B_CRIT, METRIC, TARGET, write_large_study

BAR = 10.0
BAR_S, BAR_BYTES = 60.0, 2.0e9
STEPS = 1000
LRS, SEEDS = 10, 100
QUICK_LRS, QUICK_SEEDS = 3, 2
TURNS = 3
RESAMPLES, QUICK_RESAMPLES = 1000, 100
SIDES = ("plain", "one_read", "ours")


def ours(root: Path) -> float:
    """B_crit [samples], by the package."""
    from analysis.study import analyse

    fit = analyse(root, target=TARGET, metric=METRIC).fit
    assert fit is not None
    return fit.b_crit


def plain(root: Path, one_by_one: bool, resamples: int) -> float:
    """B_crit [samples], without it."""
    from tests.benchmarks.plain_analysis import plain_analysis

    return plain_analysis(root, METRIC, TARGET, resamples, one_by_one=one_by_one).b_crit


def peak_bytes() -> int:
    """Peak resident size of this process since its program began (Linux); `getrusage` keeps that of its parent."""
    told = Path("/proc/self/status").read_text()
    return 1024 * int(next(line.split()[1] for line in told.splitlines() if line.startswith("VmHWM:")))


def measure(side: str, root: Path, resamples: int) -> dict[str, Any]:
    """One side, in this process: its seconds, peak resident size and answer."""
    import analysis.study  # noqa: F401  # imports are not what is timed

    if side != "ours":
        import tests.benchmarks.plain_analysis  # noqa: F401
    found: list[float] = []
    taken_s = seconds_of(
        lambda: found.append(ours(root) if side == "ours" else plain(root, side == "plain", resamples))
    )
    return {"seconds": taken_s, "peak_bytes": peak_bytes(), "b_crit": found[0]}


def main() -> None:
    """A study is written, and every side looks at it in turn."""
    parser = options(__doc__)
    parser.add_argument("--side", choices=SIDES, help="measure this side only, of the study in --root")
    parser.add_argument("--root", type=Path, help="a study that `large_study` wrote; else one is written")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the plain side; ours draws 1,000")
    arguments = parser.parse_args()
    if find_spec("pandas") is None:
        raise SystemExit('this benchmark compares with pandas, which is not there: pip install "pandas>=2.2"')
    if arguments.side:
        return print(json.dumps(measure(arguments.side, arguments.root, arguments.resamples)))
    resamples = QUICK_RESAMPLES if arguments.quick else arguments.resamples
    with tempfile.TemporaryDirectory() as directory:
        root = arguments.root or Path(directory)
        lrs, seeds = (QUICK_LRS, QUICK_SEEDS) if arguments.quick else (LRS, SEEDS)
        if not arguments.root:
            write_large_study(root, lrs=lrs, seeds=seeds, steps=STEPS)
        turns = [_turn(root, resamples) for _ in range(1 if arguments.quick else TURNS)]
    seconds = {side: np.array([turn[side]["seconds"] for turn in turns]) for side in SIDES}
    answers = {side: turns[0][side]["b_crit"] for side in SIDES}
    assert all(abs(b / answers["ours"] - 1.0) < 0.02 for b in answers.values()), f"not the same answer: {answers}"
    peaks = {side: max(turn[side]["peak_bytes"] for turn in turns) for side in SIDES}
    report(
        "analysis_speed",
        ratio(seconds["plain"], seconds["ours"], bar=BAR),
        {"one_read": ratio(seconds["one_read"], seconds["ours"])},
        analysis_s=float(np.median(seconds["ours"])),
        analysis_bar_s=BAR_S,
        peak_bytes=peaks["ours"],
        peak_bar_bytes=BAR_BYTES,
        plain_peak_bytes=peaks["plain"],
        one_read_peak_bytes=peaks["one_read"],
        b_crit=answers["ours"],
        plain_b_crit=answers["plain"],
        true_b_crit=B_CRIT,
        plain_resamples=resamples,
    )


def _turn(root: Path, resamples: int) -> dict[str, dict[str, Any]]:
    from tests.benchmarks.processes import module_json  # it imports torch, which a side must not

    words = ("--root", str(root), "--resamples", str(resamples))
    found = {side: module_json("analysis_speed", "--side", side, *words) for side in SIDES}
    for side, one in found.items():
        print(f"{side:>9}: {one['seconds']:6.1f} s, peak {one['peak_bytes'] / 1e6:,.0f} MB", flush=True)
    return found


if __name__ == "__main__":
    main()
