"""Fixtures of several tests of faults."""

from __future__ import annotations

import pytest

from tests.faults.small_study import Interrupted, prepared, run


@pytest.fixture
def interrupted(tmp_path):
    """A study of one trial with a state to go on from."""
    study = prepared()
    with pytest.raises(Interrupted):
        run(study, tmp_path / "study", commit_after=(2,), dies_at=4)
    return tmp_path / "study", study.plan.trials[0]
