"""A vmapped function as the list of operations that it comes down to: the same bits without the interpreters' cost.

torch.func takes about a millisecond a call to find out which operations to run, which for small models is most of a
step. Once a function has been called often on tensors of the same shapes, what it runs is recorded (make_fx) and
replayed. Nothing is compiled or reordered, only what changes nothing is left out; a recording that does not give every
bit of the original is thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.graph import CodeGen
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

PAYS_AFTER = 150
"""Calls on the same shapes before a recording is made, which costs about as much as it saves in as many more."""

KEPT = 4
"""Shapes that are remembered: of plain steps, of two sizes of shards or pieces, and one more."""


@dataclass(slots=True)
class _Seen:
    """Calls on tensors of some shapes, and their recording once there is one."""

    calls: int = 0
    recording: Callable[[list[Tensor]], Any] | None = None


class Traced:
    """A pure function of trees of tensors, recorded where it is called often.

    Args:
        function: of six arguments, as an engine's kernel calls it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._due = False
        self._seen: dict[tuple[object, ...], _Seen] = {}

    def __call__(self, *arguments: Any) -> Any:  # noqa: ANN401  # trees of tensors
        """What the function gives."""
        leaves = tree_leaves(arguments)
        shapes = tuple((t.shape, t.stride(), t.dtype) for t in leaves)
        if shapes not in self._seen and len(self._seen) == KEPT:
            del self._seen[next(iter(self._seen))]
        seen = self._seen.setdefault(shapes, _Seen())
        seen.calls += 1
        if seen.recording is not None:
            return seen.recording(leaves)
        found = self._function(*arguments)
        if self._due or seen.calls == PAYS_AFTER:
            seen.recording, self._due = recorded(self._function, arguments, found), False
        return found

    def record(self) -> None:
        """Record the next call of which there is no recording, because many like it are to come."""
        self._due = True


def recorded(
    function: Callable[..., Any], arguments: tuple[Any, ...], found: object
) -> Callable[[list[Tensor]], Any] | None:
    """The operations of a call as a function of the leaves of its arguments.

    None if they cannot be recorded or do not give every bit of what the call gave.

    >>> arguments = (torch.ones(2), {}, {}, {}, {}, {})
    >>> double = recorded(lambda a, b, c, d, e, f: {"twice": a * 2}, arguments, {"twice": torch.full((2,), 2.0)})
    >>> double([torch.tensor([3.0, 4.0])])
    {'twice': tensor([6., 8.])}
    """
    expected, structure = tree_flatten(found)
    try:
        recording = make_fx(lambda a, b, c, d, e, f: function(a, b, c, d, e, f))(*arguments)
        _shorten(recording.graph)
        recording.graph.set_codegen(CodeGen())  # leaves in, leaves out
        recording.recompile()
        again = recording(*tree_leaves(arguments))
    except Exception:  # noqa: BLE001  # a model that cannot be recorded is run as it is
        return None
    if len(again) != len(expected) or not all(_same_bits(a, b) for a, b in zip(again, expected, strict=True)):
        return None
    return lambda leaves: tree_unflatten(recording(*leaves), structure)


def _shorten(graph: Graph) -> None:
    """Leave out views of the same shape and strides as what they view, and what was computed before.

    vmap records many of both, and each costs a call. A recording that writes in place is left as it is.
    """
    calls: list[Any] = [node for node in graph.nodes if node.op == "call_function"]
    if any(node.target._schema.is_mutable for node in calls if hasattr(node.target, "_schema")):
        return
    aten = torch.ops.aten
    views = {aten.expand.default, aten.view.default, aten._unsafe_view.default}
    first: dict[str, Any] = {}
    for node in calls:
        same = first.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
        if same is not node:
            node.replace_all_uses_with(same)
        elif node.target in views:
            of, is_ = node.args[0].meta["val"], node.meta["val"]
            if of.shape == is_.shape and of.stride() == is_.stride():
                node.replace_all_uses_with(node.args[0])
    graph.eliminate_dead_code()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, NaN being equal to NaN."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=0.0, atol=0.0, equal_nan=True)
