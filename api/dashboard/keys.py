"""API keys: created, shown once, revoked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.api_keys.schemas import ApiKeyIn
from api.dashboard.pages import (
    AdminDep,
    AdminFormDep,
    Pager,
    PageRoute,
    StoreDep,
    Viewer,
    after,
    pager,
    render_form,
    see_other,
)
from api.dashboard.shown_once import carried_secret, carry_secret, forget_secret
from api.dependencies import Services, ServicesDep
from everhook.errors import InvalidField
from everhook.storage.tables import ApiKey, now
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants.api_keys import ApiKeyView
from everhook.tenants.api_keys_store import BOUND_SCOPES, Scope

PAGE = 50
SCOPES = {
    Scope.PUBLISH: "Publish messages",
    Scope.READ: "Read everything",
    Scope.ADMIN: "Everything, including keys and channels",
}

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/keys")


@dataclass(frozen=True)
class Line:
    key: ApiKey
    state: str
    scopes: tuple[str, ...]
    tenant: str | None


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    pager: Pager
    new_key: str | None


@router.get("")
async def show_list(
    request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, cursor: str = ""
) -> Response:
    key = carried_secret(request, viewer)
    response = await _page(request, viewer, services, store, cursor=cursor, new_key=key)
    return forget_secret(request, response)


@router.post("")
async def create(
    request: Request, viewer: AdminDep, services: ServicesDep, store: StoreDep, form: AdminFormDep
) -> Response:
    try:
        body = ApiKeyIn(
            name=form.get("name"),
            scopes=[
                *form.all("scopes"),
                *(f"{scope}:{gid}" for scope in sorted(BOUND_SCOPES) for gid in form.get(scope).split()),
            ],
            tenant=form.get("tenant") or None,
            expires_at=now() + timedelta(days=_days(form.get("days"))) if "days" in form else None,
        )
        async with store.writing() as session:
            created = await services.api_keys.create(session, viewer.caller.actor, body.new())
    except (ValidationError, InvalidField) as error:
        return await _page(request, viewer, services, store, values=form.values, chosen=form.all("scopes"), error=error)
    return carry_secret(request, viewer, see_other(viewer, "/keys", "created"), created.key)


@router.post("/{gid}/revoke")
async def revoke(gid: str, viewer: AdminDep, services: ServicesDep, store: StoreDep, form: AdminFormDep) -> Response:
    async with store.writing() as session:
        await services.api_keys.revoke(session, viewer.caller.actor, gid)
    return see_other(viewer, "/keys", "revoked")


async def _page(
    request: Request,
    viewer: Viewer,
    services: Services,
    store: TenantScope,
    *,
    cursor: str = "",
    new_key: str | None = None,
    values: Mapping[str, str] | None = None,
    chosen: list[str] | None = None,
    error: ValidationError | InvalidField | None = None,
) -> Response:
    async with store.reading() as session:
        page = await services.api_keys.page(session, after=after("/keys", {}, cursor), limit=PAGE)
    view = ListView(
        lines=tuple(_line(view) for view in page.rows),
        pager=pager("/keys", {}, cursor, page.next_key),
        new_key=new_key,
    )
    return render_form(
        request,
        "keys.html",
        viewer,
        error,
        title="Keys",
        nav="keys",
        v=view,
        values=values or {},
        chosen=chosen or [],
        scopes=[(scope.value, meaning) for scope, meaning in SCOPES.items()],
    )


def _line(view: ApiKeyView) -> Line:
    return Line(view.row, view.state, tuple(view.scopes), view.tenant)


def _days(written: str) -> float:
    try:
        days = float(written)
    except ValueError as error:
        raise InvalidField("days", "is not a number") from error
    if not 0 < days <= 3_650:
        raise InvalidField("days", "takes up to 3650 days")
    return days
