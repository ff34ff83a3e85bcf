"""Shared fixtures."""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

collect_ignore_glob = ["scripts/*.py"]  # scripts of users, which are started and never imported

MEASUREMENTS = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes an hour unless it is asked for with `-m long`."""
    if "long" not in config.getoption("-m"):
        items[:] = [item for item in items if not item.get_closest_marker("long")]


class _RayInOneProcess(LoadScopeScheduling):
    """With several test processes (-n), one of them runs every file that starts a Ray; the others take what is left."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if _starts_ray(self.config.rootpath / nodeid.partition("::")[0]) else nodeid


@cache
def _starts_ray(file: Path) -> bool:
    return file.suffix == ".py" and "pytest.mark.ray" in file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Two Rays on two cores are slower than one after the other."""
    return _RayInOneProcess(config, log)


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
