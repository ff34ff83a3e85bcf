"""Every benchmark, one after another: `python -m tests.benchmarks [--quick] [--out FILE]`.

Prints what each prints, then one table of all ratios; FILE gets the JSON object of each as a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import options
from tests.benchmarks.processes import ROOT, environment

NAMES = (
    "pack_limit",
    "memory",
    "noise_overhead",
    "track_overhead",
    "ddp_overhead",
    "logging_cost",
    "trials_per_minute",
    "many_trials",
    "long_run",
    "analysis_speed",
)


def result_of(name: str, *arguments: str) -> dict[str, Any]:
    """Run one benchmark, showing what it prints; its JSON, or what went wrong.

    A benchmark that fails must not cost the results of the others.
    """
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
    last = ""
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            last = text.strip() or last
            if not text.startswith("{"):
                print(text, end="", flush=True)
    if process.returncode != 0:
        return {"benchmark": name, "failed": f"exit code {process.returncode}"}
    found: dict[str, Any] = json.loads(last)
    return found


def rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Lines of the table: (benchmark, ratio, interval, bar, verdict)."""
    if "failed" in result:
        return [(result["benchmark"], result["failed"], "", "", "failed")]
    lines = []
    for key, ends in result.items():
        if not key.endswith("_interval") or ends is None:
            continue
        name = key.removesuffix("_interval")
        bar = result.get(name.replace("ratio", "bar", 1))
        at_most = result.get(name.replace("ratio", "bar", 1) + "_is") == "at most"
        label = f"{result['benchmark']} {name.removeprefix('ratio').strip('_')}".strip()
        lines.append(
            (label, f"{result[name]:.3g}", f"{ends[0]:.3g} to {ends[1]:.3g}", *verdict(result[name], bar, at_most))
        )
    return lines


def verdict(value: float, bar: float | None, at_most: bool) -> tuple[str, str]:
    """(Bar in words, whether it is met)."""
    if bar is None:
        return "-", "-"
    met = value <= bar if at_most else value >= bar
    return f"{'at most' if at_most else 'at least'} {bar:g}", "met" if met else "missed"


def table(results: list[dict[str, Any]]) -> str:
    """All ratios of all benchmarks."""
    lines = [("benchmark", "ratio", "90 % interval", "bar", ""), *(row for result in results for row in rows(result))]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    """Run them all; exit code 1 if any failed to run. A missed bar is a result, not a failure."""
    parser = options(__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON objects there, one a line")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"these only; of {', '.join(NAMES)}")
    arguments = parser.parse_args()
    results = []
    for name in arguments.names or NAMES:
        results.append(result_of(name, *(["--quick"] if arguments.quick else [])))
        if arguments.out:  # after each, so that an interrupted run keeps what it has
            arguments.out.write_text("".join(json.dumps(result) + "\n" for result in results))
    print("\n" + table(results))
    sys.exit(any("failed" in result for result in results))


if __name__ == "__main__":
    main()
