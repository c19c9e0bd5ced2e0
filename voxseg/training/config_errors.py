"""What pydantic finds wrong with a config, as one line that names the key and what is allowed there."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from voxseg.errors import UserError


def explain(model: type[BaseModel], error: ValidationError, file: str, overridden: Sequence[str] = ()) -> UserError:
    """The first problem as one line, with the number of the others behind it.

    Args:
        model: of the whole config.
        error: what validating it raised.
        file: name of the file, for the message.
        overridden: dotted keys whose values come from the command line and not from the file.
    """
    problems = error.errors()
    # An unknown key often is why another one is missing, so that it is shown first.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    location = [part for part in first["loc"] if not isinstance(part, str) or "[" not in part]
    key = ".".join(map(str, location))
    subject = f"--set {key}" if key in overridden else f"{file}: {key}" if key else file
    others = len(problems) - 1
    more = f" (and {others} more)" if others else ""
    if first["type"] == "extra_forbidden":
        return UserError(subject, "unknown key", f"{_suggestion(model, location)}{more}")
    if first["type"] == "missing":
        return UserError(subject, "is missing", f"add it{more}")
    message = first["msg"].removeprefix("Value error, ")
    subject_of_rule, rule, _ = message.partition(" should ")
    if rule and subject_of_rule in ("Input", "String", "List", "Tuple", "Dictionary"):
        shown = repr(first["input"])
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        remedy = message.replace(subject_of_rule, "it", 1)
        return UserError(subject, f"{shown} is not allowed", f"{remedy}{more}")
    return UserError(subject, message, f"correct it{more}")


def _suggestion(config: type[BaseModel], location: Sequence[int | str]) -> str:
    names = _keys(config, location[:-1])
    key = str(location[-1])
    nearest = difflib.get_close_matches(key, names, n=1, cutoff=0.5) or [name for name in names if key in name]
    if nearest:
        return f"did you mean '{nearest[0]}'?"
    # The key may be right and stand in the wrong block.
    for block, field in config.model_fields.items():
        model = _model(field.annotation)
        if model and key in model.model_fields:
            return f"did you mean '{block}.{key}'?"
    return f"allowed are: {', '.join(names)}" if names else "remove it"


def _keys(config: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] | None = config
    for part in location:
        field = model.model_fields.get(str(part)) if model else None
        if field is not None:
            model = _model(field.annotation)
        elif not isinstance(part, int):
            return []
    return list(model.model_fields) if model else []


def _model(annotation: Any) -> type[BaseModel] | None:
    """The config block inside an annotation such as `Block`, `Block | None` or `list[Block]`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    for argument in typing.get_args(annotation):
        model = _model(argument)
        if model:
            return model
    return None
