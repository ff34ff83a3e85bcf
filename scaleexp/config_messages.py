"""From pydantic's list of errors to one sentence that a person can act on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scaleexp.plugins import nearest


def one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in one sentence, with its dotted path, and how many more there are."""
    everything = error.errors(include_url=False)
    places = [problem["loc"] for problem in everything]
    # A list all of whose items are wrong is also reported as too short: what lies deeper is the cause.
    problems = [p for p in everything if not any(q[: len(p["loc"])] == p["loc"] != q for q in places)]
    first = _sentence(problems[0], model).rstrip(".")
    if len(problems) > 1:
        return f"{first} (and {len(problems) - 1} more)."
    return first if first.endswith("?") else f"{first}."


def _sentence(problem: ErrorDetails, model: type[BaseModel]) -> str:
    place = _locate(model, problem["loc"])
    path, got, message = ".".join(place.names), problem["input"], problem["msg"]
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {path!r}; {nearest(place.names[-1], place.siblings)}"
        case "missing":
            return f"{path!r} is missing: {place.doc}"
        case "value_error":
            message = message.removeprefix("Value error, ")
            return f"{path}: {message}" if path else message
        case "union_tag_invalid" | "union_tag_not_found":
            tag = got.get("name") if isinstance(got, dict) else None
            return f"{path}.name is {_short(tag)}; {nearest(str(tag), place.tags)}"
        case "too_short" | "too_long" | "string_pattern_mismatch" | "string_too_short":
            return f"{path} is {_short(got)}; what is meant: {place.doc}"
        case "model_type" | "model_attributes_type" | "dict_type" | "tuple_type":
            form = "a list" if problem["type"] == "tuple_type" else "a mapping of keys to values"
            return f"{path or 'it'} is {_short(got)}; it must be {form}"
        case "invalid_key":
            return f"the key {place.names[-1]} is no text; {nearest(place.names[-1], place.siblings)}"
        case _:
            return f"{path} is {_short(got)}; {message.replace('Input should', 'it must')}"


def _short(value: object) -> str:
    """A value as YAML writes it, cut where it is long.

    >>> _short(None), _short([1, "a"])
    ('null', '[1, "a"]')
    """
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a problem is.

    Attributes:
        names: its path.
        siblings: keys that are valid beside its last part.
        doc: the field's line of documentation.
        tags: names that are valid one level below, where a name chooses the model.
    """

    names: list[str]
    siblings: list[str]
    doc: str
    tags: list[str]


def _locate(model: type[BaseModel], loc: Sequence[int | str]) -> _Place:
    """Follow pydantic's location down the models, leaving out the tags that it adds for unions."""
    models: list[type[BaseModel]] = [model]
    names: list[str] = []
    siblings: list[str] = []
    doc = ""
    for number, part in enumerate(loc):
        tagged = [candidate for candidate in models if part in _tags(candidate)]
        if tagged and number + 1 < len(loc):
            models = tagged
            continue
        names.append(str(part))
        if isinstance(part, int):
            continue
        siblings = sorted({field for candidate in models for field in candidate.model_fields})
        fields = [candidate.model_fields[part] for candidate in models if part in candidate.model_fields]
        doc = " ".join((fields[0].description or "").split()) if fields else ""
        models = [found for field in fields for found in _models_in(field.annotation)]
    return _Place(names=names, siblings=siblings, doc=doc, tags=[tag for found in models for tag in _tags(found)])


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of the field `name` that choose this model in a union."""
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - any type expression
    """Every model class inside a type expression."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
