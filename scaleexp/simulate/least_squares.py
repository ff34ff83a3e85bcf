"""One form fitted to one group: robust least squares in log step time, with weak priors, and their covariance.

Few rows say little about many parameters. Each has a prior that a handful of rows overrules: no communication, overlap
of a half or so, a jitter of a few per cent; so two rows are fitted too, and the covariance says how little they fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares, nnls

from scaleexp.simulate.collectives import expected_maximum
from scaleexp.simulate.forms import COMMON, HIGHEST, LOWEST, Form, Rows, gradient

FloatArray = npt.NDArray[np.float64]

_ROBUST = 0.1
"""Log residual beyond which a row counts linearly (soft L1)."""
_SPREAD, _SPREAD_ROWS = 0.05, 4.0
"""Spread of log step times assumed before any is seen, and the rows that assumption is worth."""
_USUAL = {"jitter": (0.03, 0.1), "overlap": (0.6, 0.5), "sharpness": (3.0, 3.0)}
_COMMUNICATION = 0.1
"""Prior standard deviation of each term of the communication at a typical size, as a share of the step."""
_PRIOR = 0.05
"""Residual of a parameter that is one prior standard deviation off."""
_SYNC = 0.3
"""Residual of a step whose communication and waiting are off by all of it: loops differ in what they call so."""
_SHARED = 10.0
"""Residual of a share of communication that is off by 1 from what all groups have in common."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedForm:
    """A form with its parameters.

    Attributes:
        form: which.
        theta: parameters, in the order of `form.parameters`.
        covariance: of them, by Laplace's approximation.
        spread: standard deviation of log step times about the form.
    """

    form: Form
    theta: FloatArray
    covariance: FloatArray
    spread: float


def fit_form(
    form: Form,
    rows: Rows,
    step_time_s: FloatArray,
    shares: Mapping[str, FloatArray] | None = None,
    *,
    sync_time_s: FloatArray | None = None,
    expected: FloatArray | None = None,
) -> FittedForm:
    """Least squares of log step times over the form's parameters.

    Args:
        form: which.
        rows: configurations, one dimension.
        step_time_s: what was measured there.
        shares: regime -> what share of its communication each term has in all groups together (see `shares_of`).
        sync_time_s: what of each step was communication and waiting; nan where that was not measured.
        expected: seconds that each term of the communication should cost, before a row is seen; none if left out.
    """
    design, slowest = form.design(rows), expected_maximum(rows.workers)
    scale = _scale(form, rows, step_time_s, design)
    target = np.log(step_time_s)
    centre, width = _prior(form, rows, step_time_s, np.zeros(len(design)) if expected is None else expected)
    timed = (rows.workers > 1) & np.isfinite(np.full(len(target), np.nan) if sync_time_s is None else sync_time_s)
    sync = np.zeros(0) if sync_time_s is None else sync_time_s[timed] / step_time_s[timed]
    computed = np.column_stack([rows.accumulation_steps, rows.worker_batch])[timed] / step_time_s[timed, None]
    common = [(_members(form, regime), share) for regime, share in (shares or {}).items()]

    def residuals(u: FloatArray) -> FloatArray:
        theta = u * scale
        found = gradient(theta, rows, design, slowest)[0]
        return np.concatenate(
            [
                np.log(found) - target,
                _SYNC * (found[timed] / step_time_s[timed] - computed @ theta[:2] - sync),
                _PRIOR * (theta - centre) / width,
                *_off_common(theta, form, common),
            ]
        )

    def jacobian(u: FloatArray) -> FloatArray:
        theta = u * scale
        found, by = gradient(theta, rows, design, slowest)
        synced = by[timed] / step_time_s[timed, None]
        synced[:, :2] -= computed
        return (
            np.vstack([by / found[:, None], _SYNC * synced, np.diag(_PRIOR / width), *_by_common(theta, form, common)])
            * scale
        )

    low = np.concatenate([LOWEST, np.zeros(len(design))])
    high = np.concatenate([HIGHEST, np.full(len(design), np.inf)])
    start = np.clip(_start(rows, step_time_s, design, centre), low + 1e-6 * scale, high - 1e-6 * scale)
    best = least_squares(
        residuals,
        start / scale,
        jacobian,
        bounds=(low / scale, high / scale),
        loss="soft_l1",
        f_scale=_ROBUST,
        max_nfev=300,
    )
    theta = np.clip(best.x * scale, low, high)
    return _with_covariance(form, theta, residuals(theta / scale)[: len(target)], jacobian(theta / scale) / scale)


def shares_of(fitted: FittedForm) -> dict[str, FloatArray]:
    """Regime -> share of each of its terms in its communication at a typical size; regimes without any are left out."""
    found = {}
    weight = fitted.theta[len(COMMON) :] * fitted.form.typical()
    for regime in {term.partition(".")[0] for term in fitted.form.terms}:
        members = _members(fitted.form, regime)
        if weight[members].sum() > 0:
            found[regime] = weight[members] / weight[members].sum()
    return found


def _members(form: Form, regime: str) -> npt.NDArray[np.int_]:
    return np.array([i for i, term in enumerate(form.terms) if term.partition(".")[0] == regime], dtype=int)


Common = list[tuple[npt.NDArray[np.int_], FloatArray]]


def _off_common(theta: FloatArray, form: Form, common: Common) -> list[FloatArray]:
    weight = theta[len(COMMON) :] * form.typical() + 1e-12
    return [_SHARED * (weight[m] / weight[m].sum() - share) for m, share in common]


def _by_common(theta: FloatArray, form: Form, common: Common) -> list[FloatArray]:
    typical = form.typical()
    weight = theta[len(COMMON) :] * typical + 1e-12
    found = []
    for members, _ in common:
        total = weight[members].sum()
        share = weight[members] / total
        by = np.zeros((len(members), len(theta)))
        by[:, len(COMMON) + members] = _SHARED * (np.eye(len(members)) - share[:, None]) * typical[members] / total
        found.append(by)
    return found


def _prior(form: Form, rows: Rows, step_time_s: FloatArray, expected: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(Centre, standard deviation) of every parameter before a row is seen; what is expected may be off by itself."""
    step, batch, k = (float(np.median(x)) for x in (step_time_s, rows.worker_batch, rows.accumulation_steps))
    usual = [_USUAL[name] for name in COMMON[2:]]
    centre = np.concatenate([[0.1 * step / k, 0.9 * step / batch], [c for c, _ in usual], expected])
    unknown = _COMMUNICATION * step / k / np.maximum(form.typical(), 1e-3)
    spread = np.where(expected > 0, expected, unknown)
    width = np.concatenate([[step / k, step / batch], [w for _, w in usual], spread])
    return centre, width


def _scale(form: Form, rows: Rows, step_time_s: FloatArray, design: FloatArray) -> FloatArray:
    step = float(np.median(step_time_s))
    compute = [step / float(np.median(rows.accumulation_steps)), step / float(np.median(rows.worker_batch))]
    most = np.array([float(np.max(np.abs(column), initial=0.0)) for column in design])
    terms = 0.1 * step / np.where(most > 0, most, np.maximum(form.typical(), 1e-3))
    return np.concatenate([compute, [0.1, 0.5, 3.0], terms])


def _start(rows: Rows, step_time_s: FloatArray, design: FloatArray, centre: FloatArray) -> FloatArray:
    """The exact solution without overlap and jitter, which is linear: relative residuals, coefficients >= 0."""
    columns = np.vstack([rows.accumulation_steps, rows.worker_batch, design]) / step_time_s
    solution, _ = nnls(columns.T, np.ones(len(step_time_s)))
    compute = np.where(solution[:2] > 0, solution[:2], 0.1 * centre[:2])
    return np.concatenate([compute, centre[2:5], solution[2:]])


def _with_covariance(form: Form, theta: FloatArray, log_residuals: FloatArray, jacobian: FloatArray) -> FittedForm:
    """Laplace: variance of the residuals times the inverse of J'J, priors included."""
    variance = (float((log_residuals**2).sum()) + _SPREAD_ROWS * _SPREAD**2) / (
        max(len(log_residuals) - len(theta), 0) + _SPREAD_ROWS
    )
    return FittedForm(
        form=form,
        theta=theta,
        covariance=np.asarray(variance * np.linalg.pinv(jacobian.T @ jacobian, hermitian=True), np.float64),
        spread=float(np.sqrt(variance)),
    )
