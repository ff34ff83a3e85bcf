"""A study as an MLflow tracking directory: an experiment per study, a run per trial, known by its trial id.

A new run is made by MLflow in a directory beside, and moved to its place when it is whole; a metric of a run that has
gone on is replaced as a whole by its history and what is new. Histories are written as MLflow's file store keeps them,
one line `milliseconds value step` per value: its interface takes a thousand values a call and a file opened for each.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from analysis.export.exported import Exported
from analysis.export.facts import facts_row
from analysis.export.place import commit_number
from analysis.export.rows import rows_of
from analysis.export.scalars import After, Series, series
from analysis.read import StudyLog, TrialLog
from scaleexp.errors import ConfigError
from scaleexp.redact import redact

TRIAL_TAG, COMMIT_TAG = "scaleexp.trial", "scaleexp.commit"
_STATUS = {"failed": "FAILED", "stopped": "KILLED", "running": "RUNNING"}
_NOT_PARAMS = ("versions.", "hardware.", "realisation.")
_ALSO_NOT = {"created_utc", "committed_utc", "git_sha", "status", "cause", "step", "samples", "attempt", "elapsed_s"}
_LONGEST = 500  # characters of a parameter: what every version takes
_ENVIRONMENT = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tracking:
    """An MLflow client and the directory that it keeps."""

    mlflow: Any
    client: Any
    root: Path
    experiment: str


def export_runs(log: StudyLog, out: Path) -> Exported:
    """Bring the runs in a tracking directory up to date; experiments of others in it stay as they are.

    Raises:
        ConfigError: MLflow is not installed, or the directory is not one of MLflow's.
        CorruptError: a segment changed since the study was loaded.
    """
    _check_tracking_directory(out)
    study, files = redact(log.plan["study"]), []
    added: Counter[str] = Counter({"steps": 0, "evals": 0, "trials": 0})
    with _local_mlflow() as mlflow, _beside(out) as stage:
        tracking = _open(mlflow, out, study)
        runs = _runs(tracking)
        for trial in log.trials:
            run, number = runs.get(trial.key), str(commit_number(trial.commit))
            if run is not None and run.data.tags.get(COMMIT_TAG) == number:
                continue
            run_id = _new_run(tracking, stage, log, trial, added) if run is None else run.info.run_id
            if run is not None:
                _go_on(tracking, stage, log, trial, run_id, added)
            files.append(f"{tracking.experiment}/{run_id}")
    return Exported(
        format="mlflow",
        out=out,
        study=study,
        rows={"steps": rows_of(log, "steps"), "evals": rows_of(log, "evals"), "trials": len(log.trials)},
        added=dict(added),
        files=tuple(files),
        left_out=log.problems,
    )


@contextmanager
def _local_mlflow() -> Iterator[Any]:
    """MLflow, allowed to keep files and told to report to nobody while it works here."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield import_module("mlflow")
    except ModuleNotFoundError as error:
        if error.name != "mlflow":
            raise
        raise ConfigError("export to mlflow needs the package mlflow: pip install 'scaleexp[export]'.") from None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A directory on the same disk, gone afterwards."""
    stage = out.absolute().parent / f".{uuid.uuid4().hex}.tmp"
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _check_tracking_directory(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give another --out.")
    if out.is_dir() and any(out.iterdir()) and not any(out.glob("*/meta.yaml")):
        raise ConfigError(f"{out} holds files and is no MLflow tracking directory: give another --out.")


def _open(mlflow: Any, out: Path, study: str) -> _Tracking:  # noqa: ANN401 - the package
    client = mlflow.MlflowClient(tracking_uri=out.absolute().as_uri())
    found = client.get_experiment_by_name(study)
    experiment = found.experiment_id if found else client.create_experiment(study)
    return _Tracking(mlflow=mlflow, client=client, root=out.absolute(), experiment=experiment)


def _runs(tracking: _Tracking) -> dict[str, Any]:
    """Trial key -> its run."""
    runs, token = [], None
    while True:
        page = tracking.client.search_runs([tracking.experiment], page_token=token)
        runs += page
        token = page.token
        if not token:
            return {run.data.tags[TRIAL_TAG]: run for run in runs if TRIAL_TAG in run.data.tags}


def _new_run(tracking: _Tracking, stage: Path, log: StudyLog, trial: TrialLog, added: Counter[str]) -> str:
    """A whole run, moved to its place."""
    description = stage / tracking.experiment / "meta.yaml"
    if not description.exists():
        description.parent.mkdir(parents=True)
        shutil.copyfile(tracking.root / tracking.experiment / "meta.yaml", description)
    client = tracking.mlflow.MlflowClient(tracking_uri=stage.as_uri())
    row = facts_row(trial)
    name = f"b{row['batch_size']} lr{row['lr']:.4g} seed{row['seed']}"
    run_id: str = client.create_run(
        tracking.experiment, start_time=_milliseconds(trial.facts["created_utc"]), run_name=name
    ).info.run_id
    entities = tracking.mlflow.entities
    params = [entities.Param(_named(k), str(v)[:_LONGEST]) for k, v in row.items() if _is_param(k) and v is not None]
    for begin in range(0, len(params), 100):  # the most that a call takes
        client.log_batch(run_id, params=params[begin : begin + 100])
    run = description.parent / run_id
    for part in series(log, trial, After()):
        _append(part, run / "metrics", {}, added)
    _say(client, run_id, log, trial)
    run.replace(tracking.root / tracking.experiment / run_id)
    added["trials"] += 1
    return run_id


def _go_on(tracking: _Tracking, stage: Path, log: StudyLog, trial: TrialLog, run_id: str, added: Counter[str]) -> None:
    """What a trial logged after its run was exported; told by each metric, so that a killed export can go on too."""
    place, work = tracking.root / tracking.experiment / run_id / "metrics", stage / "metrics"
    shutil.rmtree(work, ignore_errors=True)
    last: dict[str, int] = {}
    if place.is_dir():
        shutil.copytree(place, work)
        last = {str(f.relative_to(work)): _last_step(f) for f in work.rglob("*") if f.is_file()}
    for part in series(log, trial, After()):
        _append(part, work, last, added)
    for file in (f for f in sorted(work.rglob("*")) if f.is_file()):
        final = place / file.relative_to(work)
        final.parent.mkdir(parents=True, exist_ok=True)
        file.replace(final)
    _say(tracking.client, run_id, log, trial)


def _append(part: Series, metrics: Path, last: dict[str, int], added: Counter[str]) -> None:
    """The values of a block that a run has not, at the end of their histories."""
    new = 0
    for tag, values in part.values.items():
        name = _named(tag)
        chosen = part.step > last.get(name, -1)
        rows = zip(part.wall_s[chosen].tolist(), values[chosen].tolist(), part.step[chosen].tolist(), strict=True)
        (metrics / name).parent.mkdir(parents=True, exist_ok=True)
        with (metrics / name).open("a", encoding="utf-8") as history:
            history.writelines(f"{round(1000 * wall)} {value!r} {step}\n" for wall, value, step in rows)
        new = max(new, int(chosen.sum()))
    added[part.table] += 0 if "train/grad_norm" in part.values else new


def _last_step(history: Path) -> int:
    with history.open("rb") as lines:
        lines.seek(max(0, history.stat().st_size - 256))
        return int(lines.read().split()[-1])


def _say(client: Any, run_id: str, log: StudyLog, trial: TrialLog) -> None:  # noqa: ANN401 - an MLflow client
    """How the trial stands; which commit that is comes last."""
    row = facts_row(trial)
    tags = {f"scaleexp.{name}": value for name, value in row.items() if not _is_param(name)}
    tags |= {"scaleexp.study": redact(log.plan["study"]), TRIAL_TAG: trial.key}
    for name, value in tags.items():
        client.set_tag(run_id, _named(name), "" if value is None else str(value))
    status = _STATUS.get(str(row["status"]), "FINISHED")
    if status == "RUNNING":
        client.update_run(run_id, status=status)
    else:
        client.set_terminated(run_id, status, _milliseconds(str(row["committed_utc"])))
    client.set_tag(run_id, COMMIT_TAG, str(commit_number(trial.commit)))


def _milliseconds(utc: str) -> int:
    return round(1000 * datetime.fromisoformat(utc).timestamp())


def _is_param(name: str) -> bool:
    return not name.startswith(_NOT_PARAMS) and name not in _ALSO_NOT


def _named(name: str) -> str:
    """A name that MLflow takes.

    >>> _named("eval/top-1 (%)")
    'eval/top-1 ___'
    """
    return re.sub(r"[^\w\-. /:]", "_", name)
