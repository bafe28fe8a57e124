"""The inbox: what people are asked, those that ask the viewer first; and one task, to decide, delegate and comment."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from api.dashboard import task_form
from api.dashboard.endpoint_names import inbox_name
from api.dashboard.forms import Form
from api.dashboard.pages import (
    DeciderDep,
    Pager,
    PageRoute,
    TaskFormDep,
    TaskStoreDep,
    Viewer,
    after,
    pager,
    render,
    see_other,
)
from api.dashboard.task_form import Refusal, TaskPage
from api.dependencies import Services, ServicesDep
from api.tasks.schemas import MAX_COMMENT, MAX_NAME
from everhook.decisions.service import TaskView
from everhook.errors import AlreadyDecided, Forbidden, InvalidField
from everhook.inbox.store import TaskFilter
from everhook.inbox.tasks import Person, title_of
from everhook.storage.tables import Task, TaskState
from everhook.storage.tenant_scope import TenantScope

PAGE = 50
INBOXES_AT_MOST = 200
OVERDUE = "overdue"
ANY = "any"
STATES = (
    (TaskState.OPEN.value, "Open"),
    (OVERDUE, "Overdue"),
    (TaskState.DECIDED.value, "Decided"),
    (TaskState.EXPIRED.value, "Expired"),
    (TaskState.CANCELLED.value, "Cancelled"),
    (ANY, "Any"),
)

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/inbox")


@dataclass(frozen=True)
class Section:
    """A table of the list."""

    title: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class ListView:
    """`sections` without their empty ones. `inboxes` are by their gids."""

    sections: tuple[Section, ...]
    inboxes: Mapping[str, str]
    state: str
    inbox: str
    pager: Pager

    @property
    def is_filtered(self) -> bool:
        return self.state != TaskState.OPEN or bool(self.inbox)


def person_of(viewer: Viewer) -> Person:
    """Who decides in a session."""
    caller = viewer.caller
    return Person(viewer.person, caller.key_gid, caller.address, "session", caller.inboxes)


@router.get("")
async def show_list(
    request: Request,
    viewer: DeciderDep,
    services: ServicesDep,
    store: TaskStoreDep,
    state: str = TaskState.OPEN.value,
    inbox: str = "",
    cursor: str = "",
) -> Response:
    state = state if state in dict(STATES) else TaskState.OPEN.value
    chosen = {"state": state, "inbox": inbox}
    person = person_of(viewer)
    query = TaskFilter(
        state=TaskState(state) if state in set(TaskState) else None,
        endpoint_gid=inbox or None,
        overdue=state == OVERDUE,
        inboxes=person.inboxes,
    )
    async with store.reading() as session:
        mine: list[Task] = []
        if state == TaskState.OPEN and not cursor:
            mine = list(await services.tasks.waiting_for(session, person, inbox or None, limit=PAGE))
        page = await services.tasks.page(session, query, after=after("/inbox", chosen, cursor), limit=PAGE)
        inboxes = await services.tasks.inboxes(session, person.inboxes, limit=INBOXES_AT_MOST)
    shown = {task.gid for task in mine}
    others = tuple(task for task in page.rows if task.gid not in shown)
    sections = (Section("Waiting for you", tuple(mine)), Section("Others" if mine else "Tasks", others))
    view = ListView(
        sections=tuple(each for each in sections if each.tasks),
        inboxes={each.gid: inbox_name(each) for each in inboxes},
        state=state,
        inbox=inbox,
        pager=pager("/inbox", chosen, cursor, page.next_key),
    )
    return render(request, "inbox.html", viewer, title="Inbox", nav="inbox", v=view, states_to_choose=STATES)


@router.get("/{gid}")
async def show_one(
    gid: str, request: Request, viewer: DeciderDep, services: ServicesDep, store: TaskStoreDep
) -> Response:
    view = await _view(gid, viewer, services, store)
    return _page(request, viewer, view)


@router.post("/{gid}/decide")
async def decide(
    gid: str, request: Request, viewer: DeciderDep, services: ServicesDep, store: TaskStoreDep, form: TaskFormDep
) -> Response:
    view = await _view(gid, viewer, services, store)
    done = await task_form.decide(services.tasks, store, person_of(viewer), view, form)
    if isinstance(done, Refusal):
        return await _again(gid, request, viewer, services, store, form, done)
    notice = "agreed" if done.row.task.state is TaskState.OPEN else "decided"
    return see_other(viewer, f"/inbox/{gid}", notice)


@router.post("/{gid}/delegate")
async def delegate(
    gid: str, request: Request, viewer: DeciderDep, services: ServicesDep, store: TaskStoreDep, form: TaskFormDep
) -> Response:
    try:
        to = _required(form, "to", MAX_NAME)
        note = _short(form, "note", MAX_COMMENT)
        await services.tasks.delegate(store, person_of(viewer), gid, to, note)
    except (InvalidField, AlreadyDecided, Forbidden) as error:
        refusal = task_form.refused(error, error.field if isinstance(error, InvalidField) else "")
        return await _again(gid, request, viewer, services, store, form, refusal)
    return see_other(viewer, f"/inbox/{gid}", "delegated")


@router.post("/{gid}/comment")
async def comment(
    gid: str, request: Request, viewer: DeciderDep, services: ServicesDep, store: TaskStoreDep, form: TaskFormDep
) -> Response:
    try:
        text = _required(form, "remark", MAX_COMMENT)
        await services.tasks.comment(store, person_of(viewer), gid, text)
    except (InvalidField, AlreadyDecided, Forbidden) as error:
        refusal = task_form.refused(error, "remark" if isinstance(error, InvalidField) else "")
        return await _again(gid, request, viewer, services, store, form, refusal)
    return see_other(viewer, f"/inbox/{gid}", "commented")


def _short(form: Form, name: str, at_most: int) -> str:
    text = form.get(name)
    if len(text) > at_most:
        raise InvalidField(name, f"takes at most {at_most} characters")
    return text


def _required(form: Form, name: str, at_most: int) -> str:
    text = _short(form, name, at_most)
    if not text:
        raise InvalidField(name, "is required", "missing")
    return text


async def _view(gid: str, viewer: Viewer, services: Services, store: TenantScope) -> TaskView:
    async with store.reading() as session:
        return await services.tasks.get(session, gid, viewer.caller.inboxes)


async def _again(
    gid: str,
    request: Request,
    viewer: Viewer,
    services: Services,
    store: TenantScope,
    form: Form,
    refusal: Refusal,
) -> Response:
    """The page as the task is now, with what was typed and what is wrong with it."""
    return _page(request, viewer, await _view(gid, viewer, services, store), form.values, refusal)


def _page(
    request: Request,
    viewer: Viewer,
    view: TaskView,
    values: Mapping[str, str] | None = None,
    refusal: Refusal | None = None,
) -> Response:
    page = TaskPage(view, person_of(viewer), viewer.may_decide, values, refusal.wrong if refusal is not None else {})
    return render(
        request,
        "task.html",
        viewer,
        status=refusal.status if refusal is not None else HTTPStatus.OK,
        title=title_of(view.row.task.document),
        nav="inbox",
        v=page,
        values=values or {},
    )
