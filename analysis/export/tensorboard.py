"""A study as TensorBoard event files, one directory per trial; the axis is optimizer steps.

The name of an event file says up to which step each table was exported, so that a file is itself the record of what
was: exporting again reads the names, and a trial that has gone on gets one more file with what is new.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from analysis.export.events import scalar_frames, version_frame
from analysis.export.exported import Exported
from analysis.export.place import Marker, claim, commit_number, staged, sweep, write_marker
from analysis.export.rows import rows_of
from analysis.export.scalars import After, series
from analysis.read import StudyLog, TrialLog

_NAME = "events.out.tfevents.{number:010d}.scaleexp-steps{steps}-evals{evals}"
_OURS = re.compile(r"events\.out\.tfevents\.(\d{10})\.scaleexp-steps(-?\d+)-evals(-?\d+)")


def export_events(log: StudyLog, out: Path) -> Exported:
    """Bring the event files in a directory up to date.

    Raises:
        ConfigError: the directory holds something else.
        CorruptError: a segment changed since the study was loaded.
    """
    held = claim(out, "tensorboard", log)
    out.mkdir(parents=True, exist_ok=True)
    keys = tuple(trial.key for trial in log.trials)
    if tuple(held.trials) != keys:  # before any event file, so that a killed export is known as this study's
        write_marker(out, Marker(format="tensorboard", study=held.study, trials=keys))
    files, added = [], Counter({"steps": 0, "evals": 0})
    for trial in log.trials:
        name, new = _export_trial(log, trial, out)
        added.update(new)
        files += [name] if name else []
    return Exported(
        format="tensorboard",
        out=out,
        study=held.study,
        rows={"steps": rows_of(log, "steps"), "evals": rows_of(log, "evals"), "trials": len(log.trials)},
        added={**added, "trials": len(set(keys) - set(held.trials))},
        files=tuple(files),
        left_out=log.problems,
    )


def directory_name(trial: TrialLog) -> str:
    """What a trial is called in TensorBoard's list of runs, where a filter finds a batch size or a seed."""
    facts = trial.facts
    return f"b{facts['batch_size']}-lr{facts['lr']:.4g}-seed{facts['seed']}-{trial.key}"


def _export_trial(log: StudyLog, trial: TrialLog, out: Path) -> tuple[str, dict[str, int]]:
    """Name of the event file with what is new, empty if nothing is, and its rows."""
    directory = out / directory_name(trial)
    commit, after = _exported(directory)
    now = commit_number(trial.commit)
    if now <= commit:
        return "", {}
    sweep(directory)
    last, rows = {"steps": after.steps, "evals": after.evals}, {"steps": 0, "evals": 0}

    def write(file: Path) -> None:
        with file.open("wb") as events:
            first = True
            for part in series(log, trial, after):
                if first:
                    events.write(version_frame(float(part.wall_s[0])))
                    first = False
                for frames in scalar_frames(part.step, part.wall_s, part.values):
                    events.write(frames)
                last[part.table] = max(last[part.table], int(part.step[-1]))
                rows[part.table] += 0 if "train/grad_norm" in part.values else len(part.step)

    temporary = staged(directory, "events", write)
    if not any(rows.values()):
        temporary.unlink()
        return "", rows
    name = _NAME.format(number=now, **last)
    temporary.replace(directory / name)
    return f"{directory.name}/{name}", rows


def _exported(directory: Path) -> tuple[int, After]:
    """Commit that a trial was last exported from, 0 for none, and the last steps exported."""
    names = sorted(file.name for file in directory.iterdir()) if directory.is_dir() else []
    found = [match for match in map(_OURS.fullmatch, names) if match]
    if not found:
        return 0, After()
    number, steps, evals = map(int, found[-1].groups())
    return number, After(steps=steps, evals=evals)
