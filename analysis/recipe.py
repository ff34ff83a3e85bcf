"""What two studies were made of, and where they differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from analysis.read import StudyLog
from scaleexp import schema
from scaleexp.growth import OF_ONE_RUN, OF_THE_GRID, differences
from scaleexp.redact import redacted
from scaleexp.storage import Store

_NAMES = ("name", "schema_version")
_GOALS = ("targets", "limits")
_OF_TRIALS = ("data_sha256", "n_train", "n_parameters", "unit")
_WITHOUT_STUDY = ("workload", "optimizer", "dtype")


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A field that is one thing in A and another in B.

    Attributes:
        field: its dotted name.
        a, b: its values; None where it is not set.
    """

    field: str
    a: Any
    b: Any


def recipe_differences(a: StudyLog, b: StudyLog) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """(of the recipe, of what was measured): frozen fields, and those that only say which trials there are.

    Fields that say how a run went about it, such as the engine, are in neither.
    """
    recipe: list[Difference] = []
    grid: list[Difference] = []
    for field, there, here in differences(recipe_of(a), recipe_of(b)):
        if field in OF_ONE_RUN:
            continue
        which = grid if field in OF_THE_GRID or field.startswith(_GOALS) else recipe
        which.append(Difference(field=field, a=there, b=here))
    return tuple(recipe), tuple(grid)


def recipe_of(log: StudyLog) -> dict[str, Any]:
    """The fields of the study as its newest plan has them, and the data and the model that its trials had."""
    study = log.plan.get("resolved") or _first_study(log)
    fields = {name: value for name, value in study.items() if name not in _NAMES}
    own = _OF_TRIALS if "workload" in fields else (*_OF_TRIALS, *_WITHOUT_STUDY)
    return dict(redacted(fields | {name: _of_trials(log, name) for name in own}))


def _first_study(log: StudyLog) -> dict[str, Any]:
    store = Store(log.path)
    return dict(store.read_json(schema.STUDY_FILE)) if schema.STUDY_FILE in store.names(".") else {}


def _of_trials(log: StudyLog, name: str) -> Any:  # noqa: ANN401 - JSON
    """A fact of the trials: its one value, or all of them."""
    values: list[Any] = []
    for trial in log.trials:
        value = trial.facts[name]  # type: ignore[literal-required]
        if value not in values:
            values.append(value)
    return values[0] if len(values) == 1 else values
