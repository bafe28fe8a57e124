"""A page for one person and one task, at `/t/<token>`: to put into a mail, without signing in.

The token is signed and names the tenant, the task and the person. It ends with the task. Who holds it decides in that
person's name, so it is written to no log, and the page sends no referrer. Opening the page decides nothing, because
programs that scan mail also fetch links: its form decides.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from api import problem_types
from api.dashboard import task_form
from api.dashboard.forms import TOKEN_FIELD, read_form, refuse_foreign
from api.dashboard.pages import PageRoute, dashboard_of, render
from api.dashboard.portal import public_url
from api.dashboard.sessions import TASK_LINK, Session
from api.dashboard.task_form import Refusal, TaskPage
from api.dependencies import Principal, Services, ServicesDep, Store, address_of
from api.problems import Problem, documents
from api.schemas import Gid
from api.tasks.schemas import TaskLinkIn, TaskLinkOut
from everhook.contracts import DeadLetterReason
from everhook.decisions.service import TaskView, is_asked
from everhook.errors import NotFound
from everhook.inbox.tasks import Person, title_of
from everhook.storage.tables import TaskState
from everhook.storage.tenant_scope import TenantScope

PATH = "/t"
_OVER = (
    "It has expired, or is incomplete. Copy the whole link out of the mail, or ask for a new one where it came from."
)
_HANDED_OVER = "The task was handed over to someone else, who has to decide now. Ask the sender of the link."
_GONE = "The task does not exist any more. There is nothing to do."
_EXPIRED = "No one decided in time, so the task has expired. Ask the sender of the link what to do."
_DELETED = "The inbox was deleted before anyone decided. There is nothing to do."
_ERASED = "The payload was erased before anyone decided. There is nothing to do."
_CANCELLED = "The task was cancelled. There is nothing to do."


class TaskLinkRoute(PageRoute):
    """Its address is a secret: it is sent to no other site."""

    referrer_policy = "no-referrer"


router = APIRouter(route_class=TaskLinkRoute, include_in_schema=False, prefix=PATH)
api_router = APIRouter(prefix="/tasks", tags=["tasks"])


@api_router.post(
    "/{gid}/links",
    status_code=HTTPStatus.CREATED,
    responses=documents(problem_types.ALREADY_DECIDED, problem_types.NOT_CONFIGURED),
)
async def create_task_link(
    gid: Gid, body: TaskLinkIn, request: Request, services: ServicesDep, store: Store, caller: Principal
) -> TaskLinkOut:
    """Create a link to a page on which one person can decide one task, without signing in. Put it into a mail to this
    person: anyone who has the link decides in the person's name, and the receipt says that a link identified them."""
    base = public_url(request)
    link = await services.tasks.grant_link(store, caller.actor, gid, body.assignee)
    subject = f"{link.tenant_gid} {link.task_gid} {link.assignee}"
    token, signed = dashboard_of(request).sessions.issue(TASK_LINK, subject, link.expires_at - datetime.now(UTC))
    return TaskLinkOut(url=f"{base}{PATH}/{token}", expires_at=signed.expires_at)


def _why_expired(reason: DeadLetterReason | None) -> str:
    if reason is DeadLetterReason.ENDPOINT_DELETED:
        return _DELETED
    return _ERASED if reason is DeadLetterReason.PAYLOAD_ERASED else _EXPIRED


class LinkEnded(Exception):
    """The link opens nothing, or nothing any more. The text says why, and what to do."""


@dataclass(frozen=True)
class Opened:
    """What a link that holds leads to."""

    link: Session
    scope: TenantScope
    person: Person
    view: TaskView


@router.get("/{token}")
async def open_task_link(token: str, request: Request, services: ServicesDep) -> Response:
    try:
        opened = await _open(token, request, services)
    except LinkEnded as ended:
        return _ended(request, ended)
    return _page(request, opened, TaskPage(opened.view, opened.person))


@router.post("/{token}")
async def decide_by_link(token: str, request: Request, services: ServicesDep) -> Response:
    refuse_foreign(request, has_referrer=False)
    try:
        opened = await _open(token, request, services)
    except LinkEnded as ended:
        return _ended(request, ended)
    form = await read_form(request)
    if not dashboard_of(request).sessions.is_form_token(opened.link, form.get(TOKEN_FIELD)):
        raise Problem(problem_types.FORBIDDEN, "This form belongs to another link. Open the link again.")
    done = await task_form.decide(services.tasks, opened.scope, opened.person, opened.view, form)
    if not isinstance(done, Refusal):
        return RedirectResponse(f"{PATH}/{token}", HTTPStatus.SEE_OTHER)
    try:
        opened = await _open(token, request, services)
    except LinkEnded as ended:
        return _ended(request, ended)
    page = TaskPage(opened.view, opened.person, values=form.values, wrong=done.wrong)
    return _page(request, opened, page, done.status)


async def _open(token: str, request: Request, services: Services) -> Opened:
    """Raises LinkEnded."""
    link = dashboard_of(request).sessions.read(TASK_LINK, token)
    if link is None:
        raise LinkEnded(_OVER)
    tenant_gid, gid, name = link.subject.split(" ", 2)
    if await services.sessions.tenant_name(tenant_gid) is None:
        raise LinkEnded(_GONE)
    scope = services.scope_of(tenant_gid)
    try:
        async with scope.reading() as session:
            view = await services.tasks.get(session, gid)
    except NotFound as error:
        raise LinkEnded(_GONE) from error
    task = view.row.task
    person = Person(name, address=address_of(request, services.settings), identified_by="link")
    if not is_asked(task, view.row.inboxes, person):
        raise LinkEnded(_HANDED_OVER)
    if task.state is TaskState.EXPIRED:
        reason = view.row.delivery.reason
        raise LinkEnded(_why_expired(reason))
    if task.state is TaskState.CANCELLED:
        raise LinkEnded(_CANCELLED)
    return Opened(link, scope, person, view)


def _page(request: Request, opened: Opened, page: TaskPage, status: HTTPStatus = HTTPStatus.OK) -> Response:
    return render(
        request,
        "task_link.html",
        status=status,
        title=title_of(opened.view.row.task.document),
        v=page,
        action=request.url.path,
        values=page.values or {},
        form_token=dashboard_of(request).sessions.form_token(opened.link),
    )


def _ended(request: Request, ended: LinkEnded) -> Response:
    return render(request, "task_link_ended.html", status=HTTPStatus.GONE, title="Link ended", why=str(ended))
