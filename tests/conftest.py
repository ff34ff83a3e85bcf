"""Shared fixtures."""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

MEASUREMENTS = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes an hour unless it is asked for with `-m long`."""
    if "long" not in config.getoption("-m"):
        items[:] = [item for item in items if not item.get_closest_marker("long")]


class _RayInTwoProcesses(LoadScopeScheduling):
    """With several test processes (-n), one runs every file that starts a Ray, one those of tests/faults that do.

    The others take what is left. Both mostly wait for a Ray to start, to notice or to give up.
    """

    def _split_scope(self, nodeid: str) -> str:
        name = nodeid.partition("::")[0]
        if not _starts_ray(self.config.rootpath / name):
            return nodeid
        return "ray, faults" if name.startswith("tests/faults/") else "ray"

    def _assign_work_unit(self, node: WorkerController) -> None:
        for scope in [s for s in self.workqueue if s.startswith("ray")]:  # they take longest, so they begin
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


@cache
def _starts_ray(file: Path) -> bool:
    return file.suffix == ".py" and "pytest.mark.ray" in file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """More Rays at once on two cores are slower than one after the other."""
    return _RayInTwoProcesses(config, log)


@pytest.fixture(scope="session")
def measurements() -> Path:
    """Directory of measurements made by others."""
    if not MEASUREMENTS.is_dir():
        pytest.skip("measurements made by others are not beside this checkout")
    return MEASUREMENTS


@pytest.fixture(autouse=True, scope="session")
def _own_ray(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests start their own local Ray with their own token; they join nothing."""
    os.environ["RAY_ADDRESS"] = "local"
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text(secrets.token_hex(16))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
