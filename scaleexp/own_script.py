"""A study of a user's own script: what its launcher fills in, and which fields of a study are the script's business.

entrypoint: my_module:train                          a function of the trial, run by Ray Train on the trial's workers
command: [torchrun, --nproc-per-node, "{workers}", train.py, --lr, "{lr}"]       any launcher, as arguments, no shell
"""

from __future__ import annotations

import hashlib
import os
import shutil
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from scaleexp.errors import ConfigError
from scaleexp.plugins import nearest, resolve
from scaleexp.study_parts import Noise, Optimizer, TargetSpec, WorkloadSpec

OF_THE_TRIAL = (
    "lr",
    "batch_size",
    "worker_batch",
    "micro_batch",
    "accumulation_steps",
    "workers",
    "seed",
    "trial_id",
    "limit_samples",
    "limit_steps",
    "evaluate_every_samples",
    "warmup_samples",
    "dtype",
    "checkpoint_dir",
)
"""Placeholders that every command may hold, beside the settings of the optimizer and the study's hyperparameters."""
_ONLY_OURS: Mapping[str, object] = {
    "batch_norm": None,
    "processes": None,
    "compile": "auto",
    "deterministic": False,
    "engine": "auto",
    "realisations": (),
}
"""Fields that say how our own loop trains, with the values that say nothing."""


class Study(Protocol):
    """What is asked of a study here; see `scaleexp.config.Study`."""

    workload: WorkloadSpec
    entrypoint: str | None
    command: tuple[str, ...] | None
    unit: Literal["example", "token"] | None
    n_train: int | None
    hyperparameters: dict[str, Any] | None
    optimizer: Optimizer
    targets: tuple[TargetSpec, ...]
    noise: Noise

    @property
    def script(self) -> Literal["entrypoint", "command"] | None:
        """How the script is started; None where there is none."""


def as_workload(raw: object) -> object:
    """A study as it was read, with its script in the place of the workload; what is wrong with it is told later."""
    if isinstance(raw, dict) and "workload" not in raw:
        named = next((name for name in ("entrypoint", "command") if raw.get(name) is not None), None)
        return {**raw, "workload": {"name": named}} if named else raw
    return raw


def placeholders(argument: str) -> list[str]:
    """Names in braces in an argument of a command; braces that are meant as such are doubled.

    Raises:
        ValueError: braces that name nothing, or a format, in which a number would lose digits.

    >>> placeholders("--lr={lr}"), placeholders("{{lr}}")
    (['lr'], [])
    """
    try:
        parts = list(string.Formatter().parse(argument))
    except ValueError as error:
        raise ValueError(f"{argument!r}: {error}; a brace that is meant as such is written twice") from None
    for _, name, form, conversion in parts:
        if name is not None and (form or conversion):
            raise ValueError(f"{argument!r}: a placeholder takes no format, so that a trial is told every digit")
    return [name for _, name, _, _ in parts if name is not None]


def known_placeholders(study: Study) -> list[str]:
    """Names that a command of this study may hold."""
    return [*OF_THE_TRIAL, *_settings(study), *(study.hyperparameters or {})]


def filled(command: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """The command of one trial; a number keeps every digit, and what is true or false is written as in YAML.

    >>> filled(["train.py", "--lr={lr}", "--amp={amp}", "{{x}}"], {"lr": 0.1 + 0.2, "amp": True})
    ['train.py', '--lr=0.30000000000000004', '--amp=true', '{x}']
    """
    told = {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in values.items()}
    return [string.Formatter().vformat(argument, (), told) for argument in command]


def identity(study: Study) -> dict[str, Any]:
    """What a trial's id hashes of the workload: of a script what is declared, for its code is not known to be all."""
    own: dict[str, Any] = study.workload.model_dump(mode="json")
    if study.script == "command":
        own["command"] = list(study.command or ())
    elif study.script == "entrypoint":
        own["entrypoint"] = study.entrypoint
    else:
        return own
    return {**own, "hyperparameters": dict(study.hyperparameters or {}), "unit": study.unit, "n_train": study.n_train}


def code_file(study: Study) -> Path | None:
    """File of the script, where it is found: the first Python file of a command, or that of the entrypoint's module."""
    if study.command is not None:
        named = next((a for a in study.command if a.endswith(".py") and not placeholders(a)), None)
        return Path(named) if named and Path(named).is_file() else None
    from importlib.util import find_spec

    spec = find_spec((study.entrypoint or "").partition(":")[0])
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def code_of(study: Study) -> dict[str, str]:
    """That file and its sha256, for the record: it is no part of a trial's id. Empty where it is not found."""
    file = code_file(study)
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file else {}


def search_path() -> str:
    """PATH of a command: the programs beside the Python that runs, such as its torchrun, come first."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def check_there(study: Study) -> None:
    """Refuse a script that cannot be started.

    Raises:
        ConfigError: there is no such program, file, module or function.
    """
    if study.entrypoint is not None:
        if not callable(resolve(study.entrypoint, {}, "entrypoint")):
            raise ConfigError(f"The entrypoint {study.entrypoint!r} is no function: name one that takes the trial.")
        return
    assert study.command is not None
    program = study.command[0]
    if not placeholders(program) and shutil.which(program, path=search_path()) is None:
        remedy = f"write python before it, as in [python, {program}, ...]" if program.endswith(".py") else "install it"
        raise ConfigError(f"There is no program {program!r} to start (command): {remedy}, or give its path.")
    named = next((a for a in study.command if a.endswith(".py") and not placeholders(a)), None)
    if named and not Path(named).is_file():
        raise ConfigError(f"There is no file {named!r} in {Path.cwd()} (command): give the command where it is.")


def misfits(study: Study) -> Iterator[str]:
    """One sentence for each way in which a script and the other parts of its study do not fit together."""
    if study.script is None:
        yield from _without_script(study)
        return
    if study.entrypoint is not None and study.command is not None:
        yield "say either entrypoint or command"
    if study.workload.name != study.script or study.workload.options:
        yield f"say either a workload or {study.script}: a script brings its own data, model and loss"
    if study.unit is None:
        yield "unit is missing: what a sample of the script is, example or token"
    for name, nothing in _ONLY_OURS.items():
        if getattr(study, name) != nothing:
            yield f"{name} says how a workload is trained, and {study.script} trains by itself: leave it out"
    if (study.noise.shards, study.noise.per_layer) != (Noise().shards, False):
        yield f"noise.shards and noise.per_layer are chosen in the script, where {study.script} trains: leave them out"
    for target in study.targets:
        if target.direction is None:
            yield f"target {target.metric}: say direction: min or max, which no workload says of a script"
    yield from _wrong_names(study)
    if study.entrypoint is not None and not all(study.entrypoint.partition(":")[::2]):
        yield f"entrypoint is {study.entrypoint!r}; it is written as module:function"
    yield from _wrong_command(study)


def _without_script(study: Study) -> Iterator[str]:
    if study.workload.name in ("entrypoint", "command"):
        yield f"{study.workload.name} is missing: the workload of this name is a script, so say which"
    for name, nothing in (("unit", None), ("n_train", None), ("hyperparameters", None), ("cpus_per_worker", 1)):
        if getattr(study, name) != nothing:
            yield f"{name} is for studies of a script (entrypoint or command); a workload says it itself: leave it out"
    for target in study.targets:
        if target.direction is not None:
            yield f"target {target.metric}: the workload says which direction is better: leave it out"


def _settings(study: Study) -> list[str]:
    """Names of the optimizer's settings."""
    return [name for name in type(study.optimizer).model_fields if name != "name"]


def _wrong_names(study: Study) -> Iterator[str]:
    for name in study.hyperparameters or {}:
        if not name.isidentifier():
            yield f"hyperparameters: {name!r} is no name of letters, digits and _"
        elif name == "name" or name in (*OF_THE_TRIAL, *_settings(study)):
            yield f"hyperparameters: {name} is said elsewhere in the study, so leave it out or give it another name"


def _wrong_command(study: Study) -> Iterator[str]:
    known = known_placeholders(study)
    for argument in study.command or ():
        try:
            names = placeholders(argument)
        except ValueError as error:
            yield f"command: {error}"
            return
        for name in names:
            if name not in known:
                close = nearest(name, known)
                known_ones = f" Known: {', '.join(known)}." if close.startswith("did") else ""
                yield f"command: there is no placeholder {{{name}}}; {close}{known_ones}"
