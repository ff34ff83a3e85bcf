"""Of a segment only the rows that are asked for are given, however their column is known to hold them."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleexp import segment


def segment_of(metrics: list[str | None], **options) -> tuple[bytes, dict]:
    table = pa.table({"metric": pa.array(metrics, pa.string()), "value": [float(i) for i in range(len(metrics))]})
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue(), {"file": "x", "table": "evals", "sha256": "", "rows": len(metrics)}


def values(content: bytes, reference: dict, metric: str) -> list[float]:
    found = segment.rows(content, reference, ["value"], "x", only=("metric", metric))
    assert found.column_names == ["value"]
    return found["value"].to_pylist()


CASES = {
    "one metric": ["loss"] * 4,
    "two metrics": ["loss", "accuracy", "loss", "accuracy"],
    "another metric": ["accuracy"] * 4,
    "a null among one metric": ["loss", None, "loss", "loss"],
    "long names with one beginning": ["loss" + "x" * 200 + "1", "loss" + "x" * 200 + "2", "loss", "loss"],
}


@pytest.mark.parametrize("options", [{}, {"row_group_size": 2}, {"write_statistics": False}])
@pytest.mark.parametrize("metrics", CASES.values(), ids=CASES)
def test_the_rows_of_one_metric_are_those_and_no_others(metrics, options):
    content, reference = segment_of(metrics, **options)
    for metric in {m for m in metrics if m} | {"loss"}:
        assert values(content, reference, metric) == [i for i, m in enumerate(metrics) if m == metric]


def test_a_column_that_is_known_to_hold_one_text_is_not_decoded(monkeypatch):
    read: list[list[str]] = []
    original = pq.ParquetFile.read

    def counting(self, columns, **options):
        read.append(list(columns))
        return original(self, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", counting)
    for metrics in (["loss"] * 4, ["loss", "accuracy"] * 2):
        values(*segment_of(metrics), "loss")
    assert read == [["value"], ["value", "metric"]]
