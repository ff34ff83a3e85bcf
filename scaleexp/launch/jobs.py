"""Studies as jobs of a cluster elsewhere, by Ray's job interface: submitted, followed, asked about and stopped.

Ray's own command line ends with 1 whatever code a job failed with; the code here is the study's.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from scaleexp.errors import ClusterLostError, ConfigError, InterruptedStudyError
from scaleexp.redact import redact
from scaleexp.retry import persist

if TYPE_CHECKING:
    from scaleexp.job_request import JobRequest

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_LOOK_S = 1.0
_PATIENCE_S = 60.0
"""How long a cluster may be silent before it counts as gone."""


class Details(Protocol):
    """What Ray says about a job."""

    submission_id: str | None
    status: Any
    entrypoint: str
    message: str | None
    driver_exit_code: int | None


class Jobs(Protocol):
    """The part of Ray's JobSubmissionClient that is used."""

    def submit_job(
        self,
        *,
        entrypoint: str,
        submission_id: str,
        runtime_env: dict[str, Any],
        entrypoint_num_cpus: float,
        metadata: dict[str, str],
    ) -> str:
        """Id of the job that was begun."""

    def list_jobs(self) -> Sequence[Details]:
        """Every job that the cluster remembers."""

    def get_job_info(self, job_id: str) -> Details:
        """One of them."""

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What it prints, as it does, until it has ended."""

    def stop_job(self, job_id: str) -> bool:
        """Ask it to end; whether it was running."""


class JobDocument(TypedDict):
    """`scaleexp submit --json`."""

    schema_version: int
    submission_id: str
    status: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    exit_code: int | None  # of the study; null before its end
    entrypoint: str
    message: str


def begin(jobs: Jobs, request: JobRequest) -> tuple[str, bool]:
    """Submit a study, unless a job of it is on its way or running.

    Returns:
        Id of the job, and whether it is new. One that has ended is followed by another with the next number.

    Raises:
        ConfigError: Ray refused it.
    """
    last, number = newest(jobs, request.submission_id)
    if last is not None and status_of(last) not in ENDED:
        assert last.submission_id is not None
        return last.submission_id, False
    name = request.submission_id if last is None else f"{request.submission_id}-{number + 1}"
    try:
        made = persist(
            lambda _: jobs.submit_job(
                entrypoint=request.entrypoint,
                submission_id=name,
                runtime_env=dict(request.runtime_env),
                entrypoint_num_cpus=0,
                metadata={"scaleexp_storage": request.storage},
            ),
            _not_ready,
            "the cluster takes no job yet",
            _PATIENCE_S,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"Ray refused the job: {redact(str(error).strip().partition(chr(10))[0])}") from error
    return made, True


def _not_ready(error: Exception) -> str | None:
    """A cluster that has just begun answers for some seconds before it takes jobs."""
    return "it has no agent for jobs" if "No available agent" in str(error) else None


def newest(jobs: Jobs, submission_id: str) -> tuple[Details | None, int]:
    """The last of the jobs of a study, and its number from 1; None and 0 where there is none."""
    pattern = re.compile(re.escape(submission_id) + r"(?:-(\d+))?")
    found = ((job, pattern.fullmatch(job.submission_id or "")) for job in jobs.list_jobs())
    numbered = [(job, int(match[1] or 1)) for job, match in found if match]
    return max(numbered, key=lambda one: one[1], default=(None, 0))


def asked_about(jobs: Jobs, submission_id: str) -> Details:
    """The last job of a study.

    Raises:
        ConfigError: it was never submitted to this cluster.
    """
    job, _ = newest(jobs, submission_id)
    if job is None:
        raise ConfigError(
            f"this cluster has no job {submission_id}: the id is made of the study, what --set changes of it and its "
            "storage, so give those as they were submitted, or --submission-id."
        )
    return job


def follow(
    jobs: Jobs, submission_id: str, echo: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Details:
    """Pass on what a job prints until it has ended.

    Raises:
        ClusterLostError: the cluster does not answer any more.
        InterruptedStudyError: the user has seen enough; the job goes on.
    """
    from aiohttp import ClientError

    try:
        try:
            asyncio.run(_printed(jobs, submission_id, echo))
        except (ClientError, RuntimeError, OSError):
            echo("note: the log of the job has broken off; waiting for its end\n")
        return _ended(jobs, submission_id, sleep)
    except KeyboardInterrupt:
        raise InterruptedStudyError(
            f"you follow job {submission_id} no more, and it goes on: the same command follows it again, and with "
            "--stop it stops"
        ) from None


async def _printed(jobs: Jobs, submission_id: str, echo: Callable[[str], None]) -> None:
    async for lines in jobs.tail_job_logs(submission_id):
        echo(lines)


def _ended(jobs: Jobs, submission_id: str, sleep: Callable[[float], None]) -> Details:
    silent_s = 0.0
    while True:
        try:
            job = jobs.get_job_info(submission_id)
            if status_of(job) in ENDED:
                return job
            silent_s = 0.0
        except (RuntimeError, OSError) as error:
            if silent_s >= _PATIENCE_S:
                raise ClusterLostError(
                    f"the cluster does not answer any more, so nobody knows how job {submission_id} ended; what it "
                    "committed is kept, and the same command goes on once a cluster is there"
                ) from error
            silent_s += _LOOK_S
        sleep(_LOOK_S)


def status_of(job: Details) -> str:
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    return str(getattr(job.status, "value", job.status))


def exit_code(job: Details) -> int | None:
    """The study's own; 130 of a job that was stopped, 1 of one whose study never began, None before the end."""
    known: Mapping[str, int] = {"SUCCEEDED": 0, "STOPPED": InterruptedStudyError.exit_code}
    status = status_of(job)
    if status == "FAILED":
        code = job.driver_exit_code or 1
        return code if code > 0 else 128 - code  # killed by a signal
    return known.get(status)


def document(job: Details) -> JobDocument:
    """What is known of a job, as JSON."""
    return JobDocument(
        schema_version=1,
        submission_id=job.submission_id or "",
        status=status_of(job),
        exit_code=exit_code(job),
        entrypoint=redact(job.entrypoint),
        message=redact((job.message or "").partition("\n")[0]),
    )
