"""What a study is as a Ray job: its id, its command, what travels with it and what is installed for it."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from packaging.requirements import InvalidRequirement, Requirement

from scaleexp.bucket import SCHEMES
from scaleexp.config import Study
from scaleexp.errors import ConfigError
from scaleexp.redact import redact
from scaleexp.strict_yaml import read_mapping
from scaleexp.study_files import is_path

LEFT_OUT = (
    *(".git", ".venv*", "venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints"),
    *("scaleexp-results", "wandb", "mlruns", "*.pt", "*.ckpt", "*.safetensors"),
)
"""Patterns of what never travels with a job, beside those of .gitignore and .rayignore."""
_ONE_NODE = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/root", "/home/ray")  # refused, not used
_STOP_S = 60
"""How long a job that is asked to stop may take to commit [seconds]; Ray's own default is 3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """A study as a Ray job.

    Attributes:
        submission_id: the job's id, or the first of several of one study.
        entrypoint: shell command, run on the head node, which holds no CPU.
        runtime_env: Ray's runtime environment: working directory, packages, environment variables.
        storage: where the study lives.
    """

    submission_id: str
    entrypoint: str
    runtime_env: Mapping[str, Any]
    storage: str


def job_request(
    name_or_path: str,
    study: Study,
    *,
    storage: str,
    overrides: Sequence[str] = (),
    working_dir: str | None = None,
    runtime_env: str | None = None,
    submission_id: str | None = None,
) -> JobRequest:
    """Put a job together.

    Args:
        name_or_path: of the study, as the user gave it.
        study: the same, validated.
        storage: as `checked_storage` returns it.
        overrides: `a.b=c` each, as given.
        working_dir: directory whose content travels to the cluster; None for the current one where the study is a file
            and nothing where it is built in.
        runtime_env: YAML or JSON file of a Ray runtime environment.
        submission_id: instead of the one that is made of the study and its storage.

    Raises:
        ConfigError: a study outside the working directory, packages without a version, secrets in the environment.
    """
    directory = working_dir or ("." if is_path(name_or_path) else None)
    words = ["scaleexp", "run", _inside(name_or_path, directory), "--yes", "--storage", storage]
    words += [word for override in overrides for word in ("--set", override)]
    given = read_mapping(Path(runtime_env), "runtime environment") if runtime_env else {}
    return JobRequest(
        submission_id=submission_id or id_of(study, storage),
        entrypoint=shlex.join(words),
        runtime_env=environment(given, directory),
        storage=storage,
    )


def id_of(study: Study, storage: str) -> str:
    """Id of the job of a study in a storage: the same for the same content, whatever its file is called.

    >>> from scaleexp.config import load_study
    >>> id_of(load_study("quadratic"), "/shared/a").rpartition("-")[0]
    'quadratic'
    >>> id_of(load_study("quadratic"), "/shared/a") == id_of(load_study("quadratic"), "/shared/b")
    False
    """
    content = json.dumps([study.model_dump(mode="json"), storage], sort_keys=True, separators=(",", ":"))
    name = re.sub(r"[^a-z0-9]+", "-", study.name.lower()).strip("-")[:40]
    return f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def checked_storage(storage: str | None, *, several_nodes: bool) -> str:
    """Where the study of a job lives, if what a node writes there can be seen from every other one.

    Args:
        storage: as the user gave it.
        several_nodes: whether the cluster has, or will have, more than one node.

    Raises:
        ConfigError: it is nowhere, relative, or in a directory that every node has for itself.

    >>> checked_storage("s3://bucket/study", several_nodes=True)
    's3://bucket/study'
    """
    remedy = "give a directory that every node mounts (--storage /shared/NAME), or s3://, gs:// or az://"
    if not storage:
        raise ConfigError(f"a job has no directory that outlives it, so say where the study lives: {remedy}.")
    scheme = urlparse(storage).scheme if "://" in storage else ""
    if scheme in SCHEMES:
        return storage
    path = urlparse(storage).path if scheme == "file" else storage
    if scheme not in ("", "file") or not Path(path).is_absolute():
        why = "a job runs in a copy of the working directory that Ray throws away" if not scheme else "it is unknown"
        raise ConfigError(f"storage {redact(storage)!r} cannot be used in a job, since {why}: {remedy}.")
    parts = Path(path).parts
    if several_nodes and any(parts[: len(Path(own).parts)] == Path(own).parts for own in _ONE_NODE):
        raise ConfigError(f"storage {path} is in a directory that every node of the cluster has for itself: {remedy}.")
    return path


def environment(given: Mapping[str, Any], directory: str | None) -> dict[str, Any]:
    """A runtime environment with what the job needs beside what the user gave.

    Raises:
        ConfigError: a working directory in it, packages without a version, or secrets.

    >>> environment({"pip": ["einops==0.8.1"]}, None)["pip"]
    ['einops==0.8.1']
    """
    if "working_dir" in given:
        raise ConfigError("the runtime environment names a working_dir: give it as --working-dir instead.")
    for kind in ("pip", "uv"):
        _check_pinned(given.get(kind), kind)
    variables = dict(given.get("env_vars") or {})
    for name, value in variables.items():
        if redact(str(value), {name: str(value)}) != str(value):
            raise ConfigError(
                f"the runtime environment holds {name}, which looks like a secret, and whoever may see the job can "
                "read it: set it on the nodes, or give them a role that needs none."
            )
    made = {**given, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S), **variables}}
    if directory is not None:
        made["working_dir"] = directory
        made["excludes"] = [*given.get("excludes", ()), *LEFT_OUT]
    return made


def _check_pinned(packages: Any, kind: str) -> None:  # noqa: ANN401  # whatever the file holds
    """Raises: ConfigError: a package that tomorrow may be another."""
    if isinstance(packages, Mapping):
        packages = packages.get("packages", ())
    if isinstance(packages, str):
        packages = Path(packages).read_text(encoding="utf-8").splitlines()
    for line in packages or ():
        text = str(line).partition(" #")[0].strip()
        if text and text[0] not in "#-" and not _pinned(text):
            raise ConfigError(
                f"the runtime environment's {kind} asks for {text!r} without its version, so that no two runs need "
                "have the same: write NAME==VERSION."
            )


def _pinned(text: str) -> bool:
    """Whether a requirement names one version.

    >>> _pinned("einops==0.8.1"), _pinned("einops>=0.8"), _pinned("einops==0.*")
    (True, False, False)
    """
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return "://" in text or text.endswith(".whl")
    exact = any(s.operator in ("==", "===") and not s.version.endswith("*") for s in requirement.specifier)
    return exact or requirement.url is not None


def _inside(name_or_path: str, directory: str | None) -> str:
    """A study's name, or its path within the working directory.

    Raises:
        ConfigError: it lies elsewhere, or the directory is none.
    """
    if not is_path(name_or_path):
        return name_or_path
    assert directory is not None, "a file needs one"
    if not Path(directory).is_dir():
        raise ConfigError(f"the working directory {directory!r} is no directory: give the one that holds the study.")
    path, root = Path(name_or_path).resolve(), Path(directory).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(
            f"the study {name_or_path} is outside the working directory {root}, which alone travels to the cluster: "
            "give one that holds it by --working-dir."
        )
    return f"./{path.relative_to(root).as_posix()}"
