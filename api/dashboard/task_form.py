"""A task as people see it: what is asked, the form of its JSON Schema as fields, and what comes back from them.

It serves the pages of the dashboard and the portal, and the page that a link opens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from api.dashboard.endpoint_names import endpoint_title
from api.dashboard.forms import Form
from api.dashboard.numbers import finite
from api.problem_types import type_of
from api.tasks.schemas import MAX_COMMENT
from everhook.decisions.service import SubmittedDecision, TaskService, TaskView, is_asked, why_not
from everhook.errors import (
    AlreadyDecided,
    DomainError,
    Forbidden,
    InvalidField,
    PayloadErased,
    TaskChanged,
)
from everhook.inbox.tasks import DEFAULT_DUE_S, Effect, Outcome, Person, check_comment, outcome_of, wrong_data
from everhook.storage.tables import TaskDecision, TaskState
from everhook.storage.tenant_scope import TenantScope

LONG_TEXT = 200
"""From this many characters on, a text gets a field of several lines."""

BUTTONS = {
    "approved": "Approve",
    "rejected": "Reject",
    "changes_requested": "Request changes",
    "confirmed": "Confirm",
    "denied": "Deny",
    "submitted": "Submit",
    "assigned": "Accept",
    "declined": "Decline",
    "provided": "Provide",
    "completed": "Mark as completed",
    "failed": "Mark as failed",
    "override_approved": "Approve the override",
}
"""What a person does to decide so, for outcomes that tasks have by default."""

_WHOLE = re.compile(r"-?[0-9]{1,15}")


@dataclass(frozen=True)
class FormField:
    """A field as HTML shows it. `kind`: `text`, `area`, `number`, `date` or `choice`."""

    name: str
    id: str
    label: str
    hint: str
    kind: str
    required: bool
    value: str
    attributes: Mapping[str, str]
    options: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Happening:
    """A line of the history. `what` is an outcome, or the kind of a note."""

    at: datetime
    what: str
    by: str = ""
    to: str = ""
    text: str = ""
    is_decision: bool = False


@dataclass(frozen=True)
class TaskPage:
    """One task for one person. `mine` is what the person decided, `values` what was typed, and `wrong` what is wrong
    with it, by the names of fields; under the empty name what concerns all of it. No values: the defaults."""

    view: TaskView
    person: Person
    may_act: bool = True
    values: Mapping[str, str] | None = None
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def document(self) -> Mapping[str, Any]:
        return self.view.row.task.document

    @property
    def fields(self) -> Sequence[FormField]:
        return fields_of(self.document.get("form"), self.values)

    @property
    def outcomes(self) -> Sequence[Outcome]:
        return [outcome_of(self.document, each["name"]) for each in self.document["outcomes"]]

    @property
    def outcomes_with_comment(self) -> str:
        return " or ".join(button(each.name) for each in self.outcomes if each.comment == "required")

    @property
    def outcomes_with_form(self) -> str:
        return " or ".join(button(each.name) for each in self.outcomes if each.effect is Effect.PASS)

    @property
    def mine(self) -> TaskDecision | None:
        return next((each for each in self.view.decisions if each.actor == self.person.name), None)

    @property
    def history(self) -> Sequence[Happening]:
        """What happened since the task was opened, oldest first."""
        other = self.view.row.escalated_to
        names = {other.gid: endpoint_title(other)} if other is not None else {}
        noted = [
            Happening(
                at=datetime.fromisoformat(each["at"]),
                what=each["kind"],
                by=each.get("by", ""),
                to=names.get(each.get("to", ""), each.get("to", "")),
                text=each.get("comment") or each.get("error") or "",
            )
            for each in self.view.row.task.notes
        ]
        decided = [
            Happening(each.decided_at, each.outcome, each.actor, text=each.comment or "", is_decision=True)
            for each in self.view.decisions
        ]
        return sorted([*noted, *decided], key=lambda each: each.at)

    @property
    def is_open(self) -> bool:
        return self.view.row.task.state is TaskState.OPEN

    @property
    def why_not(self) -> str | None:
        """Why the person may not decide; None for one who may."""
        return why_not(self.view.row.task, self.view.row.inboxes, self.person)

    @property
    def asks_others(self) -> bool:
        """Whether the person is not asked."""
        return not is_asked(self.view.row.task, self.view.row.inboxes, self.person)

    @property
    def may_decide(self) -> bool:
        return self.is_open and self.may_act and self.mine is None and self.why_not is None


@dataclass(frozen=True)
class Refusal:
    """Why nothing was decided, by the fields of the form."""

    status: HTTPStatus
    wrong: Mapping[str, str]


def words(name: str) -> str:
    """The name of an outcome for people: `Changes requested`."""
    return name.replace("_", " ").capitalize()


def button(outcome: str) -> str:
    """The label of the button that decides so: `Request changes`."""
    return BUTTONS.get(outcome) or words(outcome)


def due_after(task: Mapping[str, Any]) -> timedelta:
    """How long people have, by the defaults of an inbox."""
    return timedelta(seconds=task.get("dueSeconds", DEFAULT_DUE_S))


def fields_of(form: Mapping[str, Any] | None, values: Mapping[str, str] | None) -> Sequence[FormField]:
    """The fields of a form, with what was typed, or else the defaults."""
    if form is None:
        return ()
    required = form.get("required", ())
    return [
        _field(name, f"f-data-{at}", schema, name in required, values)
        for at, (name, schema) in enumerate(form["properties"].items())
    ]


def _field(
    name: str, id: str, schema: Mapping[str, Any], required: bool, values: Mapping[str, str] | None
) -> FormField:
    kind = _kind(schema)
    return FormField(
        name=_name(name),
        id=id,
        label=schema.get("title") or name,
        hint=schema.get("description", ""),
        kind=kind,
        required=required,
        value=_shown(schema.get("default")) if values is None else values.get(_name(name), ""),
        attributes=_attributes(schema, kind),
        options=_options(schema),
    )


def _name(name: str) -> str:
    return f"data.{name}"


def _kind(schema: Mapping[str, Any]) -> str:
    if "enum" in schema or schema["type"] == "boolean":
        return "choice"
    if schema["type"] in ("number", "integer"):
        return "number"
    if schema.get("format") == "date":
        return "date"
    return "area" if schema.get("maxLength", 0) > LONG_TEXT else "text"


def _options(schema: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    if "enum" in schema:
        return [(_shown(value), _shown(value)) for value in schema["enum"]]
    return [("true", "Yes"), ("false", "No")] if schema["type"] == "boolean" else ()


def _attributes(schema: Mapping[str, Any], kind: str) -> Mapping[str, str]:
    """The limits that HTML knows. All are checked again when the form comes back."""
    found: dict[str, Any] = {}
    if kind in ("text", "area"):
        found = {"minlength": schema.get("minLength"), "maxlength": schema.get("maxLength")}
    if kind == "number":
        whole = schema["type"] == "integer"
        found = {
            "min": schema.get("minimum"),
            "max": schema.get("maximum"),
            "step": "1" if whole else "any",
            "inputmode": "numeric" if whole and schema.get("minimum", -1) >= 0 else "decimal",
        }
    return {name: str(value) for name, value in found.items() if value is not None}


def _shown(value: Any) -> str:
    """A value as a field holds it."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_data(form: Mapping[str, Any] | None, sent: Form) -> tuple[dict[str, Any] | None, Mapping[str, str]]:
    """What was filled in, by the types of the form, and what is wrong with it by field. Empty fields are absent."""
    if form is None:
        return None, {}
    data: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for name, schema in form["properties"].items():
        if _name(name) in sent:
            try:
                data[name] = _value(schema, sent.get(_name(name)))
            except ValueError as error:
                wrong[_name(name)] = str(error)
    for each in wrong_data(form, data):
        wrong.setdefault(each.field, each.message)
    return data, wrong


def _value(schema: Mapping[str, Any], text: str) -> Any:
    """Raises ValueError that says what is wrong."""
    if "enum" in schema:
        found = [value for value in schema["enum"] if _shown(value) == text]
        if not found:
            raise ValueError("is none of those")
        return found[0]
    match schema["type"]:
        case "boolean":
            if text not in ("true", "false"):
                raise ValueError("is none of those")
            return text == "true"
        case "integer":
            if not _WHOLE.fullmatch(text):
                raise ValueError("is not a whole number, or has too many digits")
            return int(text)
        case "number":
            return _number(text)
    return text


def _number(text: str) -> int | float:
    if _WHOLE.fullmatch(text):
        return int(text)
    return finite(text)


async def decide(
    tasks: TaskService, scope: TenantScope, person: Person, view: TaskView, form: Form
) -> TaskView | Refusal:
    """Decide as a form says. An outcome that declines takes a comment and leaves out the fields of the form."""
    document = view.row.task.document
    data: dict[str, Any] | None = None
    wrong: dict[str, str] = {}
    try:
        outcome = outcome_of(document, form.get("outcome"))
        if outcome.effect is Effect.PASS:
            data, found = read_data(document.get("form"), form)
            wrong |= found
        if len(form.get("comment")) > MAX_COMMENT:
            wrong["comment"] = f"takes at most {MAX_COMMENT} characters"
        check_comment(outcome, form.get("comment"))
    except InvalidField as error:
        wrong.setdefault(error.field, error.message)
    if wrong:
        return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, wrong)
    version = form.get("version")
    submitted = SubmittedDecision(
        outcome.name, int(version) if _WHOLE.fullmatch(version) else 0, form.get("comment"), data
    )
    try:
        return await tasks.decide(scope, person, view.row.task.gid, submitted)
    except InvalidField as error:
        return refused(error, error.field)
    except (AlreadyDecided, TaskChanged, PayloadErased, Forbidden) as error:
        return refused(error)


def refused(error: DomainError, field: str = "") -> Refusal:
    """An error of a use case, for the page that the form is on."""
    message = error.message if isinstance(error, InvalidField) else str(error)
    return Refusal(type_of(error).status, {field: message})
