"""The methods paragraph says what was used, and cites that alone."""

import re
from dataclasses import replace

import pytest

from analysis.methods import Used, methods
from analysis.references import REFERENCES

PLAIN = Used(n_batches=5, n_runs=15, aggregate="robust", confidence=0.95, from_seeds=False)
EVERYTHING = Used(
    n_batches=9,
    n_runs=1350,
    n_censored=4,
    n_outliers=2,
    aggregate="robust",
    confidence=0.9,
    loss="huber",
    unit="token",
    metric="val_loss",
    target=3.2,
    from_curves=True,
    lr_tuned=True,
    birge=1.4,
    overhead=(0.2, 256.0),
    regimes=(-0.9, -0.1),
    shape_exponent=True,
    equal_samples=(0.01, True),
    branched=0.02,
    law=(("n_params", "samples"), "b_crit", 6),
    noise_scale=True,
    multiverse=126,
    version="1.2.3",
)


def entries(bibtex: str) -> list[str]:
    return re.findall(r"@\w+\{(\w+),", bibtex)


def cited(latex: str) -> list[str]:
    return list(dict.fromkeys(re.findall(r"\\cite\{(\w+)\}", latex)))


@pytest.mark.parametrize(
    "used", [PLAIN, EVERYTHING, replace(PLAIN, branched=0.01), replace(PLAIN, regimes=(-0.9, -0.1))]
)
def test_every_reference_is_cited_and_every_citation_is_a_reference(used: Used) -> None:
    found = methods(used)
    assert cited(found.latex) == entries(found.bibtex)


def test_a_plain_fit_cites_the_curve_alone() -> None:
    assert entries(methods(PLAIN).bibtex) == ["mccandlish2018"]


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        ({"overhead": (0.2, 256.0)}, "zhang2024", "linear scaling from B_ref = 256 by 20 %"),
        ({"regimes": (-0.9, -0.1)}, "shallue2018", "-0.9 where the one ends"),
        ({"branched": 0.01}, "merrill2025", "within 0.01 of the loss"),
        ({"from_seeds": True}, "efron1982", "1,000 resamples of the seeds"),
        ({"birge": 1.5}, "birge1932", "widened 1.5 times"),
        ({"equal_samples": (0.01, True)}, None, "within 1 % of its size"),
        ({"equal_samples": (0.01, False)}, None, "within 0.01 of the best"),
        ({"law": (("n_params",), "overhead", 4)}, None, "(overhead) is a power law in n_params"),
        ({"n_censored": 3}, None, "3 runs that never reached the target"),
        ({"multiverse": 126}, None, "126 combinations"),
        ({"loss": "huber"}, "huber1981", "under Huber's loss"),
        ({"loss": "weighted"}, None, "weighted by the inverse variance"),
        ({"aggregate": "median"}, None, "is the median of its runs"),
        ({"shape_exponent": True}, None, "free shape"),
        ({"noise_scale": True}, None, "gradient noise scale"),
    ],
)
def test_what_was_used_is_said_and_cited_and_is_not_without_it(change: dict, key: str | None, said: str) -> None:
    without, with_it = methods(PLAIN), methods(replace(PLAIN, **change))
    assert said in with_it.text
    assert said not in without.text
    added = [name for name in entries(with_it.bibtex) if name not in entries(without.bibtex)]
    assert added == ([key] if key else [])


def test_everything_together_cites_every_reference_once() -> None:
    found = methods(EVERYTHING)
    assert sorted(entries(found.bibtex)) == sorted(REFERENCES)
    assert "4 runs that never reached" in found.text
    assert "(2 were)" in found.text
    assert "1,350 runs at 9 batch sizes" in found.text


def test_latex_escapes_text_and_sets_formulas() -> None:
    parts = methods(EVERYTHING).latex.split("$")
    assert len(parts) % 2 == 1
    for text in parts[::2]:
        assert not re.search(r"(?<!\\)[%_&#]", text)
    for formula in parts[1::2]:
        assert "\\_" not in formula
    assert r"B_{\mathrm{crit}}" in parts
    assert r"\mathrm{tr}(\Sigma) / |G|^2" in parts
    assert r"val\_loss" in parts[0]


def test_every_entry_has_author_title_year_and_its_own_key() -> None:
    for key, entry in REFERENCES.items():
        assert entries(entry) == [key]
        for name in ("author", "title", "year"):
            assert f"{name} = {{" in entry
        assert entry.count("{") == entry.count("}")
