"""The evaluations of a study as other tools would have logged them, for tests of the importers."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.record_writer import RecordWriter

from analysis.read import StudyLog, read_evals
from scaleexp.schema import trial_key

PATTERN = r"bs(?P<batch_size>\d+)-lr(?P<lr>[\d.e-]+)-seed(?P<seed>\d+)"


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One run: facts, and (step, value) of each evaluation."""

    key: str
    batch_size: int
    lr: float
    seed: int
    evals: tuple[tuple[int, float], ...]

    @property
    def name(self) -> str:
        return f"bs{self.batch_size}-lr{self.lr!r}-seed{self.seed}"


def evaluated(log: StudyLog, metric: str) -> list[Evaluated]:
    rows = read_evals(log, metric).to_pylist()
    runs = []
    for trial in log.trials:
        if not trial.facts["realisation"]:
            mine = [r for r in rows if trial_key(r["trial_id"], r["realisation"]) == trial.key]
            runs.append(
                Evaluated(
                    key=trial.key,
                    batch_size=trial.facts["batch_size"],
                    lr=trial.facts["lr"],
                    seed=trial.facts["seed"],
                    evals=tuple((r["step"], r["value"]) for r in mine),
                )
            )
    return runs


def long_rows(runs: Sequence[Evaluated]) -> list[dict[str, object]]:
    return [
        {
            "run": run.key,
            "step": step,
            "samples": step * run.batch_size,
            "batch_size": run.batch_size,
            "lr": run.lr,
            "seed": run.seed,
            "value": value,
        }
        for run in runs
        for step, value in run.evals
    ]


def write_csv(path: Path, rows: Sequence[dict[str, object]], names: Sequence[str] | None = None) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names or list(rows[0]), extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


def trainer_state(run: Evaluated, of_one_process: int) -> dict[str, object]:
    """The keys that transformers writes, sorted as it sorts them."""
    history: list[dict[str, float]] = []
    for step, value in run.evals:
        if step:
            history.append({"epoch": step / 7, "grad_norm": 1.5, "learning_rate": run.lr, "loss": 9.0, "step": step})
        history.append(
            {
                "epoch": step / 7,
                "eval_loss": value,
                "eval_runtime": 0.5,
                "eval_samples_per_second": 70.1,
                "eval_steps_per_second": 9.2,
                "step": step,
            }
        )
    return {
        "best_metric": None,
        "best_model_checkpoint": None,
        "epoch": 3.0,
        "eval_steps": 500,
        "global_step": run.evals[-1][0],
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": history,
        "logging_steps": 10,
        "max_steps": 1000,
        "num_input_tokens_seen": 0,
        "num_train_epochs": 3,
        "save_steps": 500,
        "stateful_callbacks": {"TrainerControl": {"args": {"should_log": False}, "attributes": {}}},
        "total_flos": 230094735933440.0,
        "train_batch_size": of_one_process,
        "trial_name": None,
        "trial_params": None,
    }


def write_huggingface(root: Path, runs: Sequence[Evaluated]) -> Path:
    """Each run on two devices with two accumulation steps, with the model card that the Trainer writes."""
    for run in runs:
        directory = root / run.key
        directory.mkdir(parents=True)
        state = trainer_state(run, run.batch_size // 4)
        (directory / "trainer_state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
        (directory / "README.md").write_text(
            "# a model\n\nThe following hyperparameters were used during training:\n"
            f"- learning_rate: {run.lr!r}\n- train_batch_size: {run.batch_size // 4}\n- eval_batch_size: 8\n"
            f"- seed: {run.seed}\n- distributed_type: multi-GPU\n- num_devices: 2\n- gradient_accumulation_steps: 2\n"
            f"- total_train_batch_size: {run.batch_size}\n- total_eval_batch_size: 16\n"
            "- optimizer: Use adamw_torch with betas=(0.9,0.999)\n- lr_scheduler_type: constant\n"
        )
    return root


def write_events(root: Path, runs: Sequence[Evaluated]) -> Path:
    """As `SummaryWriter` logs scalars: in single precision."""
    for run in runs:
        with SummaryWriter(str(root / run.name)) as writer:
            for step, value in run.evals:
                writer.add_scalar("eval/loss", value, step)
                writer.add_scalar("train/lr", run.lr, step)
    return root


def write_double_events(root: Path, runs: Sequence[Evaluated]) -> Path:
    """As scalar tensors in double precision, half of them as raw bytes."""
    for run in runs:
        (root / run.name).mkdir(parents=True)
        writer = RecordWriter(str(root / run.name / "events.out.tfevents.1700000000.host.1.0"))
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for step, value in run.evals:
            raw = np.array(value, dtype="<f8").tobytes()
            tensor = TensorProto(dtype=2, tensor_content=raw) if step % 2 else TensorProto(dtype=2, double_val=[value])
            of_value = Summary.Value(tag="eval/loss", tensor=tensor)
            writer.write(Event(wall_time=1.0, step=step, summary=Summary(value=[of_value])).SerializeToString())
        writer.close()
    return root


def history(run: Evaluated, /, **more: object) -> list[dict[str, object]]:
    """The rows of `run.history()` under the Hugging Face callback: a row per call of log, holes elsewhere."""
    rows: list[dict[str, object]] = []
    for step, value in run.evals:
        trained, measured = {"train/loss": 9.0, "train/learning_rate": run.lr}, {"eval/loss": value}
        for at, logged in ((step, measured), (step, {"eval/runtime": 0.5}), (step + 1, trained)):
            count = {"_step": len(rows), "_runtime": 1.5 * len(rows), "_timestamp": 1.7e9 + len(rows)}
            rows.append({**count, "train/global_step": at, **logged, **more})
    return rows


def config(run: Evaluated) -> dict[str, object]:
    return {
        "run": run.key,
        "config.batch_size": run.batch_size,
        "config.learning_rate": run.lr,
        "config.seed": run.seed,
        "config.optimizer": "adamw",
    }
