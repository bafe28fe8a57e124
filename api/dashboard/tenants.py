"""Tenants: the list of them, and the settings of one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.dashboard import alerts_form
from api.dashboard.alerts_form import LimitLine
from api.dashboard.forms import Form, FormError
from api.dashboard.pages import (
    AdminDep,
    AdminFormDep,
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
from api.dependencies import Services, ServicesDep
from api.problems import Problem
from api.schemas import alerts_of
from api.tenants.schemas import TenantPatch
from everhook.errors import DomainError, InvalidField, NotFound, TenantNameTaken
from everhook.health.endpoint_alerts import LimitSource
from everhook.storage.tables import Tenant
from everhook.storage.tenant_scope import TenantScope

PAGE = 50
PATH = "/tenants"

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix=PATH)


@dataclass(frozen=True)
class ListView:
    """`unknown` is what was searched for, if no tenant has this name or gid."""

    tenants: tuple[Tenant, ...]
    unknown: str
    pager: Pager


@dataclass(frozen=True)
class DetailView:
    tenant: Tenant
    limits: tuple[LimitLine, ...]


@router.get("")
async def show_list(
    request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, search: str = "", cursor: str = ""
) -> Response:
    """With `search`, the name or the gid of a tenant, its page."""
    search = search.strip()[:200]
    if search:
        try:
            async with store.reading() as session:
                found = await services.tenants.get(session, search)
            return see_other(viewer, f"{PATH}/{found.gid}")
        except NotFound:
            pass
    async with store.reading() as session:
        page = await services.tenants.page(session, after=after(PATH, {}, cursor), limit=PAGE)
    view = ListView(tuple(page.rows), search, pager(PATH, {}, cursor, page.next_key))
    return render(request, "tenants.html", viewer, title="Tenants", nav="tenants", v=view)


@router.get("/new")
async def ask_new(request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep) -> Response:
    return await _form(request, viewer, services, store, {})


@router.post("/new")
async def create(
    request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    actor = viewer.caller.actor
    try:
        new, alerts = _settings(form)
        async with store.writing() as session:
            tenant = await services.tenants.create(session, actor, new.name or "", new.publish_rate)
            if alerts is not None:
                tenant = await services.tenants.set_alerts(session, actor, tenant.gid, alerts)
    except (ValidationError, Problem, DomainError) as error:
        return await _form(request, viewer, services, store, form.values, error=error)
    return see_other(viewer, f"{PATH}/{tenant.gid}", "created")


@router.get("/{gid}")
async def show_one(gid: str, request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        tenant = await services.tenants.get(session, gid)
        limits = await services.health.alert_limits(session, tenant.gid)
    view = DetailView(tenant, alerts_form.lines(limits, LimitSource.TENANT))
    return render(request, "tenant.html", viewer, title=tenant.name, nav="tenants", v=view)


@router.get("/{gid}/edit")
async def ask_edit(gid: str, request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep) -> Response:
    async with store.reading() as session:
        tenant = await services.tenants.get(session, gid)
    values = {
        "name": tenant.name,
        "publishRate": tenant.publish_rate or "",
        **alerts_form.fields(tenant.alerts),
    }
    return await _form(request, viewer, services, store, values, tenant)


@router.post("/{gid}/edit")
async def edit(
    gid: str, request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    actor = viewer.caller.actor
    async with store.reading() as session:
        before = await services.tenants.get(session, gid)
    try:
        changes, alerts = _settings(form)
        async with store.writing() as session:
            tenant = await services.tenants.get(session, before.gid)
            if changes.publish_rate != tenant.publish_rate:
                await services.tenants.set_publish_rate(session, actor, tenant.gid, changes.publish_rate)
            if alerts != tenant.alerts:
                await services.tenants.set_alerts(session, actor, tenant.gid, alerts)
            if changes.name is not None and changes.name != tenant.name:
                await services.tenants.rename(session, actor, tenant.gid, changes.name)
    except NotFound:
        raise
    except (ValidationError, Problem, DomainError) as error:
        return await _form(request, viewer, services, store, form.values, before, error)
    return see_other(viewer, f"{PATH}/{before.gid}", "saved")


def _settings(form: Form) -> tuple[TenantPatch, dict[str, Any] | None]:
    """Name and rate as the API takes them, and the limits for alerts as they are stored."""
    given = {"name": form.get("name"), "publishRate": form.get("publishRate") or None}
    settings = TenantPatch.model_validate({**given, "alerts": alerts_form.alerts(form)})
    return settings, alerts_of(settings.alerts)


async def _form(
    request: Request,
    viewer: Viewer,
    services: Services,
    store: TenantScope,
    values: Mapping[str, str],
    tenant: Tenant | None = None,
    error: FormError | None = None,
) -> Response:
    if isinstance(error, TenantNameTaken):
        error = InvalidField("name", "is another tenant's, or looks like a gid")
    async with store.reading() as session:
        inherited = await services.health.alert_limits(session, None)
    return render_form(
        request,
        "tenant_form.html",
        viewer,
        error,
        title=f"Edit {tenant.name}" if tenant is not None else "New tenant",
        nav="tenants",
        tenant=tenant,
        values=values,
        alert_hints=alerts_form.hints(inherited),
    )
