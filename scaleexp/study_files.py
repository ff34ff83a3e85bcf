"""Where study files lie: the built-in ones of the package, and paths."""

from __future__ import annotations

import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from scaleexp.errors import ConfigError
from scaleexp.plugins import nearest
from scaleexp.strict_yaml import parse, read_mapping


def is_path(name_or_path: str) -> bool:
    """Whether a text names a file rather than something built in.

    >>> is_path("quickstart"), is_path("mine.yaml")
    (False, True)
    """
    separators = [separator for separator in (os.sep, os.altsep) if separator]
    return (
        any(separator in name_or_path for separator in separators)
        or name_or_path.endswith((".yaml", ".yml"))
        or Path(name_or_path).is_file()
    )


def named_files(folder: Traversable) -> dict[str, Traversable]:
    """The YAML files of a folder of the package, by name without suffix."""
    if not folder.is_dir():
        return {}
    files = (file for file in folder.iterdir() if file.name.endswith(".yaml"))
    return {file.name.removesuffix(".yaml"): file for file in sorted(files, key=lambda file: file.name)}


def builtin_studies() -> dict[str, Traversable]:
    """The studies that ship with the package, by name.

    >>> "quickstart" in builtin_studies()
    True
    """
    return named_files(resources.files("scaleexp") / "studies")


def read_named_or_path(name_or_path: str, builtin: dict[str, Traversable], kind: str) -> tuple[dict[str, Any], str]:
    """Content of a built-in file or of a path, and how to name it in messages.

    Raises:
        ConfigError: if there is no such file, or it does not hold a mapping.
    """
    if name_or_path in builtin:
        source = f"the built-in {kind} {name_or_path!r}"
        content = parse(builtin[name_or_path].read_text(encoding="utf-8"), source)
        assert isinstance(content, dict)
        return content, source
    if not is_path(name_or_path):
        raise ConfigError(f"There is no built-in {kind} {name_or_path!r}; {nearest(name_or_path, builtin)}")
    path = Path(name_or_path)
    if not path.exists():
        raise ConfigError(f"There is no {kind} file {name_or_path!r}; built-in: {', '.join(builtin)}.")
    return read_mapping(path, kind), name_or_path


def read_study_file(name_or_path: str) -> tuple[dict[str, Any], str]:
    """Content of a study file, unvalidated, and how to name it in messages.

    Raises:
        ConfigError: if there is no such study, or it does not hold a mapping.
    """
    return read_named_or_path(name_or_path, builtin_studies(), "study")
