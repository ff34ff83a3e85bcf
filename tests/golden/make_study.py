"""Write a study directory that every later version must be able to read, and what it holds, beside this file.

Run once per schema version and layout of the files: `python -m tests.golden.make_study NAME`. A study that is there is
never written again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.faults.small_study import Interrupted, prepared, run

GOLDEN = Path(__file__).parent


def values(root: Path) -> dict[str, dict[str, list]]:
    """Every column of every table, straight from the files."""
    found: dict[str, dict[str, list]] = {}
    for table in ("steps", "evals"):
        for file in sorted(root.glob(f"trials/*/{table}*.parquet")):
            for column, rows in pq.read_table(file).to_pydict().items():
                found.setdefault(table, {}).setdefault(column, []).extend(rows)
    return found


def main() -> None:
    """Three steps, a kill, and the rest."""
    root = GOLDEN / sys.argv[1]
    if root.exists():
        raise SystemExit(f"{root} is there: it stays as it is, for that is what it is for")
    study = prepared("question=Does this stay readable?")
    try:
        run(study, root, commit_after=(3,), dies_at=4)
    except Interrupted:
        run(study, root)
    root.with_suffix(".json").write_text(json.dumps(values(root), indent=1) + "\n")


if __name__ == "__main__":
    main()
