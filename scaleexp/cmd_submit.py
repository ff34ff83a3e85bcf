"""The command `scaleexp submit`: a study as a job of a Ray cluster elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from scaleexp.errors import ConfigError

if TYPE_CHECKING:
    from scaleexp.launch.jobs import Details, Jobs


@click.command("submit")
@click.argument("study")
@click.option("--address", required=True, metavar="URL", help="Of the cluster's dashboard: http://HOST:8265.")
@click.option(
    "--storage", metavar="URI", help="Where the study lives: a path that every node sees, s3://, gs://, az://."
)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a field of the study.")
@click.option("--submission-id", metavar="ID", help="Of the job, instead of a hash of the study and its storage.")
@click.option("--working-dir", metavar="DIR", help="What travels to the cluster.  [default: . for a study file]")
@click.option("--runtime-env", metavar="FILE", help="Packages, each with its version, and environment variables.")
@click.option("--no-wait", is_flag=True, help="Do not follow the job to its end.")
@click.option("--status", "asked", is_flag=True, help="Say how the job is; exit code 0 if that could be found out.")
@click.option("--stop", is_flag=True, help="Have the job commit every trial where it is, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; what the job prints goes to stderr.")
def submit_command(
    study: str,
    address: str,
    storage: str | None,
    overrides: Sequence[str],
    submission_id: str | None,
    working_dir: str | None,
    runtime_env: str | None,
    no_wait: bool,
    asked: bool,
    stop: bool,
    as_json: bool,
) -> None:
    """Run STUDY (a built-in name or a YAML file) as a job of a Ray cluster, follow it, and end with its exit code.

    The same command again follows the job while it runs, and goes on with the study once it has ended.
    """
    from scaleexp.config import load_study
    from scaleexp.job_request import checked_storage, job_request
    from scaleexp.launch import dashboard
    from scaleexp.launch import jobs as ray_jobs

    if asked and stop:
        raise ConfigError("--status and --stop are two commands: give one of them.")
    loaded = load_study(study, overrides)
    checked_storage(storage, several_nodes=False)  # before the cluster is asked for anything
    cluster = dashboard.connect(address)
    request = job_request(
        study,
        loaded,
        storage=checked_storage(storage, several_nodes=cluster.several_nodes),
        overrides=overrides,
        working_dir=working_dir,
        runtime_env=runtime_env,
        submission_id=submission_id,
    )
    if asked or stop:
        job = ray_jobs.asked_about(cluster.jobs, request.submission_id)
        _tell(_stopped(cluster.jobs, job) if stop else job, as_json=as_json)
        return
    name, new = ray_jobs.begin(cluster.jobs, request)
    click.echo(f"job {name}{'' if new else ' is there already, and goes on'}, in {request.storage}", err=True)
    if no_wait:
        _tell(cluster.jobs.get_job_info(name), as_json=as_json)
        return
    job = ray_jobs.follow(cluster.jobs, name, lambda text: click.echo(text, nl=False, err=as_json))
    _tell(job, as_json=as_json)
    sys.exit(ray_jobs.exit_code(job))


def _stopped(jobs: Jobs, job: Details) -> Details:
    """A job that was asked to end, once it has."""
    from scaleexp.launch.jobs import ENDED, follow, status_of

    assert job.submission_id is not None
    if status_of(job) in ENDED:
        raise ConfigError(f"job {job.submission_id} has ended ({status_of(job)}), so there is nothing to stop.")
    jobs.stop_job(job.submission_id)
    return follow(jobs, job.submission_id, lambda text: None)


def _tell(job: Details, *, as_json: bool) -> None:
    from scaleexp.launch.jobs import document

    found = document(job)
    code = "" if found["exit_code"] is None else f", exit code {found['exit_code']}"
    click.echo(json.dumps(found, indent=1) if as_json else f"job {found['submission_id']}: {found['status']}{code}")
