"""Channels, each with a picture of its schedule and the steps of its gate."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.channels.schemas import ChannelIn, ChannelPatch
from api.dashboard import charts, circuit_form, policy_form, states
from api.dashboard.charts import Chart
from api.dashboard.endpoint_names import inbox_name
from api.dashboard.forms import Form, FormError, wrong_fields
from api.dashboard.numbers import number
from api.dashboard.pages import (
    AdminFormDep,
    OperatorDep,
    Pager,
    PageRoute,
    StoreDep,
    Viewer,
    after,
    pager,
    render,
    render_form,
    see_other,
)
from api.dependencies import ServicesDep
from api.problems import Problem, invalid
from api.schemas import Policy
from everhook.delivery.policy import DeliveryPolicy, readable, resolve
from everhook.errors import DomainError, InvalidField, NotFound
from everhook.event_types.modes import ValidationMode
from everhook.inbox.tasks import DEFAULT_DUE_S, OnDue, defaults_of
from everhook.notifications.events import is_reserved
from everhook.storage.tables import Channel, Endpoint

PAGE = 25

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/channels")


@dataclass(frozen=True)
class Step:
    """A step of a gate: the inbox that is asked, by gid and name, the filter of the step as JSON, how long people have,
    and what happens then. A publish may give its task another time."""

    gid: str
    inbox: str
    is_deleted: bool
    condition: str
    due_after: timedelta
    then: str

    @classmethod
    def of(cls, document: Mapping[str, Any], inbox: Endpoint | None) -> "Step":
        task = (defaults_of(inbox.options) if inbox is not None else {}) | (document.get("task") or {})
        return cls(
            gid=document["inbox"],
            inbox=inbox_name(inbox) if inbox is not None else document["inbox"],
            is_deleted=inbox is None or inbox.deleted_at is not None,
            condition=json.dumps(document["filter"], ensure_ascii=False) if document.get("filter") else "",
            due_after=timedelta(seconds=task.get("dueSeconds") or DEFAULT_DUE_S),
            then=states.ON_DUE[OnDue(task.get("onDue") or OnDue.EXPIRE)],
        )


@dataclass(frozen=True)
class Line:
    channel: Channel
    policy: DeliveryPolicy
    schedule: Chart
    gate: tuple[Step, ...]

    @property
    def is_ours(self) -> bool:
        """A channel of the system, which cannot be deleted."""
        return is_reserved(self.channel.name)

    @property
    def label(self) -> str:
        """The kind of the retry schedule, or its preset, in a few words."""
        written = readable(self.channel.policy)
        if "delaysSeconds" in written:
            return "delays of its own"
        return "exponential" if "exponential" in written else written.get("preset", "documented")


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    pager: Pager


@router.get("")
async def show_list(
    request: Request, viewer: OperatorDep, services: ServicesDep, store: StoreDep, cursor: str = ""
) -> Response:
    async with store.reading() as session:
        page = await services.channels.page(session, after=after("/channels", {}, cursor), limit=PAGE)
        gids = {step["inbox"] for row in page.rows for step in row.gates or ()}
        inboxes = await services.endpoints.by_gid(session, gids)
    view = ListView(
        lines=tuple(_line(row, inboxes) for row in page.rows),
        pager=pager("/channels", {}, cursor, page.next_key),
    )
    return render(request, "channels.html", viewer, title="Channels", nav="channels", v=view)


def _line(channel: Channel, inboxes: Mapping[str, Endpoint]) -> Line:
    policy = resolve(channel.policy)
    gate = tuple(Step.of(step, inboxes.get(step["inbox"])) for step in channel.gates or ())
    return Line(channel, policy, charts.schedule(policy, width=420), gate)


@router.get("/new")
async def ask_new(request: Request, viewer: OperatorDep) -> Response:
    return _form(request, viewer, {})


@router.post("/new")
async def create(
    request: Request, viewer: OperatorDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    try:
        new = ChannelIn(
            name=form.get("name"),
            policy=_policy(form),
            circuit=circuit_form.circuit(form),
            gates=_gates(form),
            validation=_validation(form),
            retention_days=_retention(form),
        )
        async with store.writing() as session:
            await services.channels.create(session, viewer.caller.actor, new.new())
    except (ValidationError, Problem, DomainError) as error:
        return _form(request, viewer, form.values, error=error)
    return see_other(viewer, "/channels", "created")


@router.get("/{name}/edit")
async def ask_edit(
    name: str, request: Request, viewer: OperatorDep, services: ServicesDep, store: StoreDep
) -> Response:
    async with store.reading() as session:
        channel = await services.channels.get(session, name)
    days = "" if channel.retention_days is None else f"{channel.retention_days:g}"
    values = {
        **policy_form.fields(channel.policy),
        **circuit_form.fields(channel.circuit),
        "gates": json.dumps(channel.gates, ensure_ascii=False, indent=2) if channel.gates else "",
        "validation": channel.validation,
        "retention": days,
    }
    return _form(request, viewer, values, name)


@router.post("/{name}/edit")
async def edit(
    name: str, request: Request, viewer: OperatorDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    try:
        changes = ChannelPatch(
            policy=_policy(form),
            gates=_gates(form),
            validation=_validation(form),
            retention_days=_retention(form),
            circuit=circuit_form.circuit(form),
        ).changes()
        if changes["gates"] is None:
            del changes["gates"]
        await services.channels.change(store, viewer.caller.actor, name, changes, only_different=True)
    except NotFound:
        raise
    except (ValidationError, Problem, DomainError) as error:
        return _form(request, viewer, form.values, name, error)
    return see_other(viewer, "/channels", "saved")


@router.post("/{name}/delete")
async def delete(
    name: str, viewer: OperatorDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    async with store.writing() as session:
        await services.channels.delete(session, viewer.caller.actor, name)
    return see_other(viewer, "/channels", "deleted")


VALIDATIONS = (
    (ValidationMode.OFF, "Are accepted; nothing is checked"),
    (ValidationMode.WARN, "Are accepted and flagged"),
    (ValidationMode.REJECT, "Are rejected"),
)


def _validation(form: Form) -> Any:
    """What pydantic checks."""
    return form.get("validation", ValidationMode.OFF)


def _retention(form: Form) -> float | None:
    return number(form.get("retention"), "retention") if "retention" in form else None


def _gates(form: Form) -> Any:
    """What pydantic checks. None: they stay as they are, for nothing may be sent without an approval by mistake."""
    if "gates" not in form:
        return None
    try:
        return json.loads(form.get("gates"))
    except (ValueError, RecursionError) as error:
        raise invalid("gates", "is not valid JSON") from error


def _explain(error: FormError) -> Mapping[str, str]:
    """What is wrong, by the field of the form: that of the gates is one for all of their parts."""
    if isinstance(error, InvalidField) and error.field.startswith("gates"):
        return {"gates": str(error)}
    return wrong_fields(error)


def _policy(form: Form) -> Policy | None:
    spec = policy_form.policy(form)
    return Policy(**spec) if spec is not None else None


def _form(
    request: Request,
    viewer: Viewer,
    values: Mapping[str, str],
    name: str | None = None,
    error: FormError | None = None,
) -> Response:
    return render_form(
        request,
        "channel_form.html",
        viewer,
        error,
        title=f"Edit {name}" if name is not None else "New channel",
        nav="channels",
        explain=_explain,
        name=name,
        values=values,
        schedules=policy_form.SCHEDULES,
        validations=[(mode.value, label) for mode, label in VALIDATIONS],
        circuit_hint="Of the endpoints that subscribe. Empty: as the environment says",
    )
