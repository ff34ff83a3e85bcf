"""Reaching a cluster by the address of its dashboard, which takes jobs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from scaleexp.errors import ConfigError, InfeasibleError
from scaleexp.launch.jobs import Jobs
from scaleexp.redact import redact

_OVERRIDE = "RAY_API_SERVER_ADDRESS"
_TALKS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Loggers that tell of packages and sockets amid the lines of the study."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """A cluster that takes jobs.

    Attributes:
        jobs: its job interface.
        several_nodes: whether it has more than one node, or will have: a head without CPUs runs no trial.
    """

    jobs: Jobs
    several_nodes: bool


def connect(address: str) -> Cluster:
    """Reach a cluster by the address of its dashboard.

    Raises:
        ConfigError: no such address, or the cluster wants a token that this process does not have.
        InfeasibleError: nobody answers there.
    """
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {address!r} is no address of a Ray dashboard: give http://HOST:8265.")
    from ray.job_submission import JobSubmissionClient
    from ray.util.state import list_nodes

    for talks in _TALKS:
        logging.getLogger(talks).setLevel(logging.WARNING)
    with _reached(address), _meant(address):
        client = JobSubmissionClient(address)
        nodes = list_nodes(address=address, filters=[("state", "=", "ALIVE")])
    several = len(nodes) > 1 or not any((n.resources_total or {}).get("CPU") for n in nodes)
    return Cluster(jobs=cast("Jobs", client), several_nodes=several)


@contextmanager
def _meant(address: str) -> Iterator[None]:
    """Ray prefers RAY_ADDRESS to what it is told; the user has just told it."""
    before = os.environ.get(_OVERRIDE)
    os.environ[_OVERRIDE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[_OVERRIDE]
        else:
            os.environ[_OVERRIDE] = before


@contextmanager
def _reached(address: str) -> Iterator[None]:
    """Says what failed between here and a cluster in a sentence."""
    from ray.exceptions import AuthenticationError
    from ray.util.state.exception import RayStateApiException

    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(
            f"the cluster at {address} asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file "
            "that holds it (by default ~/.ray/auth_token)."
        ) from error
    except (ConnectionError, RuntimeError, OSError, RayStateApiException) as error:
        first_line = redact(str(error).strip().partition("\n")[0])
        raise InfeasibleError(
            f"no cluster takes jobs at {address} ({first_line}): check the address, and that its port is forwarded."
        ) from error
