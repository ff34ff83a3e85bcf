"""A study's rows for other tools: tables (CSV, Parquet), TensorBoard event files, an MLflow tracking directory.

What was exported before is never exported twice: exporting again adds nothing, and exporting a study that has grown
adds what is new. A file appears under its name when it is whole, and no file that something else wrote is replaced.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from analysis.export.exported import FORMATS, Exported, Format

if TYPE_CHECKING:
    from analysis.read import StudyLog

__all__ = ["FORMATS", "Exported", "Format", "export"]


def export(log: StudyLog, to: Format, out: Path) -> Exported:
    """Bring the export of a study in a directory up to date.

    Args:
        log: a study, as `analysis.load` reads it.
        to: what to.
        out: directory; created if it is not there.

    Raises:
        ConfigError: the directory holds what another program, or an export of another study, put there; or the
            package for a format is not installed.
        CorruptError: a segment changed since the study was loaded.
        StorageError: the directory cannot be written.
    """
    from analysis.export import mlflow, tables, tensorboard
    from scaleexp.errors import StorageError

    try:
        if to == "tensorboard":
            return tensorboard.export_events(log, out)
        if to == "mlflow":
            return mlflow.export_runs(log, out)
        return tables.export_tables(log, out, to)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write to {out}: {error.strerror or error}; check space and permissions.") from error
