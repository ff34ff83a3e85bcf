"""The JSON that the commands print, and its schemas. Unbounded and unknown numbers are null."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, cast

from analysis.fits import SweepFit
from analysis.jsonable import json_safe as json_safe
from analysis.lr_law import fit_lr_law
from analysis.sources.studies import study_fit
from analysis.study import StudyAnalysis

VERSION = 1


def fit_document(studies: Sequence[StudyAnalysis], fits: Sequence[SweepFit] = ()) -> dict[str, Any]:
    """`fit --json` of one study: one entry of `fits` per target; noise, rules and agreements at the last of them.

    Args:
        studies: the study at each target.
        fits: of them; with default options if empty.
    """
    last = studies[-1]
    return {
        **fits_document(fits or [study_fit(study) for study in studies]),
        "noise": json_safe(last.noise),
        "noise_series": json_safe(last.noise_series),
        "noise_layers": json_safe(dict(last.noise_layers)),
        "rules": json_safe(last.rules),
        "lr_law": fit_lr_law(last.points, confidence=last.options.confidence).to_dict(),
        "agreements": json_safe(last.agreements),
    }


def fits_document(fits: Sequence[SweepFit]) -> dict[str, Any]:
    """`fit --json` of anything but one study, which alone has a noise scale, rules, a law and agreements to tell."""
    return {
        "schema_version": VERSION,
        "fits": [fit.to_dict() for fit in fits],
        "noise": None,
        "noise_series": [],
        "noise_layers": {},
        "rules": [],
        "lr_law": None,
        "agreements": [],
    }


def schema_of(command: str) -> dict[str, Any]:
    """The JSON Schema of a command's `--json`: fit, plot or report.

    >>> schema_of("fit")["title"]
    'scaleexp-analysis fit --json'
    """
    return cast(dict[str, Any], json.loads((files("analysis") / "schemas" / f"{command}.json").read_text()))
