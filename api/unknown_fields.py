"""What a refusal of an unknown field says: which one is meant, or that it cannot be changed."""

from collections.abc import Collection, Mapping, Sequence
from http import HTTPMethod
from typing import Any, get_args

import msgspec
from fastapi import Request
from pydantic import BaseModel

from api.schemas import ApiModel
from everhook.field_errors import UNCHANGEABLE, UNKNOWN, unknown_words, words

Location = Sequence[int | str]


def unknown_field(request: Request, location: Location) -> tuple[str, str]:
    """The code and the message for a field of a body that its model does not have."""
    route = request.scope.get("route")
    *parents, name = location[1:]
    name = str(name)
    body = getattr(getattr(route, "body_field", None), "field_info", None)
    model = _model_at(getattr(body, "annotation", None), parents)
    if model is None:
        return UNKNOWN, words(UNKNOWN)
    if issubclass(model, ApiModel) and name in model.elsewhere:
        return UNCHANGEABLE, model.elsewhere[name]
    if request.method == HTTPMethod.PATCH:
        shown = _model_at(getattr(route, "response_model", None), parents)
        if shown is not None and name in _names(shown):
            return UNCHANGEABLE, "cannot be changed"
    return UNKNOWN, unknown_words(name, _names(model))


def names_in(struct: type, path: Sequence[str]) -> Collection[str]:
    """The names of the fields of a struct of msgspec, or of the struct at a path in it, without indexes."""
    found: Mapping[str, Any] = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    for part in path:
        inner = [kind for kind in _kinds(found.get(part)) if issubclass(kind, msgspec.Struct)]
        if not inner:
            return ()
        found = {field.encode_name: field.type for field in msgspec.structs.fields(inner[0])}
    return found.keys()


def _model_at(annotation: Any, location: Location) -> type[BaseModel] | None:
    """The model at a place in a body. The location has the names of fields and the indexes of lists."""
    found = next((kind for kind in _kinds(annotation) if issubclass(kind, BaseModel)), None)
    if not location or found is None:
        return found if not location else None
    part, *rest = location
    if isinstance(part, int):
        return _model_at(annotation, rest)
    field = next((each for name, each in found.model_fields.items() if part in (each.alias, name)), None)
    return _model_at(field.annotation, rest) if field is not None else None


def _kinds(annotation: Any) -> list[type]:
    """The classes in an annotation, such as `list[X] | None`."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _kinds(part)]


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
