"""The study of a script that no study launched: its directory, and a plan that a new setting adds a trial to."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, cast

from scaleexp import schema
from scaleexp.commits import newest_plan
from scaleexp.errors import ConfigError
from scaleexp.redact import redacted
from scaleexp.storage import Store
from scaleexp.trial import planned_trial
from scaleexp.trial_context import TrialContext

_MARK = "script"
"""Name of the workload of such a study."""


def open_own_study(store: Store, trial: TrialContext) -> None:
    """Create the study, or add the trial to it.

    Raises:
        ConfigError: the directory holds a study that is not of this script.
    """
    found = newest_plan(store)
    study = _study(trial)
    with suppress(FileExistsError):
        store.write_json(schema.STUDY_FILE, study)
    plan = _plan(trial, study, found[1]["trials"] if found else [])
    if found:
        _check(store, found[1], plan)
        if plan["trials"] == found[1]["trials"]:
            return
    store.write_json(f"{schema.PLAN_DIR}/{found[0] + 1 if found else 1:04d}.json", plan)


def _study(trial: TrialContext) -> dict[str, Any]:
    study: dict[str, Any] = redacted(
        {
            "schema_version": schema.SCHEMA_VERSION,
            "name": trial.study,
            "question": _question(trial),
            "workload": dict(trial.workload),
            "optimizer": dict(trial.hyperparameters),
        }
    )
    return study


def _question(trial: TrialContext) -> str:
    return f"What did {trial.workload.get('script') or 'the script'} do?"


def _plan(trial: TrialContext, study: dict[str, Any], before: list[schema.PlannedTrial]) -> schema.PlanFile:
    """With one more trial, unless it is there."""
    own = planned_trial(trial)
    known = any(schema.trial_key(t["trial_id"], t["realisation"]) == trial.key for t in before)
    trials = sorted([*before, *([] if known else [own])], key=lambda t: (t["batch_size"], t["lr"], t["seed"]))
    plan = schema.PlanFile(
        schema_version=schema.SCHEMA_VERSION,
        study=trial.study,
        question=_question(trial),
        targets=[target.to_target() for target in trial.targets],
        base_batch_size=trials[0]["batch_size"],
        base_lr=trials[0]["lr"],
        unit=trial.unit,
        trials=trials,
        rules=[],
        resolved=study,
    )
    return cast("schema.PlanFile", json.loads(json.dumps(redacted(plan))))


def _check(store: Store, there: schema.PlanFile, here: schema.PlanFile) -> None:
    resolved = there.get("resolved") or {}
    workload = resolved.get("workload")
    if not isinstance(workload, dict) or workload.get("name") != _MARK:
        raise ConfigError(
            f"{store.root} holds the study {there['study']!r}, which `scaleexp run` planned: give another storage=."
        )
    for what in ("study", "unit", "targets"):
        if there[what] != here[what]:
            raise ConfigError(
                f"{store.root} holds a study with {what} {there[what]!r} and this script states "
                f"{here[what]!r}: give another storage=, or the same {what}."
            )
