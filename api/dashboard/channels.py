"""Channels, each with a picture of its schedule."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.channels.schemas import ChannelIn, ChannelPatch
from api.dashboard import charts, circuit_form, policy_form
from api.dashboard.charts import Chart
from api.dashboard.forms import Form, FormError
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
from api.problems import Problem
from api.schemas import Policy, circuit_of, spec_of
from everhook.delivery.policy import DeliveryPolicy, resolve
from everhook.errors import DomainError, NotFound
from everhook.event_types.modes import ValidationMode
from everhook.notifications.events import is_reserved
from everhook.storage.tables import Channel

PAGE = 25

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/channels")


@dataclass(frozen=True)
class Line:
    channel: Channel
    policy: DeliveryPolicy
    schedule: Chart

    @property
    def is_ours(self) -> bool:
        """A channel of the system, which cannot be deleted."""
        return is_reserved(self.channel.name)

    @property
    def label(self) -> str:
        """Which schedule it is, in a word."""
        written = self.channel.policy or {}
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
    view = ListView(
        lines=tuple(_line(row) for row in page.rows),
        pager=pager("/channels", {}, cursor, page.next_key),
    )
    return render(request, "channels.html", viewer, title="Channels", nav="channels", v=view)


def _line(channel: Channel) -> Line:
    policy = resolve(channel.policy)
    return Line(channel, policy, charts.schedule(policy, width=420))


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
            validation=_validation(form),
            retention_days=_retention(form),
        )
        async with store.writing() as session:
            await services.channels.create(
                session,
                viewer.caller.actor,
                new.name,
                spec_of(new.policy),
                circuit=circuit_of(new.circuit),
                validation=new.validation,
                retention_days=new.retention_days,
            )
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
        "validation": channel.validation,
        "retention": days,
    }
    return _form(request, viewer, values, name)


@router.post("/{name}/edit")
async def edit(
    name: str, request: Request, viewer: OperatorDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    try:
        changes = ChannelPatch(policy=_policy(form), validation=_validation(form), retention_days=_retention(form))
        circuit, actor = circuit_of(circuit_form.circuit(form)), viewer.caller.actor
        async with store.writing() as session:
            channel = await services.channels.set_policy(session, actor, name, spec_of(changes.policy))
            before = channel.circuit
            if circuit != before:
                await services.channels.set_circuit(session, actor, name, circuit)
            if changes.validation is not None and changes.validation is not channel.validation:
                await services.channels.set_validation(session, actor, name, changes.validation)
            if changes.retention_days != channel.retention_days:
                await services.channels.set_retention(session, actor, name, changes.retention_days)
        if circuit != before:
            services.channels.circuit_changed(name)
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
        name=name,
        values=values,
        schedules=policy_form.SCHEDULES,
        validations=[(mode.value, label) for mode, label in VALIDATIONS],
        circuit_hint="Of the endpoints that subscribe. Empty: as the environment says",
    )
