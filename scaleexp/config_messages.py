"""From pydantic's list of errors to one sentence that a person can act on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from scaleexp.plugins import nearest


def one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem in one sentence, with its dotted path, and how many more there are."""
    problems = error.errors(include_url=False)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_sentence(problems[0], model).rstrip('.')}{more}."


def _sentence(problem: ErrorDetails, model: type[BaseModel]) -> str:
    names, siblings = _walk(model, problem["loc"])
    path, got, message = ".".join(names), problem["input"], problem["msg"]
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key {path!r}; {nearest(names[-1], siblings)}"
        case "missing":
            return f"{path!r} is missing"
        case "value_error":
            message = message.removeprefix("Value error, ")
            return f"{path}: {message}" if path else message
        case "union_tag_invalid" | "union_tag_not_found":
            tags = [tag.strip().strip("'") for tag in str(problem.get("ctx", {}).get("expected_tags", "")).split(",")]
            tag = got.get("name") if isinstance(got, dict) else got
            return f"{path}.name is {tag!r}; {nearest(str(tag), [t for t in tags if t])}"
        case _:
            return f"{path} is {_short(got)}; {message.replace('Input should', 'it should')}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _walk(model: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[str]]:
    """(dotted path without pydantic's union tags, keys that are valid beside its last part)."""
    models: list[type[BaseModel]] = [model]
    names: list[str] = []
    siblings: list[str] = []
    for number, part in enumerate(loc):
        tagged = [candidate for candidate in models if part in _tags(candidate)]
        if tagged and number + 1 < len(loc):
            models = tagged
            continue
        names.append(str(part))
        if isinstance(part, int):
            continue
        siblings = sorted({field for candidate in models for field in candidate.model_fields})
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)]
    return names, siblings


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
