"""Tasks: what a person is asked, who may decide, and which outcomes a decision may have. Pure.

A task is a delivery to an inbox. The publisher may send a part of its document next to the payload; the defaults of the
inbox fill in the rest.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Annotated, Any, Literal

import orjson
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped]
from jsonschema.exceptions import ValidationError as JsonSchemaError  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from everhook.errors import InvalidField
from everhook.field_errors import MISSING, UNKNOWN, code_of, unknown_words, words, words_of
from everhook.ids import Kind, is_gid

GROUP = "group:"
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
MAX_FORM_FIELDS = 50
MAX_DUE_S = 366 * 24 * 3_600
DEFAULT_DUE_S = 3 * 24 * 3_600


class TaskKind(StrEnum):
    """The kind of a task. It sets the default outcomes."""

    APPROVAL = "approval"
    REVIEW = "review"
    CONFIRMATION = "confirmation"
    FORM = "form"
    ASSIGNMENT = "assignment"
    CLARIFICATION = "clarification"
    MANUAL_ACTION = "manual_action"
    OVERRIDE = "override"


class Effect(StrEnum):
    """What an outcome means for the delivery: it is delivered, or it is discarded with the reason `declined`."""

    PASS = "pass"  # noqa: S105 - not a password
    DECLINE = "decline"


class OnDue(StrEnum):
    """What follows when no one decided in time. `EXPIRE`: a dead letter, whose replay asks again. `DECLINE`, `PASS`:
    the first outcome with this effect."""

    EXPIRE = "expire"
    DECLINE = "decline"
    PASS = "pass"  # noqa: S105 - not a password


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True)


_Short = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Long = Annotated[str, StringConstraints(max_length=2_000, pattern=r"^[^\x00]*$")]
_OutcomeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]


class Outcome(_Part):
    """A possible outcome of a decision."""

    name: _OutcomeName
    effect: Annotated[Effect, Field(strict=False)] = Effect.PASS
    comment: Literal["required", "optional"] = "optional"


class Reminders(_Part):
    after_seconds: int = Field(ge=60, le=MAX_DUE_S)
    every_seconds: int = Field(ge=60, le=MAX_DUE_S)
    max: int = Field(ge=1, le=50)


def _person_or_inbox(to: str) -> str:
    if is_inbox(to) and not is_gid(to, Kind.ENDPOINT):
        raise ValueError("is not the gid of an endpoint")
    return to


def is_inbox(to: str) -> bool:
    """Whether an escalation goes to another inbox, rather than to a person or a group."""
    return to.startswith(Kind.ENDPOINT + "_")


class Escalation(_Part):
    """After how many reminders other people are asked as well: an assignee, a group, or another inbox."""

    after_reminders: int = Field(ge=0, le=50)
    to: Annotated[_Short, AfterValidator(_person_or_inbox)]


class Link(_Part):
    title: _Short
    url: Annotated[str, StringConstraints(max_length=2_000, pattern=r"^https?://[^\s\x00-\x1f]+$")]


class TaskSpec(_Part):
    """What a publisher may say about a task, and an inbox by default. Absent fields are None."""

    title: _Short | None = None
    description: _Long | None = None
    kind: Annotated[TaskKind, Field(strict=False)] | None = None
    outcomes: list[Outcome] | None = Field(None, min_length=1, max_length=10)
    form: dict[str, Any] | None = None
    assignees: list[_Short] | None = Field(None, max_length=50)
    exclude_requester: bool | None = None
    quorum: int | None = Field(None, ge=1, le=20)
    due_seconds: int | None = Field(None, ge=60, le=MAX_DUE_S)
    on_due: Annotated[OnDue, Field(strict=False)] | None = None
    reminders: Reminders | None = None
    escalation: Escalation | None = None
    links: list[Link] | None = Field(None, max_length=10)

    @field_validator("outcomes")
    @classmethod
    def _distinct(cls, outcomes: list[Outcome] | None) -> list[Outcome] | None:
        names = [each.name for each in outcomes or ()]
        if len(names) != len(set(names)):
            raise ValueError("each name may occur once")
        return outcomes

    @field_validator("form")
    @classmethod
    def _flat(cls, form: dict[str, Any] | None) -> dict[str, Any] | None:
        if form is not None:
            check_form(form)
        return form

    @field_validator("quorum")
    @classmethod
    def _can_be_met(cls, quorum: int | None, info: ValidationInfo) -> int | None:
        assignees = info.data.get("assignees") or ()  # absent if they are wrong themselves
        if not any(each.startswith(GROUP) for each in assignees) and asks_too_few(assignees, quorum, {}):
            raise ValueError("is more than the number of assignees")
        return quorum

    @field_validator("on_due")
    @classmethod
    def _can_be_chosen(cls, on_due: OnDue | None, info: ValidationInfo) -> OnDue | None:
        outcomes = info.data.get("outcomes") or ()
        if on_due is OnDue.PASS and outcomes and all(each.effect is not Effect.PASS for each in outcomes):
            raise ValueError("no outcome has the effect `pass`")
        return on_due

    def document(self) -> dict[str, Any]:
        """What was given, as JSON."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


_PLAIN: Mapping[TaskKind, Sequence[tuple[str, Effect, bool]]] = {
    TaskKind.APPROVAL: (("approved", Effect.PASS, False), ("rejected", Effect.DECLINE, True)),
    TaskKind.REVIEW: (
        ("approved", Effect.PASS, False),
        ("changes_requested", Effect.DECLINE, True),
        ("rejected", Effect.DECLINE, True),
    ),
    TaskKind.CONFIRMATION: (("confirmed", Effect.PASS, False), ("denied", Effect.DECLINE, False)),
    TaskKind.FORM: (("submitted", Effect.PASS, False),),
    TaskKind.ASSIGNMENT: (("assigned", Effect.PASS, False), ("declined", Effect.DECLINE, False)),
    TaskKind.CLARIFICATION: (("provided", Effect.PASS, False), ("declined", Effect.DECLINE, False)),
    TaskKind.MANUAL_ACTION: (("completed", Effect.PASS, False), ("failed", Effect.DECLINE, True)),
    TaskKind.OVERRIDE: (("override_approved", Effect.PASS, True), ("rejected", Effect.DECLINE, True)),
}


def default_outcomes(kind: TaskKind) -> list[dict[str, Any]]:
    """The outcomes of a kind, as a document has them."""
    return [
        {"name": name, "effect": effect.value, "comment": "required" if must else "optional"}
        for name, effect, must in _PLAIN[kind]
    ]


def parse_spec(given: Any, at: str) -> TaskSpec:
    """What a publisher sent, or an inbox has. `at` names it in errors. Raises InvalidField that names each member that
    is wrong."""
    try:
        return TaskSpec.model_validate(given)
    except ValidationError as error:
        wrong, *others = [_wrong_member(each, at) for each in error.errors(include_url=False, include_input=False)]
        wrong.others = others
        raise wrong from error


def _wrong_member(error: ErrorDetails, at: str) -> InvalidField:
    message, path, code = words_of(error), _path(error["loc"]), code_of(error)
    if code == UNKNOWN and len(error["loc"]) == 1:
        message = unknown_words(path, [to_camel(name) for name in TaskSpec.model_fields])
    fault = error.get("ctx", {}).get("error")
    if isinstance(fault, WrongForm):
        path = fault.place
    return InvalidField(f"{at}.{path}" if path else at, message[:1].lower() + message[1:], code)


def defaults_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the options of an inbox say about its tasks. Null is like absent: earlier versions stored it."""
    return {name: value for name, value in (options.get("task") or {}).items() if value is not None}


def title_of(document: Mapping[str, Any]) -> str:
    """The title in the document of a task. An earlier version stored null, if the inbox had null as the default."""
    return document.get("title") or "Untitled"


def groups_of(options: Mapping[str, Any]) -> dict[str, list[str]]:
    """The members of each group of an inbox."""
    return options.get("groups") or {}


def check_inbox(options: Mapping[str, Any]) -> None:
    """Check the defaults of an inbox's tasks. Raises InvalidField."""
    spec, groups = parse_spec(defaults_of(options), "options.task"), groups_of(options)
    for group, members in groups.items():
        if not all(map(_NAME.fullmatch, (group, *members))):
            raise InvalidField("options.groups", "takes names of 1 to 200 characters without control characters")
    named = {f"assignees[{index}]": name for index, name in enumerate(spec.assignees or ())}
    if spec.escalation is not None:
        named["escalation.to"] = spec.escalation.to
    for place, name in named.items():
        if name.startswith(GROUP) and (group := name.removeprefix(GROUP)) not in groups:
            raise InvalidField(f"options.task.{place}", f"the inbox has no group {group} in `options.groups`")
    if asks_too_few(spec.assignees or (), spec.quorum, groups):
        raise InvalidField("options.task.quorum", "is more than the number of people who are asked")


def _path(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def filled(given: Mapping[str, Any], defaults: Mapping[str, Any], title: str) -> dict[str, Any]:
    """The whole document of a task: what was given, then the defaults of the inbox, then those of the kind.

    Both parts were parsed before, so this never fails: it runs in the transaction that accepts the message. A kind that
    the publisher names brings its own outcomes.
    """
    if "kind" in given and "outcomes" not in given:
        defaults = {name: value for name, value in defaults.items() if name != "outcomes"}
    whole: dict[str, Any] = {
        "title": title[:200],
        "description": "",
        "kind": TaskKind.APPROVAL.value,
        "assignees": [],
        "excludeRequester": False,
        "quorum": 1,
        "dueSeconds": DEFAULT_DUE_S,
        "onDue": OnDue.EXPIRE.value,
        "links": [],
        **defaults,
        **given,
    }
    whole.setdefault("outcomes", default_outcomes(TaskKind(whole["kind"])))
    return whole


_SCALARS = ("string", "number", "integer", "boolean")
_FIELD_KEYWORDS = frozenset(
    {
        "type", "title", "description", "enum", "format", "default", "minLength", "maxLength",
        "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    }
)  # fmt: skip
"""No `pattern`: Python's regular expressions may take exponential time."""

_FORM_KEYWORDS = frozenset({"type", "required", "properties", "additionalProperties", "title", "description"})


class WrongForm(ValueError):
    """A form is no flat JSON Schema object. `place`: where, such as `form.properties.a.type`."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place


def check_form(form: Mapping[str, Any]) -> None:
    """Check that a form is one flat JSON Schema object. Raises WrongForm."""
    try:
        json.dumps(form, ensure_ascii=False, allow_nan=False).encode()
        orjson.dumps(form)
    except (ValueError, TypeError, RecursionError) as error:
        raise WrongForm("form", _UNFIT_JSON) from error
    _only(form, _FORM_KEYWORDS, "form")
    if form.get("type") != "object":
        raise WrongForm("form.type", "is `object`")
    properties = form.get("properties")
    if not isinstance(properties, dict) or not 1 <= len(properties) <= MAX_FORM_FIELDS:
        raise WrongForm("form.properties", f"takes 1 to {MAX_FORM_FIELDS} fields")
    for name, field in properties.items():
        _check_field(field, f"form.properties.{name}")
    required = form.get("required", [])
    if not isinstance(required, list) or any(not isinstance(name, str) or name not in properties for name in required):
        raise WrongForm("form.required", "names fields of `properties`")
    if form.get("additionalProperties", False) is not False:
        raise WrongForm("form.additionalProperties", "is `false`")
    errors = sorted(_meta.iter_errors(form), key=lambda each: len(each.path))
    if errors:
        raise WrongForm(_at("form", errors[0].path), errors[0].message[:200])


def _check_field(field: Any, at: str) -> None:
    if not isinstance(field, dict):
        raise WrongForm(at, "is an object")
    _only(field, _FIELD_KEYWORDS, at)
    if field.get("type") not in _SCALARS:
        raise WrongForm(f"{at}.type", f"is one of {', '.join(_SCALARS)}")
    if field.get("format", "date") != "date":
        raise WrongForm(f"{at}.format", "is `date`")
    if not _is_scalar(field.get("default", "")):
        raise WrongForm(f"{at}.default", "is a text, a number or a boolean")
    choices = field.get("enum", [""])
    if not isinstance(choices, list) or not all(map(_is_scalar, choices)):
        raise WrongForm(f"{at}.enum", "is a list of texts, numbers or booleans")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)  # True and False are integers of Python


def _only(part: Mapping[str, Any], known: Collection[str], at: str) -> None:
    if unknown := sorted(map(str, set(part) - set(known))):
        raise WrongForm(f"{at}.{unknown[0]}", "is not supported in a form")


_UNFIT_JSON = "has a number or a text that JSON in UTF-8 cannot hold, or is nested too deeply"
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1
"""The range of integers that are kept as integers."""

_DIGITS = 700
"""Enough for the quotient of any two floating-point numbers."""


def _multiple_of(_validator: Any, divisor: float, instance: Any, _schema: Any) -> Iterator[JsonSchemaError]:
    """In decimals: in binary fractions 19.99 is no multiple of 0.01."""
    if isinstance(instance, bool) or not isinstance(instance, int | float):
        return
    with localcontext(prec=_DIGITS):
        if Decimal(str(instance)) % Decimal(str(divisor)):
            yield JsonSchemaError(f"{instance!r} is not a multiple of {divisor}")


_DataValidator = extend(Draft202012Validator, {"multipleOf": _multiple_of})
_meta = Draft202012Validator(Draft202012Validator.META_SCHEMA)
_formats = FormatChecker(["date"])


def _at(root: str, path: Collection[int | str]) -> str:
    return f"{root}.{_path(list(path))}" if path else root


def check_data(form: Mapping[str, Any] | None, data: Mapping[str, Any] | None) -> None:
    """Check what was filled in. Raises InvalidField that names each field that is wrong."""
    if form is None:
        if data:
            raise InvalidField("data", "this task has no form")
        return
    wrong = wrong_data(form, data or {})
    if wrong:
        wrong[0].others = wrong[1:]
        raise wrong[0]


def wrong_data(form: Mapping[str, Any], data: Mapping[str, Any]) -> list[InvalidField]:
    """All that is wrong with what was filled in, by field."""
    properties = form["properties"]
    missing = [name for name in form.get("required", ()) if name not in data]
    found = [InvalidField(f"data.{name}", words(MISSING), MISSING) for name in missing]
    found += [
        InvalidField(f"data.{name}", "is not a field of the form", UNKNOWN) for name in sorted(data.keys() - properties)
    ]
    large = [name for name, value in data.items() if type(value) is int and not _SMALLEST <= value <= _LARGEST]
    found += [InvalidField(f"data.{name}", "takes at most 64 bits") for name in large]
    others = {name: value for name, value in data.items() if name not in large}
    validator = _DataValidator({"properties": properties}, format_checker=_formats)
    for error in sorted(validator.iter_errors(others), key=lambda each: [str(part) for part in each.path]):
        says = _RULES.get(error.validator, "does not fit the form: " + error.validator + " is {}")
        found.append(InvalidField(_at("data", error.path), says.format(_shown_rule(error.validator_value))[:300]))
    return found


_RULES = {
    "type": "has to be of the type {}",
    "enum": "has to be one of {}",
    "format": "has to be a {} such as 2026-01-31",
    "minLength": "takes at least {} characters",
    "maxLength": "takes at most {} characters",
    "minimum": "has to be at least {}",
    "maximum": "has to be at most {}",
    "exclusiveMinimum": "has to be more than {}",
    "exclusiveMaximum": "has to be less than {}",
    "multipleOf": "has to be a multiple of {}",
}


def _shown_rule(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Person:
    """Who decides. `identified_by`: `key`, `link` or `session`. `inboxes` are those that the person may see; None: all
    of the tenant's."""

    name: str
    key_gid: str | None = None
    address: str | None = None
    identified_by: str = "key"
    inboxes: frozenset[str] | None = None


def asks_too_few(assignees: Sequence[str], quorum: int | None, groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether fewer people are asked than have to agree. Without assignees, everyone is asked."""
    return bool(assignees) and len(people_of(assignees, groups)) < (quorum or 1)


def is_assignee(name: str, assignees: Sequence[str], groups: Mapping[str, Sequence[str]]) -> bool:
    """Whether a person is asked. A task without assignees asks everyone who has the inbox."""
    if not assignees or name in assignees:
        return True
    return any(name in groups.get(each.removeprefix(GROUP), ()) for each in assignees if each.startswith(GROUP))


def people_of(assignees: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of all who are asked, each once; empty if everyone is."""
    found: dict[str, None] = {}
    for each in assignees:
        members = groups.get(each.removeprefix(GROUP), ()) if each.startswith(GROUP) else (each,)
        found |= dict.fromkeys(members)
    return list(found)


def outcome_on_due(document: Mapping[str, Any]) -> Outcome | None:
    """The outcome that the due date decides. None if it expires, or should pass but no outcome has that effect."""
    on_due = document.get("onDue", OnDue.EXPIRE)
    if on_due == OnDue.EXPIRE:
        return None
    for each in document["outcomes"]:
        if each["effect"] == on_due:
            return Outcome.model_validate(each)
    return Outcome(name="declined", effect=Effect.DECLINE) if on_due == OnDue.DECLINE else None


def outcome_of(document: Mapping[str, Any], name: str) -> Outcome:
    """The outcome of that name. Raises InvalidField."""
    for each in document["outcomes"]:
        if each["name"] == name:
            return Outcome.model_validate(each)
    names = ", ".join(each["name"] for each in document["outcomes"])
    raise InvalidField("outcome", f"is one of {names}")


def check_comment(outcome: Outcome, comment: str) -> None:
    if outcome.comment == "required" and not comment.strip():
        raise InvalidField("comment", f"is required for the outcome {outcome.name}", "missing")
