"""What the commands print: JSON by the shipped schemas, and tables to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from scaleexp.simulate.model_file import VERSION
from scaleexp.simulate.step_time import CONFIDENCE, StepTimeModel
from scaleexp.simulate.validation import Errors


def prediction(model: StepTimeModel, asked: Mapping[str, Any], group: str | None) -> dict[str, Any]:
    """One entry of `predictions`.

    Args:
        model: to ask.
        asked: workers, nodes, worker_batch, accumulation_steps; grad_bytes and parallelism where they are given.
        group: which one.

    Raises:
        ConfigError: a configuration that cannot be, or an unknown group.
    """
    found = model.predict(**asked, group=group)
    told = found.status.item() != "refused"
    return {
        **({"group": group if group is not None else next(iter(model.groups))} if model.group_by else {}),
        **{name: _plain(value) for name, value in asked.items()},
        "step_time_s": found.step_time_s.item() if told else None,
        "interval": [end.item() for end in found.interval] if told else None,
        "parts_s": {name: seconds.item() for name, seconds in found.parts.items()} if told else None,
        "status": found.status.item(),
        "reason": found.reason.item(),
    }


def predictions_document(predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`simulate predict --json`."""
    return {"schema_version": VERSION, "confidence": CONFIDENCE, "predictions": list(predictions)}


def predictions_text(predictions: Sequence[Mapping[str, Any]]) -> str:
    """The same as a table."""
    head = ("workers", "nodes", "worker_batch", "step time", "90 % interval", "of it communication", "")
    lines: list[tuple[str, ...]] = []
    for p in predictions:
        told = p["step_time_s"] is not None
        share = p["parts_s"]["communication"] / p["step_time_s"] if told else 0.0
        cells = (
            *(f"{p[name]:g}" for name in head[:3]),
            seconds(p["step_time_s"]) if told else "-",
            f"{seconds(p['interval'][0])} to {seconds(p['interval'][1])}" if told else "-",
            f"{share:.0%}" if told else "-",
            f"{p['status']}{': ' * bool(p['reason'])}{p['reason']}",
        )
        lines.append((p["group"], *cells) if "group" in p else cells)
    return table([("group", *head) if lines and len(lines[0]) > len(head) else head, *lines])


def validation_document(found: Sequence[Errors]) -> dict[str, Any]:
    """`simulate validate --json`."""
    return {
        "schema_version": VERSION,
        "confidence": CONFIDENCE,
        "errors": [
            {
                "group": e.group,
                "rows_fitted": e.trained,
                "rows_predicted": e.tested,
                "rows_refused": e.refused,
                **_numbers((e.mape, e.median, e.worst_tenth)),
                "interval_coverage": e.coverage if isfinite(e.coverage) else None,
                "baselines": {name: _numbers(values) for name, values in e.baselines.items()},
            }
            for e in found
        ],
    }


def validation_text(found: Sequence[Errors]) -> str:
    """The same as a table: a line for the model, and one for each baseline, of every group."""
    lines: list[tuple[str, ...]] = [
        ("group", "rows", "predicted by", "mean error", "median", "90th percentile", "in 90 % interval")
    ]
    for e in found:
        told = f"{e.tested}" + (f", {e.refused} refused" if e.refused else "")
        lines.append((e.group, told, "model", *_percents((e.mape, e.median, e.worst_tenth)), _percent(e.coverage)))
        lines += [("", "", name, *_percents(values), "") for name, values in e.baselines.items()]
    return table(lines)


def fit_text(model: StepTimeModel) -> str:
    """What was fitted: what each group was measured at, and its forms."""
    lines: list[tuple[str, ...]] = [
        ("group", "rows", "workers", "nodes", "micro-batch", "scatter", "forms by weight (error on held-out rows)")
    ]
    for name, group in model.groups.items():
        m = group.measured
        assert m is not None
        ranked = sorted(group.members, key=lambda member: -member.weight)
        told = ", ".join(
            f"{x.form.name} {x.weight:.0%}" + (f" ({x.error:.1%})" if isfinite(x.error) else "") for x in ranked
        )
        two = "; two nodes have terms of their own" if ranked[0].form.two_nodes else ""
        ends = (f"{low:g}" if low == high else f"{low:g}-{high:g}" for low, high in (m.workers, m.nodes, m.micro_batch))
        lines.append((name or "-", f"{m.rows}", *ends, f"{group.spread:.1%}", told + two))
    return table(lines)


def seconds(value: float) -> str:
    """A duration with three digits.

    >>> seconds(0.01234), seconds(1.5)
    ('12.3 ms', '1.5 s')
    """
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the last one as long as it is."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(line[:-1], widths, strict=True)), line[-1]]).rstrip() for line in lines
    )


def _numbers(values: tuple[float, float, float]) -> dict[str, float | None]:
    names = ("mean_error", "median_error", "p90_error")
    return {name: value if isfinite(value) else None for name, value in zip(names, values, strict=True)}


def _percents(values: tuple[float, float, float]) -> tuple[str, ...]:
    return tuple(_percent(value) for value in values)


def _percent(value: float) -> str:
    return f"{value:.1%}" if isfinite(value) else "-"


def _plain(value: Any) -> Any:  # noqa: ANN401  # a number or a word
    return int(value) if isinstance(value, float) and value == int(value) else value
