"""YAML as people mean it, and `--set a.b=c` overrides on top of it.

PyYAML's safe loader follows YAML 1.1, where `1e-3` is a string, `010` is eight, `1:30` is ninety and `no` is a
boolean; a repeated key silently wins. Here scalars follow the core schema of YAML 1.2, a repeated key is an error,
and so is any tag: a study file holds data, never objects.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from scaleexp.errors import ConfigError

MAX_FILE_BYTES = 1 << 20
"""A study file is written by a person; anything larger is another file by mistake."""


class _StrictLoader(yaml.SafeLoader):
    """Safe loader with the scalars of YAML 1.2 and unique keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Refuse a key that appears twice, where PyYAML would keep the last."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} appears twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep=deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """Read 010 as ten; the base is said by 0x or 0o only."""
        base = {"0x": 16, "0o": 8}.get(node.value[:2], 10)
        return int(node.value, base)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_integer)

for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str, source: str) -> Any:  # noqa: ANN401 - YAML holds anything; models validate it
    """Value of a YAML text; `source` names it in messages.

    Raises:
        ConfigError: on a syntax error, a tag, or a repeated key, with its line.

    >>> parse("lr: 1e-3", "example")
    {'lr': 0.001}
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1} of {source}" if mark else source
        problem = " ".join(str(error.problem or error.context).split())
        if "could not determine a constructor" in problem:
            problem = "a YAML tag (!...) would build an object; write plain values"
        raise ConfigError(f"Cannot read {where}: {problem}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"Cannot read {source}: {' '.join(str(error).split())}.") from None
    except RecursionError:
        raise ConfigError(f"Cannot read {source}: it is nested too deeply.") from None


def read_mapping(path: Path, kind: str) -> dict[str, Any]:
    """Mapping held by a YAML file; `kind` (study, hardware profile) names it in messages.

    Raises:
        ConfigError: if the file cannot be read, or holds something else than a mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read the {kind} {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"Cannot read the {kind} {path}: it is not UTF-8 text.") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"Cannot read the {kind} {path}: it is larger than {MAX_FILE_BYTES} bytes.")
    content = parse(text, str(path))
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"The {kind} {path} must be a mapping of `key: value` lines; it holds {found}.")
    return content


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Copy of `raw` with each `a.b=c` set; c is YAML, a number in the path is a list index.

    Raises:
        ConfigError: if an override has no `=`, or its path leads through a value that is no mapping or list.

    >>> apply_overrides({"limits": {"samples": 10}}, ["limits.samples=1e3", "seeds=[7, 8]"])
    {'limits': {'samples': 1000.0}, 'seeds': [7, 8]}
    """
    tree: dict[str, Any] = raw
    for override in overrides:
        path, equals, value = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"The override {override!r} is not of the form a.b=value.")
        tree = _with_value(tree, keys, parse(value, f"the override {override!r}"), override)
    return tree


def _with_value(node: Any, keys: Sequence[str], value: Any, override: str) -> Any:  # noqa: ANN401
    """Copy of `node` in which the value at path `keys` is `value`."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(node, list):
        if not key.isdecimal() or int(key) >= len(node):
            raise ConfigError(f"The override {override!r}: {key!r} is not an index of a list of {len(node)}.")
        index = int(key)
        return [*node[:index], _with_value(node[index], rest, value, override), *node[index + 1 :]]
    if node is None:
        node = {}
    if not isinstance(node, dict):
        raise ConfigError(f"The override {override!r}: {key!r} lies below {node!r}, which has no keys.")
    return {**node, key: _with_value(node.get(key), rest, value, override)}
