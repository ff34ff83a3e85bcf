"""Shared fixtures."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

MEASUREMENTS = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several test processes (-n), one of them runs every test that starts a Ray, one after the other."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


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
