"""Measured step times -> a model of them: which forms, with what weights, is decided on rows held out, never by hand.

1. Rows are held out in three ways: the most nodes, the upper octave of workers, a random quarter. The first two ask for
   extrapolation, as a user will.
2. A group gives two nodes terms of their own if that predicts its held-out rows better.
3. Several groups were measured on one network, so how communication grows with workers may be common to all of them
   while its size is each one's own: their shares are pulled together unless that predicts held-out rows worse.
4. Each form weighs as the inverse fourth power of its error on held-out rows.
5. `drift`, by which the truth leaves the forms per doubling, is what the held-out rows beyond the others show.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scaleexp.errors import NotEnoughDataError
from scaleexp.simulate.forms import FORMS, Form, Rows, parts
from scaleexp.simulate.group_model import GroupModel, Measured, Member
from scaleexp.simulate.least_squares import FittedForm, fit_form, shares_of
from scaleexp.simulate.measurements import Measurements

FloatArray = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_POWER = 4
_LEAST_ERROR = 0.005
_LEAST_DRIFT = 0.1
"""Of log step time per doubling, where held-out rows show less."""
_UNKNOWN_NODES = 0.25
"""Likewise for nodes where fewer than two counts above one were measured: libraries change their algorithm between two
nodes and more, by which published step times on two nodes are up to twice those on three."""
_WORSE = 1.05
"""Of two models the one with fewer free parameters is kept unless it is worse by more than this."""
_FEWEST_ROWS = 8
"""Fewer are not split."""

Shares = Mapping[str, Mapping[str, FloatArray]]
"""Form -> regime -> shares that all groups have in common."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What the forms of one group made of rows held out.

    Attributes:
        errors: form -> mean absolute percentage error, over folds.
        error: of the weighted forms.
        drift: of log step time, per doubling beyond the rows that were fitted.
    """

    errors: Mapping[str, float]
    error: float
    drift: float


def fit_groups(groups: Mapping[str, Measurements]) -> dict[str, GroupModel]:
    """A model of each group.

    Raises:
        NotEnoughDataError: a group with fewer than two configurations.
    """
    for name, held in groups.items():
        _check(name, held)
    apart = {name: tried(held, two_nodes=False) for name, held in groups.items()}
    two = {name: tried(held, two_nodes=True) for name, held in groups.items() if _has_two_nodes(held.rows)}
    own = {name: name in two and two[name].error < apart[name].error for name in groups}
    alone = {name: two[name] if own[name] else apart[name] for name in groups}
    shares = common_shares(groups, own)
    if shares:
        together = pooled(groups, own)
        if np.mean([t.error for t in together.values()]) < _WORSE * np.mean([t.error for t in alone.values()]):
            return {name: _model(held, own[name], together[name], shares) for name, held in groups.items()}
    return {name: _model(held, own[name], alone[name], {}) for name, held in groups.items()}


def pooled(groups: Mapping[str, Measurements], own: Mapping[str, bool]) -> dict[str, Trial]:
    """The same trials with shares in common: of what is left where every group holds out the same kind of rows."""
    kept: dict[str, dict[str, Measurements]] = {}
    for name, held in groups.items():
        for kind, (train, _) in folds(held.rows).items():
            kept.setdefault(kind, {})[name] = held[train]
    shares = {kind: common_shares(left, own) for kind, left in kept.items()}
    return {name: tried(held, two_nodes=own[name], shares=shares) for name, held in groups.items()}


def common_shares(groups: Mapping[str, Measurements], own: Mapping[str, bool]) -> Shares:
    """Form -> regime -> mean share of each term over the groups that measured the regime; empty for one group alone."""
    found: dict[str, dict[str, FloatArray]] = {}
    for name in FORMS:
        seen: dict[str, list[FloatArray]] = {}
        for group, held in groups.items():
            form = Form(name=name, two_nodes=own[group])
            for regime, share in shares_of(_fit(form, held, {})).items():
                if _regime(held.rows, regime, two_nodes=own[group]).sum() >= _FEWEST_ROWS:
                    seen.setdefault(regime, []).append(share)
        found[name] = {regime: np.mean(shares, axis=0) for regime, shares in seen.items() if len(shares) > 1}
    return found if any(found.values()) else {}


def tried(held: Measurements, *, two_nodes: bool, shares: Mapping[str, Shares] | None = None) -> Trial:
    """Fit every form to what each fold leaves, and predict what it holds out."""
    splits = folds(held.rows)
    logs: dict[str, dict[str, FloatArray]] = {name: {} for name in FORMS}
    spread: list[float] = []
    for kind, (train, test) in splits.items():
        for name in FORMS:
            form = Form(name=name, two_nodes=two_nodes)
            fitted = _fit(form, held[train], (shares or {}).get(kind, {}))
            logs[name][kind] = np.log(_predicted(fitted, held.rows[test]) / held.step_time_s[test])
            spread.append(fitted.spread)
    errors = {name: float(np.mean([_mape(r) for r in found.values()])) for name, found in logs.items() if found}
    if not errors:
        return Trial(errors={}, error=np.inf, drift=_LEAST_DRIFT)
    weights = weighed(errors)
    mixed = {kind: sum(weights[n] * logs[n][kind] for n in FORMS) + np.zeros(()) for kind in splits}
    drift = _drift(held.rows, splits, mixed, float(np.mean(spread)))
    return Trial(errors=errors, error=float(np.mean([_mape(r) for r in mixed.values()])), drift=drift)


def weighed(errors: Mapping[str, float]) -> dict[str, float]:
    """Form -> weight; equal ones where no error is known.

    >>> weighed({"ring": 0.1, "tree": 0.05})
    {'ring': 0.058823529411764705, 'tree': 0.9411764705882353}
    """
    if not errors:
        return dict.fromkeys(FORMS, 1 / len(FORMS))
    raw = {name: max(error, _LEAST_ERROR) ** -_POWER for name, error in errors.items()}
    return {name: weight / sum(raw.values()) for name, weight in raw.items()}


def folds(rows: Rows) -> dict[str, tuple[Mask, Mask]]:
    """Kind -> (rows to fit, rows to predict); kinds that leave too little are left out."""
    if len(rows.workers) < _FEWEST_ROWS:
        return {}
    quarter = np.random.default_rng(0).permutation(len(rows.workers)) % 4 == 0
    kinds = {
        "nodes": rows.nodes == rows.nodes.max() if len(np.unique(rows.nodes[rows.nodes > 1])) > 1 else quarter & False,
        "workers": rows.workers > rows.workers.max() / 2,
        "random": quarter,
    }
    return {kind: (~test, test) for kind, test in kinds.items() if test.any() and _enough(rows[~test], rows[test])}


def _enough(train: Rows, test: Rows) -> bool:
    reached = test.nodes.max() == 1 or bool((train.nodes > 1).any())
    return len(train.workers) >= _FEWEST_ROWS // 2 and len(np.unique(train.workers)) > 1 and reached


def _model(held: Measurements, two_nodes: bool, trial: Trial, shares: Shares) -> GroupModel:
    weights = weighed(trial.errors)
    fitted = {name: _fit(Form(name=name, two_nodes=two_nodes), held, shares) for name in FORMS}
    rows, micro = held.rows, held.rows.worker_batch / held.rows.accumulation_steps
    counts = len(np.unique(rows.nodes[rows.nodes > 1]))
    return GroupModel(
        members=tuple(
            Member(
                form=f.form,
                weight=weights[name],
                error=trial.errors.get(name, np.nan),
                theta=f.theta,
                covariance=f.covariance,
            )
            for name, f in fitted.items()
        ),
        spread=float(sum(weights[name] * f.spread for name, f in fitted.items())),
        drift=trial.drift,
        node_drift=trial.drift if counts > 1 else max(trial.drift, _UNKNOWN_NODES),
        measured=Measured(
            rows=len(micro),
            workers=_ends(rows.workers),
            nodes=_ends(rows.nodes),
            micro_batch=_ends(micro),
            node_counts=counts,
            grad_bytes=held.grad_bytes,
            parallelism=held.parallelism,
        ),
    )


def _fit(form: Form, held: Measurements, shares: Shares) -> FittedForm:
    terms = {term.partition(".")[0] for term in form.terms}
    common = {regime: share for regime, share in shares.get(form.name, {}).items() if regime in terms}
    seen = {r: s for r, s in common.items() if _regime(held.rows, r, two_nodes=form.two_nodes).any()}
    expected = held.expected[form.name, form.two_nodes] if held.expected else None
    return fit_form(form, held.rows, held.step_time_s, seen, sync_time_s=held.sync_time_s, expected=expected)


def _predicted(fitted: FittedForm, rows: Rows) -> FloatArray:
    return parts(fitted.theta, rows, fitted.form.design(rows)).total


def _regime(rows: Rows, regime: str, *, two_nodes: bool) -> Mask:
    inside = {"inside": rows.nodes == 1, "two_nodes": rows.nodes == 2, "between": rows.nodes > (2 if two_nodes else 1)}
    return np.asarray(inside[regime] & (rows.workers > 1))


def _has_two_nodes(rows: Rows) -> bool:
    return bool((rows.nodes == 2).sum() >= _FEWEST_ROWS and len(np.unique(rows.nodes[rows.nodes > 2])) > 0)


def _drift(
    rows: Rows, splits: Mapping[str, tuple[Mask, Mask]], mixed: Mapping[str, FloatArray], spread: float
) -> float:
    """Root of the squared error beyond the spread, over the doublings beyond what was fitted."""
    excess, far = [0.0], [0.0]
    for kind, (train, test) in _beyond(splits):
        doublings = sum(np.maximum(np.log2(x[test] / x[train].max()), 0.0) for x in (rows.workers, rows.nodes))
        excess.append(float(np.mean(mixed[kind] ** 2) - spread**2))
        far.append(float(np.mean(doublings)))
    return max(_LEAST_DRIFT, float(np.sqrt(max(sum(excess), 0.0) / max(sum(far), 1e-9))))


def _beyond(splits: Mapping[str, tuple[Mask, Mask]]) -> Iterator[tuple[str, tuple[Mask, Mask]]]:
    yield from ((kind, split) for kind, split in splits.items() if kind != "random")


def _mape(log_ratio: FloatArray) -> float:
    return float(np.mean(np.abs(np.exp(log_ratio) - 1)))


def _ends(values: FloatArray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _check(name: str, held: Measurements) -> None:
    of = f" of {name}" if name else ""
    asked = np.column_stack([held.rows.workers, held.rows.nodes, held.rows.worker_batch])
    if len(np.unique(asked, axis=0)) < 2:
        raise NotEnoughDataError(
            f"a model of step times needs two configurations or more{of}, got {len(np.unique(asked, axis=0))} in "
            f"{len(asked)} row{'s' * (len(asked) != 1)}: measure other numbers of workers"
        )
