"""Dead letters: find them, count before acting, replay or discard one, some, or all that match."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

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
from api.dead_letters.schemas import DeadLetterSelection
from api.dependencies import Services, ServicesDep
from everhook.contracts import DeadLetterReason
from everhook.dead_letters.service import BulkOperation, Decision
from everhook.errors import InvalidField
from everhook.storage.paging import Page
from everhook.storage.tables import Delivery, now
from everhook.storage.tenant_scope import TenantScope

PAGE = 50
AT_ONCE = 10

WORDS: Mapping[Decision, str] = {Decision.REPLAY: "Replay", Decision.DISCARD: "Discard"}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    matched: int
    filters: Filters[DeadLetterSelection]
    pager: Pager


@router.get("/dead-letters")
async def show_list(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, cursor: str = ""
) -> Response:
    asked = filters.read(DeadLetterSelection, request.query_params)
    previous = after("/dead-letters", asked.chosen, cursor)
    page: Page[Delivery] = Page((), None)
    matched = 0
    async with store.reading() as session:
        names = await services.channels.names(session)
        try:
            if asked.choice is not None:
                query = asked.choice.query()
                page = await services.dead_letters.page(session, query, after=previous, limit=PAGE)
                matched = await services.dead_letters.count(session, query)
        except InvalidField as error:
            asked = asked.refused(error)
        lines = await lines_of(services.endpoints, session, page.rows)
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


@router.post("/dead-letters/selected")
async def act_on_selected(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep
) -> Response:
    """Replay or discard the dead letters that are ticked. A discard cannot be undone, so it has to be confirmed."""
    decision, gids = _decision(form), form.all("gid")
    chosen = filters.chosen_of(DeadLetterSelection, form.values)
    back = "/dead-letters" + query(chosen)
    if not gids:
        raise InvalidField("gid", "tick at least one dead letter")
    async with store.reading() as session:
        rows = [await services.deliveries.find(session, gid) for gid in gids]
        lines = await lines_of(services.endpoints, session, rows)
    if decision is Decision.DISCARD and "sure" not in form:
        return render(
            request,
            "dead_letters_selected.html",
            viewer,
            title="Discard dead letters",
            nav="dead-letters",
            lines=lines,
            chosen=chosen,
        )
    decide = services.dead_letters.replay if decision is Decision.REPLAY else services.dead_letters.discard
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(gid: str) -> None:
        async with slots:
            await decide(store, viewer.caller.actor, gid, form.get("reason"))

    results = await asyncio.gather(*(one(gid) for gid in gids), return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if len(failures) == len(gids):
        raise failures[0]
    return see_other(viewer, back, decision)


@router.get("/dead-letters/all")
async def ask_all(
    request: Request, viewer: ViewerDep, services: ServicesDep, store: StoreDep, action: str = "replay"
) -> Response:
    """Count before acting. The button acts on the dead letters that were counted: `until` leaves later ones out."""
    chosen = filters.chosen_of(DeadLetterSelection, request.query_params)
    exact = {"until": f"{now():%Y-%m-%dT%H:%M:%S.%f}"} | chosen
    decision = Decision.DISCARD if action == Decision.DISCARD else Decision.REPLAY
    counted = await _decide_all(decision, viewer, services, store, exact, dry_run=True)
    return render(
        request,
        "dead_letters_all.html",
        viewer,
        title=f"{WORDS[decision]} dead letters",
        nav="dead-letters",
        matched=counted.matched,
        skipped=counted.skipped,
        chosen=chosen,
        exact=exact,
        action=decision.value,
        word=WORDS[decision],
    )


@router.post("/dead-letters/all")
async def act_on_all(viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    """Replay or discard all that match, as a batch that Temporal paces."""
    decision, chosen = _decision(form), filters.chosen_of(DeadLetterSelection, form.values)
    started = await _decide_all(decision, viewer, services, store, chosen, reason=form.get("reason"))
    if started.batch_gid is None:
        return see_other(viewer, "/dead-letters")
    return see_other(viewer, f"/batches/{started.batch_gid}")


async def _decide_all(
    decision: Decision,
    viewer: Viewer,
    services: Services,
    store: TenantScope,
    chosen: Mapping[str, str],
    *,
    reason: str = "",
    dry_run: bool = False,
) -> BulkOperation:
    query = filters.choice_of(DeadLetterSelection, chosen).query()
    return await services.dead_letters.decide_all(
        decision, store, viewer.caller.actor, query, reason=reason, dry_run=dry_run
    )


def _decision(form: Form) -> Decision:
    try:
        return Decision(form.get("action"))
    except ValueError as error:
        raise InvalidField("action", "is replay or discard") from error
