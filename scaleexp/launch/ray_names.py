"""What is used of Ray beyond its documented interface, all in one list, looked for before anything starts.

Another version of Ray may lack any of it. Better to say so in one sentence than to fail in the middle of a study.
"""

from __future__ import annotations

from functools import reduce
from importlib import import_module

from scaleexp.errors import ConfigError

TESTED = "2.60"
UNDOCUMENTED = (
    "ray._private.state:jobs",
    "ray._private.worker:global_worker",
    "ray._raylet:PlacementGroupID",
    "ray.air.execution._internal.actor_manager:RayActorManager",
    "ray.air.execution._internal.actor_manager:RayActorManager._actor_task_failed",
)
"""Each as module:name."""


def check_ray() -> None:
    """Refuse a version of Ray that lacks something.

    Raises:
        ConfigError: with what it lacks and which version to install.
    """
    import ray

    lacking = [name for name in UNDOCUMENTED if not _is_there(name)]
    if lacking:
        raise ConfigError(
            f"Ray {ray.__version__} lacks {', '.join(lacking)}, which scaleexp needs: install the version that it is "
            f"tested with, pip install 'ray[default,train,tune]=={TESTED}.*'."
        )


def _is_there(name: str) -> bool:
    module, _, names = name.partition(":")
    try:
        reduce(getattr, names.split("."), import_module(module))
    except (ImportError, AttributeError):
        return False
    return True
