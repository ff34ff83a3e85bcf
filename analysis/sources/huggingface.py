"""`trainer_state.json` of the Hugging Face Trainer.

Its `log_history` has one record per log or evaluation, with `step` (optimizer steps taken, gradient accumulation
counted), `epoch`, and either `loss`, `learning_rate`, `grad_norm` or `eval_loss`, `eval_runtime`, ... Its
`train_batch_size` is that of one process; neither the number of processes nor gradient accumulation is in the file. The
model card (README.md) that the Trainer writes beside it lists both, and `total_train_batch_size` wherever that differs
from `train_batch_size`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.sources.logged import Logged, Named, Reading, Series, Source, range_of
from analysis.sources.tables import elements
from scaleexp.errors import ConfigError

FILE = "trainer_state.json"
CARD = "README.md"
MARK = '"log_history"'
BOOKKEEPING = frozenset({"step", "epoch", "learning_rate", "grad_norm", "total_flos", "num_input_tokens_seen"})
TIMING = re.compile(r"(_runtime|_per_second|_flops|_time|_mem_.*)$|^train_")


def read(sources: Sequence[Source], named: Named) -> Reading:
    """One run per file; of several checkpoints of one run the newest, which holds the history of the others.

    Raises:
        ConfigError: a file with no whole record of a log history, or a metric that is no number.
    """
    named.refuse(FILE, "run", "batch")
    newest: dict[Path, tuple[int, Source, dict[str, Any], bool]] = {}
    for source in sources:
        state, torn = _state(source)
        run = source.path.parent
        run = run.parent if re.fullmatch(r"checkpoint-\d+", run.name) else run
        steps = max((int(record["step"]) for record in state["log_history"]), default=0)
        if run not in newest or newest[run][0] < steps:
            newest[run] = (steps, source, state, torn)
    problems: list[str] = []
    runs: list[Logged] = []
    for run, (_, source, state, torn) in newest.items():
        if torn:
            problems.append(
                f"{source.path} is cut: what follows its first {len(state['log_history'])} records is lost."
            )
        facts, why = _facts(source, run, state)
        rates = [r["learning_rate"] for r in state["log_history"] if isinstance(r.get("learning_rate"), int | float)]
        runs.append(
            Logged(
                run=run,
                files=(source.path,),
                series=_series(state, named),
                facts=facts,
                logged_lr=range_of(rates),
                why_no_batch=why,
                in_columns=False,
            )
        )
    rows = {source.path: len(state["log_history"]) for _, source, state, _ in newest.values()}
    return Reading(runs=runs, rows=rows, problems=problems)


def _state(source: Source) -> tuple[dict[str, Any], bool]:
    """The file's content, and whether it is cut; a cut one has the whole records of its history."""
    text = source.content.decode("utf-8", errors="replace")
    try:
        state, torn = json.loads(text), False
    except ValueError:
        start = text.find("[", text.find(MARK)) if MARK in text else -1
        whole = elements(text, start + 1)[0] if start >= 0 else []
        state, torn = {"log_history": whole}, True
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not history:
        raise ConfigError(f"{source.path} holds no record of a log history: give the {FILE} of a run that logged.")
    state["log_history"] = [r for r in history if isinstance(r, dict) and isinstance(r.get("step"), int)]
    return state, torn


def _series(state: Mapping[str, Any], named: Named) -> dict[str, Series]:
    """Every metric in the history; samples only where a key of the records was named for them."""
    key = named.samples_column or named.steps_column or "step"
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for record in state["log_history"]:
        if not isinstance(record.get(key), int | float):
            continue
        for name, value in record.items():
            wanted = name == named.metric or not (name in BOOKKEEPING or TIMING.search(name))
            if wanted and name != key and isinstance(value, int | float) and not isinstance(value, bool):
                counts, values = columns.setdefault(name, ([], []))
                counts.append(float(record[key]))
                values.append(float(value))
    return {
        name: Series(counted=named.counted, counts=np.array(counts), values=np.array(values))
        for name, (counts, values) in columns.items()
    }


def _facts(source: Source, run: Path, state: Mapping[str, Any]) -> tuple[dict[str, object], str]:
    """What the model card beside the file says, and what stands in place of a batch size."""
    card = _card([source.path.parent / CARD, run / CARD])
    of_one = state.get("train_batch_size")
    facts: dict[str, object] = {}
    if "learning_rate" in card:
        facts["lr"] = card["learning_rate"]
    if "seed" in card:
        facts["seed"] = card["seed"]
    if of_one is None:
        return facts, ""
    why = f"its train_batch_size of {of_one} is that of one process, before gradient accumulation"
    if card.get("train_batch_size") != str(of_one):
        return facts, why
    several = {"num_devices", "gradient_accumulation_steps", "distributed_type"} & set(card)
    if "total_train_batch_size" in card or not several:
        facts["batch_size"] = card.get("total_train_batch_size", of_one)
    return facts, why


def _card(places: Sequence[Path]) -> dict[str, str]:
    """The hyperparameters that the Trainer lists in a model card."""
    for place in places:
        if place.is_file():
            text = place.read_text(encoding="utf-8", errors="replace")
            return dict(re.findall(r"^- (\w+): (\S+)\s*$", text, flags=re.MULTILINE))
    return {}
