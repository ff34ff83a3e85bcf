"""What `scaleexp simulate frontier --json` or `scaleexp advise --json` wrote, as it is drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleexp.errors import ConfigError

CAUSES = ("statistics", "compute", "communication", "stragglers", "failures")
"""Of lost worker time, as in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierFile:
    """A frontier.

    Attributes:
        document: the whole of it.
        rows: numbers of workers at their best, those that would never end left out.
        chosen: workers of the recommended row.
    """

    document: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    chosen: int

    @property
    def priced(self) -> bool:
        """Whether cost is in dollars; otherwise it is in worker hours."""
        return self.document["price_usd_per_worker_hour"] is not None

    @property
    def worker(self) -> str:
        """What one is called."""
        return str(self.document["worker"])

    def cost(self, row: Mapping[str, Any]) -> float:
        """Of a row, in dollars or worker hours."""
        return float(row["usd"] if self.priced else row["worker_hours"])

    def cost_interval(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """The same at both ends."""
        low, high = row["usd_interval"] if self.priced else [row["workers"] * h for h in row["hours_interval"]]
        return float(low), float(high)


def is_frontier_file(source: str) -> bool:
    """Whether a source is a JSON file and not a study."""
    return "://" not in source and source.endswith(".json") and Path(source).is_file()


def read_frontier(path: str | Path) -> FrontierFile:
    """Read a frontier.

    Raises:
        ConfigError: no such file, or one of another kind.
    """
    wanted = "give what `scaleexp simulate frontier --json` or `scaleexp advise --json` wrote"
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {path} as JSON ({reason}): {wanted}.") from None
    if isinstance(document, dict) and "advice" in document:
        if not document.get("decision"):
            raise ConfigError(f"{path} was made without a step time, so that there is no time or cost to draw.")
        document = document["decision"]
    try:
        rows = [row for row in document["rows"] if None not in (row["hours"], *row["hours_interval"], *row["work_s"])]
        return FrontierFile(document=document, rows=rows, chosen=document["recommended"]["workers"])
    except (KeyError, TypeError):
        raise ConfigError(f"{path} holds no frontier: {wanted}.") from None
