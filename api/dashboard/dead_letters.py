"""Dead letters: find them, count before acting, replay or discard one, some, or all that match."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.dashboard.deliveries import Line, lines_of
from api.dashboard.forms import Form, wrong_fields
from api.dashboard.overview import REASONS
from api.dashboard.pages import FormDep, PageRoute, StoreDep, Viewer, ViewerDep, query, render, see_other
from api.dependencies import Services, ServicesDep, decode_cursor, encode_cursor
from api.problems import Problem, invalid
from api.routers import dead_letters as api
from api.routers.deliveries import find_delivery
from api.schemas import BatchOut, BulkRequest, DeadLetterSelection, Decision
from everhook.storage import channels, dead_letters
from everhook.storage.reach import Reach

PAGE = 50
AT_ONCE = 10
CHANNELS_AT_MOST = 500
FILTERS = ("tenant", "channel", "endpoint", "type", "reason", "statusCode", "since", "until")

Action = Literal["replay", "discard"]
WORDS: Mapping[str, str] = {"replay": "Replay", "discard": "Discard"}

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class ListView:
    lines: tuple[Line, ...]
    matched: int
    chosen: Mapping[str, str]
    wrong: Mapping[str, str]
    first: str | None
    more: str | None

    @property
    def is_filtered(self) -> bool:
        return bool(self.chosen)


@dataclass(frozen=True)
class BatchView:
    batch: BatchOut
    share: float | None

    @property
    def is_running(self) -> bool:
        return self.batch.state == "running"


@router.get("/dead-letters")
async def show_list(request: Request, viewer: ViewerDep, store: StoreDep, cursor: str = "") -> Response:
    chosen = _chosen(request.query_params)
    wrong: Mapping[str, str] = {}
    try:
        selection = _selection(chosen)
    except ValidationError as error:
        wrong, selection = wrong_fields(error), None
    async with store.reading() as session:
        names = [row.name for row in (await channels.page(session, after=None, limit=CHANNELS_AT_MOST)).rows]
        rows, matched, next_key = [], 0, None
        if selection is not None:
            try:
                conditions = await api.dead_letter_filter(session, selection)
            except Problem as problem:
                wrong = wrong_fields(problem)
            else:
                page = await dead_letters.page(
                    session, conditions, after=decode_cursor(cursor) if cursor else None, limit=PAGE
                )
                matched = await dead_letters.count(session, conditions)
                rows, next_key = [*page.rows], page.next_key
        lines = await lines_of(session, rows)
    view = ListView(
        lines=lines,
        matched=matched,
        chosen=chosen,
        wrong=wrong,
        first="/dead-letters" + query(chosen) if cursor else None,
        more="/dead-letters" + query({**chosen, "cursor": encode_cursor(next_key)}) if next_key else None,
    )
    return render(
        request,
        "dead_letters.html",
        viewer,
        status=HTTPStatus.UNPROCESSABLE_ENTITY if wrong else HTTPStatus.OK,
        title="Dead letters",
        nav="dead-letters",
        v=view,
        channels=names,
        reasons=[("", "Any"), *((reason.value, reason.value.replace("_", " ")) for reason in REASONS)],
    )


def _chosen(values: Mapping[str, str]) -> dict[str, str]:
    return {name: values[name].strip() for name in FILTERS if values.get(name, "").strip()}


def _selection(chosen: Mapping[str, str]) -> DeadLetterSelection:
    """Times come from fields that know no zone; they are UTC, as their labels say."""
    given: dict[str, Any] = dict(chosen)
    for name in ("since", "until"):
        if name in given and len(given[name]) <= len("2026-01-31T12:00:00"):
            given[name] += "Z"
    return DeadLetterSelection(**given)


@router.post("/dead-letters/selected")
async def act_on_selected(viewer: ViewerDep, services: ServicesDep, store: StoreDep, form: FormDep) -> Response:
    """Replay or discard those that are ticked."""
    action, gids = _action(form), form.all("gid")
    back = "/dead-letters" + query(_chosen(form.values))
    if not gids:
        raise invalid("gid", "tick at least one dead letter")
    async with store.reading() as session:
        for gid in gids:
            await find_delivery(session, gid)
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
    store: Reach,
    action: str,
    chosen: Mapping[str, str],
    *,
    why: str = "",
    dry_run: bool = False,
) -> Any:
    selection = _selection(chosen)
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
