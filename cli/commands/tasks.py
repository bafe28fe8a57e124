"""`everhook tasks`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.command import Session, command
from cli.formatting import age, when
from cli.options import DEFAULT_LIMIT, Limit, Yes, json_object
from cli.output import Output, lines, pairs, pretty_json
from everhook_client import calls
from everhook_client.models import Task, TaskDetail

app = typer.Typer(help="What inboxes ask people: list, show, decide, delegate, comment.", no_args_is_help=True)

EXAMPLE = "tsk_…"

Gid = Annotated[str, typer.Argument(help="The task's gid (tsk_…).", show_default=False)]
Comment = Annotated[str, typer.Option(help="A comment; it is recorded.")]


class State(StrEnum):
    """What became of a task."""

    OPEN = "open"
    DECIDED = "decided"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Selection:
    """Which tasks: options are combined with AND, repeated options match any value."""

    state: Annotated[list[State] | None, typer.Option(help="Can be repeated.")] = None
    inbox: Annotated[list[str] | None, typer.Option(help="An inbox, by its gid (ep_…); can be repeated.")] = None
    assignee: Annotated[str | None, typer.Option(help="Someone who is named among those who are asked.")] = None
    overdue: Annotated[bool, typer.Option("--overdue", help="Open ones that are past their due date.")] = False

    def given(self) -> dict[str, Any]:
        """The parts that are given, as the client names them."""
        return {name: value for name, value in vars(self).items() if value}


@command(app, "list", examples=["tasks list --state open", "tasks list --assignee ann@acme.example --overdue"])
def list_tasks(session: Session, selection: Selection, limit: Limit = DEFAULT_LIMIT) -> None:
    """List tasks, newest first."""
    found = list(session.api.items(calls.list_tasks(**selection.given()), limit))
    session.out.show(found, lambda tasks: _table(session.out, tasks))


@command(app, "show", examples=[f"tasks show {EXAMPLE}"])
def show_task(session: Session, gid: Gid) -> None:
    """Show one task: what is asked, its payload, comments and decisions."""
    session.out.show_text(session.api.text(calls.get_task(gid)), _detail)


@command(
    app,
    "decide",
    examples=[
        f"tasks decide {EXAMPLE} approved",
        f"tasks decide {EXAMPLE} rejected --comment 'too expensive' --yes",
        f"""tasks decide {EXAMPLE} approved --data '{{"costCentre": "4711"}}' --version 1""",
    ],
)
def decide(
    session: Session,
    gid: Gid,
    outcome: Annotated[str, typer.Argument(help="One of the task's outcomes.", show_default=False)],
    comment: Comment = "",
    data: Annotated[str | None, typer.Option(help="What the form asks for, as a JSON object.")] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="The version that you have read; by default the task is shown first.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Decide a task in your name. It cannot be undone."""
    form = json_object("--data", data) if data is not None else None
    if version is None:
        asked = session.api.call(calls.get_task(gid))
        if not yes:
            session.out.aside.print(_detail(asked))
        version = asked["version"]
    session.out.confirm(f"Decide {gid} as {outcome} at {session.target.url}?", yes=yes)
    call = calls.decide_task(gid, outcome, version=version, comment=comment, data=form)
    session.out.show_text(session.api.text(call), _decided)


@command(app, "delegate", examples=[f"tasks delegate {EXAMPLE} bo@acme.example --comment 'on leave'"])
def delegate(
    session: Session,
    gid: Gid,
    to: Annotated[str, typer.Argument(help="Who decides instead of you: a name, or group:<name>.", show_default=False)],
    comment: Comment = "",
) -> None:
    """Have someone else decide instead of you."""
    text = session.api.text(calls.delegate_task(gid, to, comment=comment))
    session.out.show_text(text, lambda task: f"{task['taskGid']} asks {', '.join(task['assignees'])}")


@command(app, "comment", examples=[f"tasks comment {EXAMPLE} 'I asked the supplier.'"])
def comment_on_task(
    session: Session, gid: Gid, comment: Annotated[str, typer.Argument(help="The comment.", show_default=False)]
) -> None:
    """Add a comment, which decides nothing."""
    text = session.api.text(calls.comment_on_task(gid, comment))
    session.out.show_text(text, lambda task: f"{task['taskGid']}: the comment is recorded")


def _table(out: Output, tasks: list[Task]) -> Table | str:
    if not tasks:
        return "No task matches"
    rows = out.table("task", "title", "state", "asks", "due", wide=("asks",))
    for task in tasks:
        rows.add(
            task=task["taskGid"],
            title=task["title"],
            state=_state(task),
            asks=", ".join(task["assignees"]) or "everyone",
            due=age(task["dueAt"]),
        )
    return rows.table


def _state(task: Task) -> str:
    return "overdue" if task["overdue"] else task["outcome"] or task["state"]


def _decided(task: TaskDetail) -> str:
    if task["state"] == "open":
        return f"{task['taskGid']}: your decision is recorded. More people have to agree."
    return f"{task['taskGid']} is decided: {task['outcome']}. Receipt: {task['receiptGid'] or 'none'}"


def _detail(task: TaskDetail) -> Group:
    document = task["task"]
    card = pairs(
        [
            ("task", task["taskGid"]),
            ("title", task["title"]),
            ("state", _state(task)),
            ("version", str(task["version"])),
            ("inbox", task["inbox"]),
            ("asks", ", ".join(task["assignees"]) or "everyone who may use the inbox"),
            ("due", when(task["dueAt"])),
            ("outcomes", ", ".join(str(each["name"]) for each in _members(document, "outcomes"))),
            ("published by", task["requestedBy"]),
            ("decided by", task["decidedBy"]),
            ("comment", task["comment"]),
            ("receipt", task["receiptGid"]),
        ]
    )
    parts: list[Table | Text] = [card]
    named = (("description", document.get("description")), ("form", document.get("form")), ("data", task["data"]))
    for name, value in (*named, ("payload", task["payload"]), ("history", task["notes"])):
        if value:
            parts += [Text(name, style="bold"), lines(value if isinstance(value, str) else pretty_json(value))]
    return Group(*parts)


def _members(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
