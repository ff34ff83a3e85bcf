"""What is used of Ray beyond its documented interface is looked for before anything starts."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from scaleexp.errors import ConfigError
from scaleexp.launch import cluster, ray_names
from tests.test_layers import MODULES


def undocumented(source: str) -> Iterator[str]:
    """Names with an underscore that a module takes from Ray, and attributes with one of what it takes from there."""
    tree, taken = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in (alias for alias in node.names if alias.name.split(".")[0] == "ray"):
                taken[alias.asname or "ray"] = f"{alias.name}:" if alias.asname else "ray:"
                if "._" in alias.name:
                    yield alias.name
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray":
            for alias in node.names:
                taken[alias.asname or alias.name] = f"{node.module}:{alias.name}."
                if "._" in f"{node.module}.{alias.name}":
                    yield f"{node.module}:{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = ast.unparse(node.value).split(".")
            if owner[0] in taken:
                yield taken[owner[0]] + ".".join([*owner[1:], node.attr])


@pytest.mark.parametrize("module", sorted(module for module in MODULES if module.startswith("scaleexp.launch")))
def test_every_undocumented_name_of_ray_that_is_used_is_on_the_list(module):
    found = set(undocumented(MODULES[module].read_text(encoding="utf-8")))
    assert found <= set(ray_names.UNDOCUMENTED), f"add to {ray_names.__name__}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ray._private.state import jobs", ["ray._private.state:jobs"]),
        ("import ray\nray._private.worker.x", ["ray:_private"]),
        ("from ray.tune import Tuner\nTuner._x = 1", ["ray.tune:Tuner._x"]),
        ("import ray._raylet", ["ray._raylet"]),
        ("from ray.tune import Tuner\nTuner.fit()\nself._x = ray2._y", []),
    ],
)
def test_a_planted_name_is_seen(source, found):
    assert list(undocumented(source)) == found


@pytest.mark.parametrize("name", ["ray._private.state:jobs_of_old", "ray.no_such_module:x", "ray.tune:Tuner._gone"])
def test_a_ray_that_lacks_one_is_refused_in_one_sentence_before_it_starts(monkeypatch, name):
    ray_names.check_ray()
    monkeypatch.setattr(ray_names, "UNDOCUMENTED", (*ray_names.UNDOCUMENTED, name))
    said = rf"^Ray \d[\w.]+ lacks {name}, which scaleexp needs: install .*'ray\[default,train,tune\]==2\.60\.\*'\.$"
    with pytest.raises(ConfigError, match=said.replace(":jobs", "\\:jobs")), cluster.ray_cluster([]):
        pytest.fail("Ray was started")
