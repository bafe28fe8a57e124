"""API keys: created, shown once, revoked."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.api_keys import router as api
from api.api_keys.router import ApiKeyCreated, ApiKeyIn
from api.dashboard.forms import wrong_fields
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
    see_other,
)
from api.problems import Problem, invalid
from everhook.storage.tables import ApiKey, now
from everhook.storage.tenant_scope import TenantScope
from everhook.tenants import api_keys_store as api_keys
from everhook.tenants import store as tenants
from everhook.tenants.api_keys_store import Scope

PAGE = 50
SCOPES = {
    Scope.PUBLISH: "Publish messages",
    Scope.READ: "Look at everything",
    Scope.ADMIN: "Everything, keys and channels included",
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
    new_key: ApiKeyCreated | None


@router.get("")
async def show_list(request: Request, viewer: AdminDep, store: StoreDep, cursor: str = "") -> Response:
    return await _page(request, viewer, store, cursor=cursor)


@router.post("")
async def create(request: Request, viewer: AdminDep, store: StoreDep, form: AdminFormDep) -> Response:
    try:
        body = ApiKeyIn(
            name=form.get("name"),
            scopes=form.all("scopes"),
            tenant=form.get("tenant") or None,
            expires_at=now() + timedelta(days=_days(form.get("days"))) if "days" in form else None,
        )
        new_key = await api.create_api_key(body, store, viewer.caller)
    except (ValidationError, Problem) as error:
        return await _page(request, viewer, store, values=form.values, chosen=form.all("scopes"), error=error)
    return await _page(request, viewer, store, new_key=new_key)


@router.post("/{gid}/revoke")
async def revoke(gid: str, viewer: AdminDep, store: StoreDep, form: AdminFormDep) -> Response:
    await api.revoke_api_key(gid, store, viewer.caller)
    return see_other(viewer, "/keys", "revoked")


async def _page(
    request: Request,
    viewer: Viewer,
    store: TenantScope,
    *,
    cursor: str = "",
    new_key: ApiKeyCreated | None = None,
    values: Mapping[str, str] | None = None,
    chosen: list[str] | None = None,
    error: ValidationError | Problem | None = None,
) -> Response:
    async with store.reading() as session:
        page = await api_keys.page(session, after=after("/keys", {}, cursor), limit=PAGE)
        names = await tenants.names(session, {row.tenant_gid for row in page.rows if row.tenant_gid})
    view = ListView(
        lines=tuple(_line(row, names) for row in page.rows),
        pager=pager("/keys", {}, cursor, page.next_key),
        new_key=new_key,
    )
    return render(
        request,
        "keys.html",
        viewer,
        status=HTTPStatus.UNPROCESSABLE_ENTITY if error is not None else HTTPStatus.OK,
        title="Keys",
        nav="keys",
        v=view,
        values=values or {},
        chosen=chosen or [],
        scopes=[(scope.value, told) for scope, told in SCOPES.items()],
        wrong=wrong_fields(error) if error is not None else {},
    )


def _line(row: ApiKey, names: Mapping[str, str]) -> Line:
    return Line(row, api_keys.state_of(row), tuple(api_keys.shown_scopes(row)), names.get(row.tenant_gid or ""))


def _days(written: str) -> float:
    try:
        days = float(written)
    except ValueError as error:
        raise invalid("days", "is not a number") from error
    if not 0 < days <= 3_650:
        raise invalid("days", "takes up to 3650 days")
    return days
