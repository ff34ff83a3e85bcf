"""What an export wrote, whatever it was written for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

Format = Literal["csv", "parquet", "tensorboard", "mlflow"]
FORMATS: tuple[str, ...] = get_args(Format)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        format: what it was exported to.
        out: directory that holds it.
        study: name of the study.
        rows: rows of each table that the study holds.
        added: rows among them that this export added.
        files: files written or replaced, relative to `out`.
        left_out: what of the study could not be read, one sentence each.
    """

    format: Format
    out: Path
    study: str
    rows: Mapping[str, int]
    added: Mapping[str, int]
    files: tuple[str, ...] = field(default=())
    left_out: tuple[str, ...] = field(default=())
