"""Who did what, when, to what and from where."""

from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from api.dashboard.pages import OperatorDep, Pager, PageRoute, StoreDep, after, pager, render
from api.dependencies import ServicesDep
from everhook.ids import Kind, is_gid
from everhook.storage.tables import AuditEntry
from everhook.tenants.audit import AuditQuery, AuditView

PAGE = 50
PAGES_OF = {Kind.ENDPOINT: "/endpoints", Kind.DELIVERY: "/deliveries", Kind.BATCH: "/batches", Kind.TASK: "/inbox"}
"""The path of the pages of a resource, by the kind of its gid."""

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/audit")


@dataclass(frozen=True)
class Line:
    entry: AuditEntry
    tenant: str | None
    path: str | None


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    chosen: Mapping[str, str]
    pager: Pager


@router.get("")
async def show_list(
    request: Request,
    viewer: OperatorDep,
    services: ServicesDep,
    store: StoreDep,
    subject: str = "",
    action: str = "",
    cursor: str = "",
) -> Response:
    chosen = {"subject": subject.strip(), "action": action.strip()}
    wanted = AuditQuery(
        subjects=[chosen["subject"]] if chosen["subject"] else None,
        actions=[chosen["action"]] if chosen["action"] else None,
    )
    async with store.reading() as session:
        page = await services.audit.page(session, wanted, after=after("/audit", chosen, cursor), limit=PAGE)
    view = ListView(
        lines=tuple(_line(each) for each in page.rows),
        chosen=chosen,
        pager=pager("/audit", chosen, cursor, page.next_key),
    )
    return render(request, "audit.html", viewer, title="Audit", nav="audit", v=view)


def _line(view: AuditView) -> Line:
    return Line(view.entry, view.tenant, _page_of(view.entry.subject))


def _page_of(subject: str) -> str | None:
    return next((f"{path}/{subject}" for kind, path in PAGES_OF.items() if is_gid(subject, kind)), None)
