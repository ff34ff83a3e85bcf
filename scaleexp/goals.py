"""What the evaluations of a trial have shown: which of its targets are confirmed by now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scaleexp.laws import first_confirmed
from scaleexp.schema import Target


class Goals:
    """Targets, and the evaluations that confirm them one after another.

    Args:
        targets: what ends a trial: the hardest value of every metric, each confirmed by the next evaluation.

    >>> goals = Goals([{"metric": "val_loss", "values": [0.5, 0.3], "direction": "min"}])
    >>> for value in (0.4, 0.3, 0.2):
    ...     goals.evaluated({"val_loss": value})
    >>> goals.reached
    True
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._last_two: dict[str, list[float]] = {}
        self._confirmed: set[str] = set()

    @property
    def reached(self) -> bool:
        """Whether every target is confirmed; never without one."""
        return bool(self._targets) and len(self._confirmed) == len(self._targets)

    @property
    def unseen(self) -> list[str]:
        """Metrics of targets that no evaluation has held."""
        return [target["metric"] for target in self._targets if target["metric"] not in self._last_two]

    def look_back(self, values: Mapping[str, Sequence[float]]) -> None:
        """What every evaluation so far has shown, by metric."""
        self._last_two = {metric: list(seen[-2:]) for metric, seen in values.items()}
        self._confirm(values)

    def evaluated(self, values: Mapping[str, float]) -> None:
        """Take the values of one more evaluation."""
        for metric, value in values.items():
            self._last_two[metric] = [*self._last_two.get(metric, [])[-1:], value]
        self._confirm(self._last_two)

    def _confirm(self, values: Mapping[str, Sequence[float]]) -> None:
        for target in self._targets:
            seen = values.get(target["metric"], ())
            if first_confirmed(seen, target["values"][-1], target["direction"]) is not None:
                self._confirmed.add(target["metric"])
