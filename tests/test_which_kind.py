"""What a table is, by its content: what runs took to a target, or their curves; each file is asked once."""

from pathlib import Path

import pytest

import analysis
from analysis import sources
from analysis.cli import main
from analysis.sources import kind_of
from analysis.sources.points import Columns

BATCHES = (16, 64, 256, 1024)


def table(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def replicates(tmp_path: Path) -> Path:
    """Steps to target, three replicates per batch in a column that is called run."""
    rows = [f"{r},{b},{100 * (1 + 256 / b) * (1 + 0.01 * r)}" for b in BATCHES for r in range(3)]
    return table(tmp_path / "points.csv", "run,batch_size,steps", rows)


def test_a_table_of_points_with_replicates_called_run_is_not_taken_for_curves(replicates: Path) -> None:
    assert kind_of(replicates) == "table"
    (fit,) = analysis.fit(replicates).fits  # type: ignore[union-attr]
    assert fit.b_crit == pytest.approx(256, rel=0.01)
    assert len(fit.sweep.runs) == 12


def test_a_further_column_that_differs_between_replicates_does_not_make_curves(tmp_path: Path) -> None:
    rows = [f"{r},{b},{100 * (1 + 256 / b)},{0.3 + 0.01 * r}" for b in BATCHES for r in range(3)]
    assert kind_of(table(tmp_path / "p.csv", "run,batch_size,steps,final_loss", rows)) == "table"
    named = table(tmp_path / "q.csv", "run,global_batch,to_converge", [row.rpartition(",")[0] for row in rows])
    assert kind_of(named, Columns(batch="global_batch", cost="to_converge")) == "table"


def test_one_row_per_run_is_a_table_of_points(tmp_path: Path) -> None:
    rows = [f"b{b},{b},{100 * (1 + 256 / b)},0.5" for b in BATCHES]
    assert kind_of(table(tmp_path / "p.csv", "run,batch_size,steps,value", rows)) == "table"


@pytest.mark.parametrize("metric", ["value", "eval_loss"])
def test_several_rows_per_run_with_values_are_curves(tmp_path: Path, metric: str) -> None:
    rows = [f"b{b},{b},{step},{3 - 0.1 * step}" for b in BATCHES for step in range(5)]
    assert kind_of(table(tmp_path / "c.csv", f"run,batch_size,steps,{metric}", rows)) == "curves"
    without = [f"b{b},{step},{3 - 0.1 * step}" for b in BATCHES for step in range(5)]
    assert kind_of(table(tmp_path / "d.csv", f"run,steps,{metric}", without)) == "curves"


def test_a_file_is_looked_at_once_per_fit(replicates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    original = sources.holds_curves

    def counted(path: Path, *names: str) -> bool:
        seen.append(path)
        return original(path, *names)

    monkeypatch.setattr(sources, "holds_curves", counted)
    assert main(["fit", str(replicates)]) == 0
    analysis.fit(replicates)
    assert seen == [replicates] * 2


def test_one_source_given_twice_is_refused(
    replicates: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(replicates.parent)
    for again in (str(replicates), "points.csv", "./points.csv"):
        assert main(["fit", str(replicates), again]) == 2
        assert f"{again} is given twice, and its runs would count twice" in capsys.readouterr().err
    assert main(["scaling", str(replicates), str(replicates), "--against", "run"]) == 2


def test_numbers_with_thousands_separators_are_named_by_row_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quoted = table(tmp_path / "q.csv", "batch_size,steps", ["16,100", '"1,024",50'])
    assert main(["fit", str(quoted)]) == 2
    said = capsys.readouterr().err
    assert "column 'batch_size'" in said
    assert "row 2 has '1,024': write it without thousands separators" in said
    bare = table(tmp_path / "b.csv", "batch_size,steps", ["16,100", "1,024,50", "64,70"])
    assert main(["fit", str(bare)]) == 2
    assert "row 2 has 3 cells where the header has 2" in capsys.readouterr().err
    curves = [f"b{b},{b},{step},{3 - 0.1 * step}" for b in BATCHES for step in range(5)]
    curves[6] = 'b64,64,"1,000",2.9'
    path = table(tmp_path / "c.csv", "run,batch_size,steps,value", curves)
    assert main(["fit", str(path), "--unit", "example", "--target", "2.8"]) == 2
    assert "column steps should hold numbers and holds '1,000' in row 7: write it without" in capsys.readouterr().err


def test_a_column_that_is_not_there_is_answered_with_the_nearest_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"width_{i}" for i in range(30)]
    wide = table(tmp_path / "w.csv", ",".join(["batch_size", "steps", *names]), [",".join(["16", "9", *"1" * 30])])
    assert main(["fit", str(wide), "--group-by", "widht_7"]) == 2
    said = capsys.readouterr().err
    assert "the nearest of its 32 columns are" in said
    assert "width_7" in said
    assert said.count("width_") < 7
