"""Where step times come from: a CSV, a study or probe directory, or a JSON file with a list of measurements."""

from __future__ import annotations

import json
from pathlib import Path

from scaleexp.errors import ConfigError, NotEnoughDataError
from scaleexp.simulate.study_rows import study_rows
from scaleexp.simulate.tables import Row, checked_row, read_table

PROBE_FILE = "probe.json"
"""Of a directory that `scaleexp probe` wrote."""


def read_source(source: str) -> list[Row]:
    """Rows of measured step times.

    Args:
        source: a CSV; a study directory or its address; what `scaleexp probe` wrote; a JSON file,
            {"measurements": [{"workers": ...}, ...]}, with the columns of the CSV.

    Raises:
        ConfigError: it cannot be read, or holds numbers that cannot be.
        NotEnoughDataError: it holds no measurement.
        StorageError: a directory that is no study.
    """
    if Path(source, PROBE_FILE).is_file():
        return _json_rows(str(Path(source, PROBE_FILE)))
    if "://" in source or Path(source).is_dir():
        return study_rows(source)
    return _json_rows(source) if source.endswith(".json") else read_table(source)


def _json_rows(path: str) -> list[Row]:
    try:
        held = json.loads(Path(path).read_text())["measurements"]
        cells = [{str(k): "" if v is None else str(v) for k, v in entry.items()} for entry in held]
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): give a CSV, a study directory or a JSON file"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f'{path} is not {{"measurements": [{{"workers": ..., "step_time_s": ...}}, ...]}}') from None
    if not cells:
        raise NotEnoughDataError(f"{path} holds no measurement")
    return [checked_row(row, f"measurement {i} of {path}") for i, row in enumerate(cells, start=1)]
