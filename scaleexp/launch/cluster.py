"""Starting or joining Ray, and refusing what the cluster can never hold before any worker starts."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaleexp.errors import ClusterLostError, InfeasibleError
from scaleexp.launch.ray_names import check_ray
from scaleexp.redact import redact
from scaleexp.stopping import sigterm_kept

if TYPE_CHECKING:
    from scaleexp.trial import Trial

_SETTINGS = {
    "RAY_DEDUP_LOGS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the log is ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # so is Ctrl-C
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # and so are the records: Tune's snapshot is never read
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # a print in a worker is a print, not a record of Train's logger
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


_OURS = re.compile(r"-m scaleexp\b|(?:^|[\s/])scaleexp(?:\.py)? (?:run|quickstart)\b")
"""Command lines of drivers of studies; not of whatever lives in a directory of that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What a cluster holds, used or not.

    Attributes:
        cpus: CPU slots.
        gpus: GPU slots.
        node_cpus: CPU slots of the smallest node that has any.
        largest_cpus: CPU slots of the largest node.
        largest_gpus: GPU slots of the node that has most.
    """

    cpus: int
    gpus: int
    node_cpus: int = 1
    largest_cpus: int = 1
    largest_gpus: int = 0


def set_environment() -> None:
    """Set what Ray reads from the environment; a process that another host starts does not inherit it from the driver.

    What the user has set stays.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


def check_feasible(trials: Sequence[Trial], resources: Resources, cpus_per_worker: int = 1) -> None:
    """Refuse real workers that can never all be placed: one CPU each, or one GPU each where there are GPUs.

    Args:
        trials: to run.
        resources: of the cluster.
        cpus_per_worker: of a user's own script.

    Raises:
        InfeasibleError: with what is needed, what there is and what to do.
    """
    slots, kind = (resources.gpus, "GPUs") if resources.gpus else (resources.cpus, "CPUs")
    _check_scripts([t for t in trials if t.scripted], resources, cpus_per_worker)
    real = [t for t in trials if t.engine == "ddp"]
    largest = max(real, key=lambda t: t.processes, default=None)
    if largest and largest.processes > slots:
        remedy = "leave it out with --set realisations=[]" if largest.realisation else "set engine to packed"
        what = f"the second realisation {largest.realisation} asks for" if largest.realisation else "the study asks for"
        raise InfeasibleError(
            f"{what} {largest.processes} real workers, which need {largest.processes} {kind}, and Ray has {slots}: "
            f"{remedy}, use fewer workers, or join a larger cluster with RAY_ADDRESS."
        )
    if any(not t.real for t in trials) and resources.cpus < 1:
        raise InfeasibleError("virtual workers need a CPU, and Ray has none: join a cluster with CPUs by RAY_ADDRESS.")


def _check_scripts(trials: Sequence[Trial], resources: Resources, cpus_per_worker: int) -> None:
    """A command runs on one node, a group of Ray Train on any."""
    largest = max(trials, key=lambda t: t.workers, default=None)
    if largest is None:
        return
    one_node = largest.engine == "command"
    needs = {"CPUs": largest.workers * cpus_per_worker, **({"GPUs": largest.workers} if resources.gpus else {})}
    has = {
        "CPUs": resources.largest_cpus if one_node else resources.cpus,
        "GPUs": resources.largest_gpus if one_node else resources.gpus,
    }
    for kind, needed in needs.items():
        if needed > has[kind]:
            where = "the largest node of Ray" if one_node else "Ray"
            raise InfeasibleError(
                f"the study's {largest.engine} asks for {largest.workers} workers, which need {needed} {kind}, and "
                f"{where} has {has[kind]}: use fewer workers, or join a larger cluster with RAY_ADDRESS."
            )


@contextmanager
def ray_cluster(trials: Sequence[Trial], cpus_per_worker: int = 1) -> Iterator[Resources]:
    """Join the cluster of RAY_ADDRESS, or one that `ray start` left on this host, or start a local one; leave it after.

    Raises:
        ConfigError: this version of Ray lacks something that is needed.
        InfeasibleError: no cluster can be reached, or the trials can never be placed on it.
        ClusterLostError: Ray failed in the body.
    """
    set_environment()
    check_ray()
    import ray

    try:
        with sigterm_kept():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise InfeasibleError(
            f"Ray could not be reached or started ({first_line}): check RAY_ADDRESS, "
            "or set RAY_ADDRESS=local to start a local one."
        ) from error
    try:
        _remove_orphans()
        total = ray.cluster_resources()
        alive = [n["Resources"] for n in ray.nodes() if n["Alive"]]
        nodes = [int(n.get("CPU", 0)) for n in alive]
        resources = Resources(
            cpus=int(total.get("CPU", 0)),
            gpus=int(total.get("GPU", 0)),
            node_cpus=min((n for n in nodes if n), default=1),
            largest_cpus=max(nodes, default=0),
            largest_gpus=max((int(n.get("GPU", 0)) for n in alive), default=0),
        )
        check_feasible(trials, resources, cpus_per_worker)
        yield resources
    except Exception as error:
        if not of_ray(error):
            raise
        lines = str(error).strip().splitlines() or [""]
        raise ClusterLostError(f"the Ray cluster failed ({type(error).__name__}: {redact(lines[0])})") from error
    finally:
        ray.shutdown()


def of_ray(error: BaseException) -> bool:
    """Whether it is Ray that raises, and no trial: a head or a node that is gone, or Tune itself.

    >>> of_ray(ConnectionError("the GCS is gone")), of_ray(KeyError("pixels"))
    (True, False)
    """
    package = type(error).__module__.partition(".")[0]
    return package in ("ray", "grpc") or type(error) in (ConnectionError, ConnectionRefusedError, ConnectionResetError)


def orphans(groups: Mapping[str, Mapping[str, Any]], jobs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Ids of the placement groups that drivers of ours have left behind.

    Where a driver is killed, the controller of its worker group may ask for a new group in its own last milliseconds;
    Ray 2.60 then grants it, to nobody, and never takes it back, and what is to run next waits for those CPUs for ever.

    Args:
        groups: state of every group by its id, whose last 4 bytes are the id of the job that it belongs to.
        jobs: of the cluster, as Ray's job table says them.

    >>> jobs = [{"JobID": "02000000", "IsDead": True, "Entrypoint": "/env/bin/python -m scaleexp run quickstart"}]
    >>> orphans({"9e3702000000": {"state": "CREATED"}, "9e3703000000": {"state": "CREATED"}}, jobs)
    ['9e3702000000']
    """
    dead = {job["JobID"] for job in jobs if job["IsDead"] and _OURS.search(job["Entrypoint"])}
    return [group for group, now in groups.items() if group[-8:] in dead and now["state"] != "REMOVED"]


def _remove_orphans() -> None:
    from ray._private.state import jobs
    from ray._raylet import PlacementGroupID
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    for group in orphans(placement_group_table(), jobs()):
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
