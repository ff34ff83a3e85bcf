"""From a name in a study file to the object that it names.

Three kinds of name: a built-in one (`sgd`), `module:attribute` (`my_package.rules:cube_root`, any importable code,
no registration), and an entry point that an installed package declares in the group `scaleexp.<kind>s` (a blank in
the kind is an underscore in the group).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import isclass, signature
from typing import TypeVar, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from scaleexp.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, valid: Iterable[str]) -> str:
    """End of a sentence that points to the nearest valid name, or to all of them.

    >>> nearest("sqr", ["none", "sqrt"])
    "did you mean 'sqrt'?"
    >>> nearest("warmup", ["none", "sqrt"])
    'valid: none, sqrt.'
    """
    names = sorted(valid)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(names) or 'none at all'}."


def _installed(kind: str) -> dict[str, EntryPoint]:
    """Entry points of the group `scaleexp.<kind>s`, by name."""
    return {point.name: point for point in entry_points(group=f"scaleexp.{kind.replace(' ', '_')}s")}


def check_name(name: str, builtins: Mapping[str, object], kind: str) -> None:
    """Refuse a name that cannot be resolved, without importing anything.

    A `module:attribute` passes: only importing it can tell.

    Raises:
        ConfigError: with the nearest valid name.

    >>> check_name("sqrt", {"sqrt": abs}, "rule")
    """
    if name in builtins or (":" in name and all(name.split(":", 1))):
        return
    installed = _installed(kind)
    if name not in installed:
        raise ConfigError(f"There is no {kind} {name!r}; {nearest(name, [*builtins, *installed])}")


def resolve(name: str, builtins: Mapping[str, T], kind: str) -> T:
    """Object behind a name: built-in, `module:attribute`, or entry point of the group `scaleexp.<kind>s`.

    Args:
        name: as written in the study file.
        builtins: our own objects of this kind; they win over an entry point of the same name.
        kind: what is looked for, in the singular (workload, rule), for the group and for messages.

    Raises:
        ConfigError: if nothing has that name, or importing it fails.

    >>> resolve("math:sqrt", {}, "rule")(9.0)
    3.0
    """
    check_name(name, builtins, kind)
    if name in builtins:
        return builtins[name]
    try:
        if ":" not in name:
            return cast("T", _installed(kind)[name].load())
        module, attribute = name.split(":", 1)
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"Cannot load the {kind} {name!r}: {error}.") from error
    return cast("T", found)


def checked_options(
    what: str, function: Callable[..., object], options: Mapping[str, object], *, elsewhere: Iterable[str] = ()
) -> dict[str, object]:
    """Options of a study file as the types that a function or class annotates its parameters with.

    Args:
        what: its name for the message.
        function: what will be called with the options.
        options: as read from YAML; what has no annotation passes as it is.
        elsewhere: further valid names, for the message alone.

    Raises:
        ConfigError: an unknown name, with the nearest valid one, or a value of another type.

    >>> def power(exponent: int = 2) -> None: ...
    >>> checked_options("rule 'power'", power, {"exponent": 3.0})
    {'exponent': 3}
    """
    parameters = signature(function).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD and p.name != "dtype"]
    hints = get_type_hints(getattr(function, "__init__") if isclass(function) else function)  # noqa: B009  # mypy objects
    checked = {}
    for option, value in options.items():
        if option not in known and (not open_ended or option == "dtype"):
            raise ConfigError(f"The {what} has no option {option!r}; {nearest(option, [*known, *elsewhere])}")
        try:
            checked[option] = TypeAdapter(hints[option]).validate_python(value) if option in hints else value
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise ConfigError(f"The {what} cannot take {option} = {value!r}: {why[0].lower()}{why[1:]}.") from None
        if hints.get(option) in (int, float) and isinstance(value, bool):
            raise ConfigError(f"The {what} cannot take {option} = {value!r}: it is a number.")
    return checked
