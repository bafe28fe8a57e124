"""Dead letters: find them, count before acting, replay or discard one, some, or all that match."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from api.dashboard import filters
from api.dashboard.deliveries import Line, lines_of
from api.dashboard.filters import Filters
from api.dashboard.forms import Form
from api.dashboard.pages import (
    FormDep,
    Pager,
    PageRoute,
    StoreDep,
    Viewer,
    ViewerDep,
    after,
    pager,
    query,
    render,
    see_other,
)
from api.dead_letters import router as api
from api.dead_letters.schemas import BatchOut, BulkRequest, DeadLetterSelection, Decision
from api.deliveries.router import find_delivery
from api.dependencies import Services, ServicesDep
from api.problems import Problem, invalid
from everhook.contracts import DeadLetterReason
from everhook.dead_letters import store as dead_letters
from everhook.storage.paging import Page
from everhook.storage.tables import Delivery
from everhook.storage.tenant_scope import TenantScope

PAGE = 50
AT_ONCE = 10

Action = Literal["replay", "discard"]
WORDS: Mapping[str, str] = {"replay": "Replay", "discard": "Discard"}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    matched: int
    filters: Filters[DeadLetterSelection]
    pager: Pager


@dataclass(frozen=True)
class BatchView:
    batch: BatchOut
    share: float | None

    @property
    def is_running(self) -> bool:
        return self.batch.state == "running"


@router.get("/dead-letters")
async def show_list(request: Request, viewer: ViewerDep, store: StoreDep, cursor: str = "") -> Response:
    asked = filters.read(DeadLetterSelection, request.query_params)
    behind = after("/dead-letters", asked.chosen, cursor)
    async with store.reading() as session:
        names = await filters.channel_names(session)
        try:
            page, matched = await _page(session, asked.choice, behind)
        except Problem as problem:
            asked = asked.refused(problem)
            page, matched = Page((), None), 0
        lines = await lines_of(session, page.rows)
    view = ListView(
        lines=lines,
        matched=matched,
        filters=asked,
        pager=pager("/dead-letters", asked.chosen, cursor, page.next_key),
    )
    return render(
        request,
        "dead_letters.html",
        viewer,
        status=asked.status,
        title="Dead letters",
        nav="dead-letters",
        v=view,
        channels=names,
        reasons=[("", "Any"), *((reason.value, reason.value.replace("_", " ")) for reason in DeadLetterReason)],
    )


async def _page(
    session: AsyncSession, selection: DeadLetterSelection | None, behind: str | None
) -> tuple[Page[Delivery], int]:
    """A page, and how many match. Nothing where it is not clear what is wanted; a Problem for what is not there."""
    if selection is None:
        return Page((), None), 0
    conditions = await api.dead_letter_filter(session, selection)
    page = await dead_letters.page(session, conditions, after=behind, limit=PAGE)
    return page, await dead_letters.count(session, conditions)


def _chosen(values: Mapping[str, str]) -> dict[str, str]:
    return filters.chosen_of(DeadLetterSelection, values)


@router.post("/dead-letters/selected")
async def act_on_selected(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep
) -> Response:
    """Replay or discard those that are ticked. What cannot be undone is asked again."""
    action, gids = _action(form), form.all("gid")
    chosen = _chosen(form.values)
    back = "/dead-letters" + query(chosen)
    if not gids:
        raise invalid("gid", "tick at least one dead letter")
    async with store.reading() as session:
        rows = [await find_delivery(session, gid) for gid in gids]
        lines = await lines_of(session, rows)
    if action == "discard" and "sure" not in form:
        return render(
            request,
            "dead_letters_selected.html",
            viewer,
            title="Discard dead letters",
            nav="dead-letters",
            lines=lines,
            chosen=chosen,
        )
    decide = api.replay_one if action == "replay" else api.discard_one
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(gid: str) -> None:
        async with slots:
            await decide(gid, services, store, viewer.caller, Decision(why=form.get("why")))

    results = await asyncio.gather(*(one(gid) for gid in gids), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if len(failures) == len(gids):
        raise failures[0]
    return see_other(viewer, back, action)


@router.get("/dead-letters/all")
async def ask_all(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, action: str = "replay"
) -> Response:
    """Count before acting."""
    chosen = _chosen(request.query_params)
    counted = await _bulk(viewer, services, store, action, chosen, dry_run=True)
    return render(
        request,
        "dead_letters_all.html",
        viewer,
        title=f"{WORDS.get(action, 'Replay')} dead letters",
        nav="dead-letters",
        matched=counted.matched,
        skipped=counted.skipped,
        chosen=chosen,
        action=action if action in WORDS else "replay",
        word=WORDS.get(action, "Replay"),
    )


@router.post("/dead-letters/all")
async def act_on_all(viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    """Replay or discard all that match, as a batch that Temporal paces."""
    answer = await _bulk(viewer, services, store, _action(form), _chosen(form.values), why=form.get("why"))
    if answer.batch_gid is None:
        return see_other(viewer, "/dead-letters")
    return see_other(viewer, f"/batches/{answer.batch_gid}")


async def _bulk(
    viewer: Viewer,
    services: Services,
    store: TenantScope,
    action: str,
    chosen: Mapping[str, str],
    *,
    why: str = "",
    dry_run: bool = False,
) -> Any:
    selection = filters.choice_of(DeadLetterSelection, chosen)
    body = BulkRequest(**selection.model_dump(), why=why, dry_run=dry_run)
    run = api.replay_many if action == "replay" else api.purge_many
    return await run(body, services, store, viewer.caller)


def _action(form: Form) -> str:
    action = form.get("action")
    if action not in WORDS:
        raise invalid("action", "is replay or discard")
    return action


@router.get("/batches/{gid}")
async def show_batch(gid: str, request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep) -> Response:
    batch = await api.get_batch(gid, store, services.temporal)
    share = (batch.completed + batch.failed) / batch.total if batch.total else None
    view = BatchView(batch, share)
    return render(request, "batch.html", viewer, title="Batch", nav="dead-letters", v=view)
