"""Tasks: what inboxes ask people, and their decisions."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api import problem_types, render
from api.callers import Caller
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.problems import documents
from api.query import Several
from api.schemas import Gid, ListOf
from api.tasks.schemas import Assignee, Delegation, TaskComment, TaskDecision, TaskDetail, TaskOut
from everhook.decisions.service import TaskView
from everhook.inbox.store import TaskFilter
from everhook.inbox.tasks import Person
from everhook.storage.paging import any_of
from everhook.storage.tables import TaskState

router = APIRouter(prefix="/tasks", tags=["tasks"])

DECIDED = documents(problem_types.ALREADY_DECIDED)


@router.get("")
async def list_tasks(
    paging: Paging,
    services: ServicesDep,
    store: Store,
    caller: Principal,
    state: Several[TaskState] = None,
    inbox: Several[Gid] = None,
    assignee: Assignee | None = None,
    overdue: Annotated[bool, Query(description="Only those that are open and past their due date.")] = False,
) -> ListOf[TaskOut]:
    """Newest first."""
    chosen = TaskFilter(any_of(state), any_of(inbox), assignee, overdue, caller.inboxes)
    async with store.reading() as session:
        page = await services.tasks.page(session, chosen, after=paging.after, limit=paging.limit)
    return ListOf(data=[TaskOut.of(row) for row in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}", response_model=TaskDetail)
async def get_task(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> Response:
    """One task with the payload that it is about, its decisions, and all tasks of its message."""
    async with store.reading() as session:
        view = await services.tasks.get(session, gid, caller.inboxes)
    return _shown(view)


@router.post(
    "/{gid}/decide",
    response_model=TaskDetail,
    responses=documents(problem_types.ALREADY_DECIDED, problem_types.TASK_CHANGED, problem_types.PAYLOAD_ERASED),
)
async def decide_task(gid: Gid, body: TaskDecision, services: ServicesDep, store: Store, caller: Principal) -> Response:
    """Decide a task, in your name. The same decision again changes nothing.

    It is final, and the delivery ends: as `delivered`, or, if you decline, as `discarded` with the reason `declined`. A
    task with a quorum needs as many people who choose the same outcome.
    """
    return _shown(await services.tasks.decide(store, _person(caller), gid, body.submitted()))


@router.post("/{gid}/delegate", response_model=TaskDetail, responses=DECIDED)
async def delegate_task(gid: Gid, body: Delegation, services: ServicesDep, store: Store, caller: Principal) -> Response:
    """Have someone else decide instead of you. The other assignees are still asked; if the task has no assignees, only
    `to` is asked from then on."""
    return _shown(await services.tasks.delegate(store, _person(caller), gid, body.to, body.comment))


@router.post("/{gid}/comment", response_model=TaskDetail, responses=DECIDED)
async def comment_on_task(
    gid: Gid, body: TaskComment, services: ServicesDep, store: Store, caller: Principal
) -> Response:
    """Add a comment. It decides nothing."""
    return _shown(await services.tasks.comment(store, _person(caller), gid, body.comment))


def _person(caller: Caller) -> Person:
    return Person(caller.name, caller.key_gid, caller.address, inboxes=caller.inboxes)


def _shown(view: TaskView) -> Response:
    return render.with_payload(TaskDetail.of_view(view), view.row.message.payload)
