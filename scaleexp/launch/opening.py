"""A study before it runs: checked against its data, planned, and opened in its storage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scaleexp import schema
from scaleexp.commits import newest_plan
from scaleexp.config import Study, check_against_data, validate_study
from scaleexp.errors import ConfigError, StorageError
from scaleexp.execute import workload_of
from scaleexp.growth import check_growth, differences
from scaleexp.own_script import check_there, code_of
from scaleexp.plan import directed_targets, make_plan
from scaleexp.redact import redacted
from scaleexp.storage import Store, json_bytes
from scaleexp.trial import Plan

if TYPE_CHECKING:
    from scaleexp.workloads.base import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A study that was checked against its data.

    Attributes:
        study: as validated.
        plan: its trials.
        targets: with their directions.
        workload: its workload, the data loaded; None of a user's own script, which brings both.
        code: file of such a script and its sha256, where it was found.
    """

    study: Study
    plan: Plan
    targets: tuple[schema.Target, ...]
    workload: Workload | None
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What a sample is: example or token."""
        return self.workload.unit if self.workload else self.study.unit or "example"


def prepare(study: Study) -> Prepared:
    """Load the workload, check the study against it, and plan.

    Raises:
        ConfigError: a batch larger than the data, a metric that is never reported, options of no use, ...
    """
    if study.script:
        return _prepared_script(study)
    from scaleexp.exact_layers import has_batch_norm

    workload = workload_of(study)
    check_against_data(study, workload.n_train, workload.metrics)
    if workload.couples_examples and study.split[1] > 1:
        raise ConfigError(
            f"The loss of workload {study.workload.name!r} couples the examples of a batch, so micro-batches cannot be "
            f"accumulated: set accumulation_steps to 1 (it is {study.split[1]})."
        )
    plan = make_plan(study, workload.data_sha256, has_batch_norm=has_batch_norm(workload.model(0)))
    targets = tuple(directed_targets(study, workload.metrics))
    return Prepared(study=study, plan=plan, targets=targets, workload=workload)


def _prepared_script(study: Study) -> Prepared:
    """A study of a user's own script: what it reads and reports is not known before it runs.

    Raises:
        ConfigError: the script is not there, or a batch is larger than the data that the study says.
    """
    check_against_data(study, study.n_train, {})
    check_there(study)
    targets = tuple(directed_targets(study, {}))
    return Prepared(study=study, plan=make_plan(study, ""), targets=targets, workload=None, code=code_of(study))


def open_study(prepared: Prepared, root: str | Path) -> Store:
    """Create the study directory, or go on with one that holds this study or less of it.

    Raises:
        ConfigError: it holds another study.
        StorageError: it cannot be written, or another run has just written another plan.
    """
    store = Store(root)
    held = check_held(prepared, store)
    with suppress(FileExistsError):
        store.write_json(schema.STUDY_FILE, _dumped(prepared))
    plan = _plan_file(prepared)
    if held is None or differences(_without_study(held[1]), _without_study(plan)):
        _write_plan(prepared, store, held[0] + 1 if held else 1, plan)
    return store


def _write_plan(prepared: Prepared, store: Store, number: int, plan: schema.PlanFile) -> None:
    """Where another run was faster, what it wrote may be as good.

    Raises:
        StorageError: it is not.
    """
    name = f"{schema.PLAN_DIR}/{number:04d}.json"
    try:
        store.write_json(name, plan)
    except FileExistsError:
        held = check_held(prepared, store)
        if held is None or differences(_without_study(held[1]), _without_study(plan)):
            raise StorageError(
                f"another run has just written {store.where(name)}, with another plan: give the same command again."
            ) from None


def bytes_of(prepared: Prepared) -> int:
    """What the study file and the plan take [bytes]."""
    return len(json_bytes(_dumped(prepared))) + len(json_bytes(_plan_file(prepared)))


def _dumped(prepared: Prepared) -> dict[str, Any]:
    study: dict[str, Any] = redacted(prepared.study.model_dump(mode="json"))
    return {"schema_version": schema.SCHEMA_VERSION, **study}


def _plan_file(prepared: Prepared) -> schema.PlanFile:
    plan = prepared.plan.to_file(list(prepared.targets), unit=prepared.unit)
    return cast("schema.PlanFile", json.loads(json.dumps({**redacted(plan), "resolved": _dumped(prepared)})))


def _without_study(plan: schema.PlanFile) -> dict[str, Any]:
    return {key: value for key, value in plan.items() if key != "resolved"}


def check_held(prepared: Prepared, store: Store) -> tuple[int, schema.PlanFile] | None:
    """Number and content of the newest plan of a directory that holds this study, or less of it; None if it is empty.

    Raises:
        ConfigError: it holds another study, or one planned from other data.
    """
    found = newest_plan(store)
    if found is None:
        return None
    plan = found[1]
    study = _with_defaults(plan.get("resolved") or store.read_json(schema.STUDY_FILE))
    check_growth(study, _dumped(prepared), plan, _plan_file(prepared), where=str(store.root))
    return found


def _with_defaults(held: dict[str, Any]) -> dict[str, Any]:
    """A stored study with the defaults of fields that it was written without, or as it is if it is none any more."""
    fields = {key: value for key, value in held.items() if key != "schema_version"}
    with suppress(ConfigError):
        return {**held, **validate_study(fields, schema.STUDY_FILE).model_dump(mode="json")}
    return held
