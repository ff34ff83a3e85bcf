"""What communication should cost before any of it is measured: bytes of the gradients over the links of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from scaleexp.errors import ConfigError
from scaleexp.hardware_profile import HardwareProfile
from scaleexp.simulate.forms import COUNTED, FORMS, TRANSFERS, Form, Rows
from scaleexp.simulate.measurements import Measurements

FloatArray = npt.NDArray[np.float64]

LINK_EFFICIENCY = (0.3, 0.9)
"""Share of a link's peak that collectives attain: a range that holds 95 % of what is thought likely."""
_MIDDLE = float(np.sqrt(LINK_EFFICIENCY[0] * LINK_EFFICIENCY[1]))


def informed(groups: Mapping[str, Measurements], profile: HardwareProfile) -> dict[str, Measurements]:
    """The measurements with what their communication should cost on this hardware.

    Raises:
        ConfigError: a group does not say its gradients' bytes, or the profile nothing of any link.
    """
    found = {}
    for name, held in groups.items():
        if held.grad_bytes is None:
            of = f" of {name}" if name else ""
            raise ConfigError(
                f"--hardware tells what communication costs from the bytes sent, and not every row{of} says them: add "
                "a column grad_bytes (four times the parameters, of 32-bit gradients)"
            )
        found[name] = replace(held, expected=expected_terms(profile, held.grad_bytes, held.rows))
    return found


def expected_terms(profile: HardwareProfile, grad_bytes: float, rows: Rows) -> Mapping[tuple[str, bool], FloatArray]:
    """(Form, whether two nodes have terms of their own) -> seconds that each of its terms should cost, shape (terms,).

    A transfer counts V / (bandwidth x 0.52), the geometric middle of `LINK_EFFICIENCY`, and a hop the link's latency.
    Between nodes, workers on one node share what all their network cards carry: bandwidth x workers on a node. The same
    bytes count once: where a form has several terms for them, the first of `ring`, `node_ring`, `pipelined` has them. A
    figure that the profile lacks says nothing (0 s), as without a profile.

    Args:
        profile: of the hardware; bandwidths are those of one device.
        grad_bytes: V, of a volume of 1.
        rows: what is measured: how many workers are on a node.

    Raises:
        ConfigError: the profile says nothing of any link.
    """
    links = {"inside": "intra_node", "two_nodes": "inter_node", "between": "inter_node"}
    figures = {
        regime: (getattr(profile, f"{link}_bytes_per_s"), getattr(profile, f"{link}_latency_s"))
        for regime, link in links.items()
    }
    if not any(rate for rate, _ in figures.values()):
        raise ConfigError(
            f"the profile of {profile.name} has neither intra_node_bytes_per_s nor inter_node_bytes_per_s, so it says "
            "nothing of communication: copy it, say yours with its source, and give the file to --hardware"
        )
    several = rows.nodes > 1
    sharing = float(np.median((rows.workers / rows.nodes)[several])) if several.any() else 1.0
    return {
        (name, two): np.array([_seconds(term, form.terms, figures, grad_bytes, sharing) for term in form.terms])
        for name in FORMS
        for two in (False, True)
        for form in [Form(name=name, two_nodes=two)]
    }


def _seconds(
    term: str,
    terms: tuple[str, ...],
    figures: Mapping[str, tuple[float | None, float | None]],
    grad_bytes: float,
    sharing: float,
) -> float:
    regime, _, name = term.partition(".")
    rate, latency = figures["inside" if name == "local_ring" else regime]
    if name in TRANSFERS:
        first = name == "local_ring" or term == next(f"{regime}.{x}" for x in COUNTED if f"{regime}.{x}" in terms)
        cards = 1.0 if regime == "inside" or name == "local_ring" else sharing
        return grad_bytes / (rate * cards * _MIDDLE) if rate and first else 0.0
    return latency if latency and name != "slowest" else 0.0
