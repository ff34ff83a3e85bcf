"""A model of step times as a JSON file: parameters by name, so that it can be read, and written, by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaleexp.errors import ConfigError
from scaleexp.simulate.forms import FORMS, HIGHEST, LOWEST, Form
from scaleexp.simulate.group_model import GroupModel, Measured, Member

VERSION = 1


def model_document(groups: Mapping[str, GroupModel], group_by: tuple[str, ...]) -> dict[str, Any]:
    """The file's content, which `simulate fit --json` prints too."""
    return {
        "schema_version": VERSION,
        "group_by": list(group_by),
        "groups": [{"group": name, **_group(model)} for name, model in groups.items()],
    }


def write_model(path: Path, groups: Mapping[str, GroupModel], group_by: tuple[str, ...]) -> None:
    """Write it.

    Raises:
        ConfigError: it cannot be written there.
    """
    try:
        path.write_text(json.dumps(model_document(groups, group_by), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise ConfigError(f"the model cannot be written to {path} ({error.strerror}): give another --out") from None


def read_model(path: Path) -> tuple[dict[str, GroupModel], tuple[str, ...]]:
    """(Group -> model, columns that name the groups).

    Raises:
        ConfigError: no such file, or not a model of step times.
    """
    try:
        held = json.loads(path.read_text())
        if held["schema_version"] != VERSION:
            raise ValueError(f"version {held['schema_version']}, this reads {VERSION}")
        groups = {str(entry["group"]): _read_group(entry) for entry in held["groups"]}
        if not groups:
            raise ValueError("no groups")
        return groups, tuple(map(str, held["group_by"]))
    except OSError as error:
        raise ConfigError(
            f"there is no model at {path} ({error.strerror}): make one with `scaleexp simulate fit`"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} is no model of step times ({said}): make one with `scaleexp simulate fit`") from None


def _group(model: GroupModel) -> dict[str, Any]:
    m = model.measured
    return {
        "spread": model.spread,
        "drift": model.drift,
        "node_drift": model.node_drift,
        "measured": None
        if m is None
        else {
            "rows": m.rows,
            "workers": list(m.workers),
            "nodes": list(m.nodes),
            "micro_batch": list(m.micro_batch),
            "node_counts": m.node_counts,
            "grad_bytes": m.grad_bytes,
            "parallelism": m.parallelism,
        },
        "forms": [
            {
                "form": member.form.name,
                "two_nodes": member.form.two_nodes,
                "weight": member.weight,
                "held_out_error": member.error if np.isfinite(member.error) else None,
                "parameters": dict(zip(member.form.parameters, member.theta.tolist(), strict=True)),
                "covariance": member.covariance.tolist(),
            }
            for member in model.members
        ],
    }


def _read_group(entry: Mapping[str, Any]) -> GroupModel:
    members = tuple(_read_member(form) for form in entry["forms"])
    weights = sum(member.weight for member in members)
    if not members or not 0.999 < weights < 1.001:
        raise ValueError(f"the weights of the forms add up to {weights:g}, not to 1")
    m = entry["measured"]
    numbers = {name: float(entry[name]) for name in ("spread", "drift", "node_drift")}
    if not all(np.isfinite(x) and x >= 0 for x in numbers.values()):
        raise ValueError("spread, drift and node_drift are numbers of 0 or more")
    return GroupModel(members=members, measured=None if m is None else _read_measured(m), **numbers)


def _read_measured(m: Mapping[str, Any]) -> Measured:
    if m["parallelism"] not in ("ddp", "fsdp"):
        raise ValueError(f"parallelism is ddp or fsdp, not {m['parallelism']!r}")
    ends = {name: (float(m[name][0]), float(m[name][1])) for name in ("workers", "nodes", "micro_batch")}
    return Measured(
        rows=int(m["rows"]),
        node_counts=int(m["node_counts"]),
        grad_bytes=None if m["grad_bytes"] is None else float(m["grad_bytes"]),
        parallelism=m["parallelism"],
        **ends,
    )


def _read_member(entry: Mapping[str, Any]) -> Member:
    if entry["form"] not in FORMS:
        raise ValueError(f"no form is called {entry['form']!r}; there are {', '.join(FORMS)}")
    form = Form(name=entry["form"], two_nodes=bool(entry["two_nodes"]))
    theta = np.array([float(entry["parameters"][name]) for name in form.parameters])
    n = len(theta)
    covariance = np.array(entry["covariance"], dtype=float).reshape(n, n)
    low, high = np.concatenate([LOWEST, np.zeros(n - 5)]), np.concatenate([HIGHEST, np.full(n - 5, np.inf)])
    if not (
        np.isfinite(theta).all() and np.isfinite(covariance).all() and (low <= theta).all() and (theta <= high).all()
    ):
        raise ValueError(f"parameters of the form {form.name} are out of their bounds")
    error = entry["held_out_error"]
    return Member(
        form=form,
        weight=float(entry["weight"]),
        error=np.nan if error is None else float(error),
        theta=theta,
        covariance=covariance,
    )
