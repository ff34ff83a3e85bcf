"""What may change between two runs of one study: it may grow, and what was trained keeps its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scaleexp.errors import ConfigError
from scaleexp.schema import PlanFile, Target, trial_key

OF_ONE_RUN = frozenset(
    {
        "question",
        "limits.wall_s",
        "limits.gpu_hours",
        "limits.usd",
        "limits.start_s",
        "price_usd_per_worker_hour",
        "hardware",
        "checkpoint.every_s",
        "checkpoint.keep_finished",
        "engine",
        "processes",
        "compile",
        "cpus_per_worker",
    }
)
"""Fields that say how a run of the command goes about it and change nothing that is trained."""
OF_THE_GRID = frozenset(
    {
        "workers",
        "worker_batch",
        "micro_batch",
        "accumulation_steps",
        "lr_rules",
        "lr_multipliers",
        "lr_snap",
        "seeds",
        "realisations",
    }
)
"""Fields that say which trials there are: of those planned before, none may be left out."""
_SHOWN = 3  # differences: enough to see


def check_growth(
    held: Mapping[str, Any], wanted: Mapping[str, Any], held_plan: PlanFile, wanted_plan: PlanFile, *, where: str
) -> None:
    """Refuse a study that is not the one held there, or more of it.

    Args:
        held: fields of the study that is there.
        wanted: fields of the one that is to run there.
        held_plan: the newest plan that is there.
        wanted_plan: the plan of the other.
        where: the study directory, for the message.

    Raises:
        ConfigError: a field that what was trained rests on is another, or a target, a limit or a trial is gone.
    """
    problems = [*_frozen(held, wanted), *_goals(held, wanted, held_plan["targets"], wanted_plan["targets"])]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConfigError(
            f"{where} holds the study {held.get('name')!r}, which differs in {'; '.join(problems[:_SHOWN])}{more}: "
            "give another --storage, where everything runs anew, or the study that it holds."
        )
    there, here = (
        {trial_key(t["trial_id"], t["realisation"]): t for t in plan["trials"]} for plan in (held_plan, wanted_plan)
    )
    missing = [trial for key, trial in there.items() if key not in here]
    grid = [f"{p} ({_short(a)} there, {_short(b)} here)" for p, a, b in differences(held, wanted) if p in OF_THE_GRID]
    if len(missing) == len(there) and not grid:
        raise ConfigError(
            f"{where} was planned from other data or other rules of the same name: give another --storage."
        )
    if missing:
        first = missing[0]
        raise ConfigError(
            f"{where} holds {len(missing)} trials that this grid leaves out, such as the one of batch size "
            f"{first['batch_size']}, LR {first['lr']:.4g} and seed {first['seed']}; changed: "
            f"{'; '.join(grid) or 'a rule'}. A grid may grow, so keep what it had, or give another --storage."
        )


def _frozen(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Fields that what was trained rests on and that are not the same."""
    for path, there, here in differences(held, wanted):
        if path not in OF_ONE_RUN | OF_THE_GRID | {"targets", "limits.samples"}:
            yield f"{path} ({_short(there)} there, {_short(here)} here)"


def _goals(
    held: Mapping[str, Any], wanted: Mapping[str, Any], there: Sequence[Target], here: Sequence[Target]
) -> Iterator[str]:
    """Targets that are gone, and a limit that is lower."""
    values = {target["metric"]: target["values"] for target in here}
    for target in there:
        lost = [v for v in target["values"] if v not in values.get(target["metric"], ())]
        if lost:
            yield f"targets ({target['metric']} {_short(lost)} there and not here: add a harder value after those)"
    if wanted["limits"]["samples"] < held["limits"]["samples"]:
        yield f"limits.samples ({held['limits']['samples']} there, {wanted['limits']['samples']} here: it may grow)"


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."  # of a line


def differences(held: Any, wanted: Any, path: str = "") -> list[tuple[str, Any, Any]]:  # noqa: ANN401  # JSON
    """(dotted path, one value, the other) wherever two JSON trees differ.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    [('a.c', 2, 3)]
    """
    if isinstance(held, dict) and isinstance(wanted, dict):
        keys = sorted(held.keys() | wanted.keys())
        return [d for k in keys for d in differences(held.get(k), wanted.get(k), f"{path}.{k}" if path else k)]
    return [] if held == wanted else [(path, held, wanted)]
