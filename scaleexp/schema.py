"""THE CONTRACT between the runner and the analysis: tables, columns, units, version and file names.

A study directory:

    STUDY/study.json                          the resolved study, as it was run
    STUDY/lease/0001.json                     which driver ran it, one after another (see `scaleexp.lease`)
    STUDY/memory/*.json                       what did not fit into memory (see `scaleexp.memory`)
    STUDY/plan/0001.json                      what the grid points mean: targets, rules -> trials (only ever added to)
    STUDY/trials/<key>/trial.json             trial facts, written once
    STUDY/trials/<key>/segments/*.parquet     immutable rows of `steps`, `evals` and, on request, `layers`
    STUDY/trials/<key>/steps*.parquet         all rows of a trial that has ended, in one file; likewise evals*, layers*
    STUDY/trials/<key>/checkpoints/*.pt       states to go on from: that of the last commit and the one before
    STUDY/trials/<key>/commits/0001.json      binds segments and a checkpoint by sha256; rows outside do not exist

`<key>` is the trial id, or `id@realisation` for a trial run a second time in another way (real workers against
virtual ones). Everything is counted in samples. Columns are only ever added, and added ones are nullable.

Every JSON file begins with `"checked_by": "sha256"` and ends with `"sha256"`, over all the rest in canonical form (see
`scaleexp.integrity`). The types below are without these two fields, which reading checks and takes away. A file with
neither was written before they existed; one with only one of them is corrupt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pyarrow as pa

SCHEMA_VERSION = 1

STUDY_FILE = "study.json"
PLAN_DIR = "plan"
LEASE_DIR = "lease"
MEMORY_DIR = "memory"
TRIALS_DIR = "trials"
TRIAL_FILE = "trial.json"
SEGMENTS_DIR = "segments"
CHECKPOINTS_DIR = "checkpoints"
COMMITS_DIR = "commits"
REPORT_DIR = "report"

Table = Literal["steps", "evals", "layers"]
Status = Literal["running", "reached", "limit", "diverged", "stopped", "failed"]
FINAL_STATUSES: frozenset[str] = frozenset({"reached", "limit", "diverged"})
"""Statuses after which a trial never runs again: the hardest target confirmed, the sample limit met, the loss lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: column name; seconds end in `_s`.
        type: Arrow type.
        unit: what one counts.
        deterministic: True where two runs of one realisation give the same bits; False where it is measured.
        nullable: whether a row may lack it.
        doc: one line.
    """

    name: str
    type: pa.DataType
    unit: str
    deterministic: bool
    nullable: bool
    doc: str


def _exact(name: str, type_: pa.DataType, unit: str, doc: str, *, nullable: bool = False) -> Column:
    return Column(name=name, type=type_, unit=unit, deterministic=True, nullable=nullable, doc=doc)


def _measured(name: str, type_: pa.DataType, unit: str, doc: str) -> Column:
    return Column(name=name, type=type_, unit=unit, deterministic=False, nullable=True, doc=doc)


_IDENTITY: tuple[Column, ...] = (
    _exact("trial_id", pa.string(), "", "content hash of what changes the mathematics"),
    _exact("realisation", pa.string(), "", "empty for the first way the trial was run, else its name"),
    _exact("seed", pa.int64(), "", "seed of the data order and of the initialisation"),
    _exact("batch_size", pa.int64(), "samples", "global batch: micro_batch x accumulation_steps x workers"),
    _exact("workers", pa.int32(), "workers", "data-parallel workers, real or virtual"),
    _exact("lr", pa.float64(), "", "peak learning rate of the trial"),
)

STEPS: tuple[Column, ...] = (
    *_IDENTITY,
    _exact("micro_batch", pa.int64(), "samples", "samples a worker passes through the model at once"),
    _exact("accumulation_steps", pa.int32(), "", "micro-batches a worker adds up before the optimizer step"),
    _exact("step", pa.int64(), "steps", "optimizer steps taken, this one included"),
    _exact("samples", pa.int64(), "samples", "samples eaten, this step's included: step x batch_size"),
    _exact("step_lr", pa.float64(), "", "learning rate of this step: the schedule's mean over its samples"),
    _exact("loss", pa.float64(), "", "mean loss over the global batch, before the update"),
    _exact(
        "grad_sq_small",
        pa.float64(),
        "",
        "mean over shards, weighted by size, of the squared shard-gradient norm",
        nullable=True,
    ),
    _exact("grad_sq_big", pa.float64(), "", "squared norm of the global-batch gradient", nullable=True),
    _exact(
        "shard_size", pa.int64(), "samples", "smallest shard [samples] where the norms were measured", nullable=True
    ),
    _exact(
        "shards",
        pa.int32(),
        "shards",
        "shards n where the norms were measured, B // n or B // n + 1 samples each",
        nullable=True,
    ),
    _measured("attempt", pa.int32(), "", "how many times this trial had been started before"),
    _measured("step_s", pa.float64(), "seconds", "wall time of the step, shared equally by the trials of a pack"),
    _measured("compute_s", pa.float64(), "seconds", "forward, backward and update, overlapped communication included"),
    _measured("sync_s", pa.float64(), "seconds", "exposed gradient synchronisation; 0 without real workers"),
    _measured("data_s", pa.float64(), "seconds", "finding and gathering the samples"),
)

EVALS: tuple[Column, ...] = (
    *_IDENTITY,
    _exact("step", pa.int64(), "steps", "optimizer steps taken when evaluated"),
    _exact("samples", pa.int64(), "samples", "samples eaten when evaluated"),
    _exact("metric", pa.string(), "", "name of the metric"),
    _exact("value", pa.float64(), "", "its value on the held-out data"),
    _measured("attempt", pa.int32(), "", "how many times this trial had been started before"),
    _measured("eval_s", pa.float64(), "seconds", "wall time of the evaluation, shared equally by the trials of a pack"),
)

LAYERS: tuple[Column, ...] = (
    *_IDENTITY,
    _exact("step", pa.int64(), "steps", "optimizer steps taken, this one included"),
    _exact("samples", pa.int64(), "samples", "samples eaten, this step's included"),
    _exact("layer", pa.string(), "", "name of a trained parameter"),
    _exact("grad_sq_small", pa.float64(), "", "mean over shards, weighted by size, of its squared shard-gradient norm"),
    _exact("grad_sq_big", pa.float64(), "", "squared norm of its global-batch gradient"),
    _exact("shards", pa.int32(), "shards", "shards n per global batch"),
    _measured("attempt", pa.int32(), "", "how many times this trial had been started before"),
)

TABLES: dict[Table, tuple[Column, ...]] = {"steps": STEPS, "evals": EVALS, "layers": LAYERS}


def arrow_schema(table: Table) -> pa.Schema:
    """Arrow schema of a table, with each column's unit and nature in its field metadata.

    >>> arrow_schema("evals").field("value").metadata[b"deterministic"]
    b'true'
    """
    fields = [
        pa.field(
            c.name,
            c.type,
            nullable=c.nullable,
            metadata={"unit": c.unit, "deterministic": str(c.deterministic).lower(), "doc": c.doc},
        )
        for c in TABLES[table]
    ]
    return pa.schema(fields, metadata={"scaleexp.table": table, "scaleexp.schema_version": str(SCHEMA_VERSION)})


def deterministic_columns(table: Table) -> list[str]:
    """Columns that identity tests compare bit for bit.

    >>> "step_s" in deterministic_columns("steps")
    False
    """
    return [c.name for c in TABLES[table] if c.deterministic]


class SegmentRef(TypedDict):
    """One immutable Parquet file inside a commit."""

    file: str  # relative to the trial's directory
    table: Table
    sha256: str
    rows: int
    level: NotRequired[int]  # how often its rows were merged with those of other segments; 0 where it is not said


class CheckpointRef(TypedDict):
    """The state of a trial after a step, which `torch.load(weights_only=True)` reads."""

    file: str  # relative to the trial's directory
    sha256: str
    bytes: int


class Goal(TypedDict):
    """What ends a trial; with a harder one it goes on."""

    targets: dict[str, float]  # the hardest value of every metric
    limit_samples: int | None


class Commit(TypedDict):
    """`commits/NNNN.json`. The last one of a trial that is whole says what exists: its segments, and no other row.

    The first is made before step 0, of nothing but what was chosen by then; a trial goes on from the last.
    """

    schema_version: int
    key: str
    number: int
    attempt: int
    fence: NotRequired[int]  # number of the lease that the driver held; one with a higher number has precedence
    step: int
    samples: int
    status: Status
    began_samples: NotRequired[int]  # where this attempt began; 0 where it is not said
    cause: str  # why it diverged, stopped or failed; empty otherwise
    segments: list[SegmentRef]
    goal: NotRequired[Goal]  # what the trial was put through towards
    checkpoint: NotRequired[CheckpointRef | None]  # null at step 0, of a diverged trial, or where none is kept
    realisation: dict[str, Any]  # engine, kernel, threads, device, processes, noise cadence: fixed before step 0
    timings: NotRequired[dict[str, float]]  # what those choices rest on [seconds], and what measuring noise costs
    elapsed_s: float
    committed_utc: str
    gaps: NotRequired[list[list[int]]]  # [first, last] steps without rows: taken by a script that was killed meanwhile


class TrialFacts(TypedDict):
    """`trial.json`: what a trial is, and where it was first run."""

    schema_version: int
    trial_id: str
    realisation: str
    seed: int
    batch_size: int
    workers: int
    micro_batch: int
    accumulation_steps: int
    lr: float
    optimizer: dict[str, Any]
    workload: dict[str, Any]
    dtype: str
    unit: str  # example | token
    n_train: int | None  # size of the training set [samples]; null for a stream without end
    n_parameters: int | None  # null where a script did not say its model
    data_sha256: str  # empty where nobody said it
    limit_samples: int | None  # null where a script ends by itself
    versions: dict[str, str]
    git_sha: str | None  # of the working tree that the command was given in
    hardware: dict[str, Any]
    created_utc: str
    sample_order: NotRequired[str]  # by index (a function of seed and index), or uncontrolled; by index if not said


class Target(TypedDict):
    """A metric and the value(s) at which a run counts as done."""

    metric: str
    values: list[float]  # from the easiest to the hardest
    direction: Literal["min", "max"]


class PlannedTrial(TypedDict):
    """One trial of a plan."""

    trial_id: str
    realisation: str
    seed: int
    batch_size: int
    workers: int
    micro_batch: int
    accumulation_steps: int
    lr: float


class RuleLabel(TypedDict):
    """(rule, kappa) -> the trials that stand for it, one per seed."""

    rule: str
    batch_size: int
    kappa: float
    lr: float
    trial_ids: list[str]


class PlanFile(TypedDict):
    """`plan/NNNN.json`."""

    schema_version: int
    study: str
    question: str
    targets: list[Target]
    base_batch_size: int
    base_lr: float
    unit: str
    trials: list[PlannedTrial]
    rules: list[RuleLabel]
    resolved: NotRequired[dict[str, Any]]  # the study as it was resolved for this plan; study.json is that of the first


def trial_key(trial_id: str, realisation: str) -> str:
    """Directory name of a trial under `trials/`.

    >>> trial_key("3f2a", ""), trial_key("3f2a", "ddp-2")
    ('3f2a', '3f2a@ddp-2')
    """
    return f"{trial_id}@{realisation}" if realisation else trial_id
