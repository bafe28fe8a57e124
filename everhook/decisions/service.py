"""Use cases of tasks: list and show them, decide, delegate and comment.

A decision is one transaction: the task, its delivery, the attempt with the decision, its receipt, the audit entry, and
the next step of the gate that the task belongs to.
Nothing here needs Temporal: the workflow of the delivery is signalled in the background.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from everhook.audit.store import Actor, record_audit
from everhook.contracts import AttemptRecord, DeadLetterReason, DeliveryInput, Verdict
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.guards import GuardStarter
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.inputs_store import InputDefaults, load_input
from everhook.delivery.recorder_store import Attempted, Transcript, record_attempts
from everhook.errors import (
    AlreadyDecided,
    Forbidden,
    InvalidField,
    NotFound,
    PayloadErased,
    PayloadTooLarge,
    TaskChanged,
)
from everhook.ids import Kind, new_gid
from everhook.inbox import store as tasks
from everhook.inbox.store import TaskFilter, TaskRow
from everhook.inbox.tasks import (
    GROUP,
    Effect,
    Outcome,
    Person,
    check_comment,
    check_data,
    defaults_of,
    groups_of,
    is_assignee,
    outcome_of,
)
from everhook.notifications.events import EventKind
from everhook.publishing.gate_progress_store import Ending, Released, decline_step, pass_step
from everhook.pulling.queue_store import expect_signal
from everhook.receipts.issuer import Issuer, ReceiptContext, issue, url_digest
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.receipt import signatures_digest
from everhook.receipts.strict_json import format_time
from everhook.storage.engine import Session, once_more_if_outdated
from everhook.storage.paging import Page
from everhook.storage.tables import Endpoint, Task, TaskDecision, TaskState, now
from everhook.storage.tenant_scope import TenantScope

MAX_RESULT = 16 * 1024
MAX_NOTES = 200
MAX_LINK = timedelta(days=30)
MAX_LOOKED_AT = 500
"""Open tasks that are read to find those of one person: groups and exclusions are not known to the database."""


@dataclass(frozen=True)
class SubmittedDecision:
    """The decision that a person submits. `version` is that of the task that the person read."""

    outcome: str
    version: int
    comment: str = ""
    data: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TaskView:
    """A task with what belongs to it. `chain` are all tasks of its message that the viewer may see, itself included.
    `receipt_gid` is that of the decision."""

    row: TaskRow
    decisions: Sequence[TaskDecision]
    chain: Sequence[Task]
    receipt_gid: str | None = None


@dataclass(frozen=True)
class TaskLink:
    """What a link to a task is for, and when it ends."""

    tenant_gid: str
    task_gid: str
    assignee: str
    expires_at: datetime


@dataclass(frozen=True)
class _Decided:
    """A committed decision: the input of the workflow that has to know of it, and what a gate released."""

    message_gid: str
    input: DeliveryInput | None = None
    released: Released | None = None


class TaskService:
    """It needs the database alone. What a gate releases is dispatched after the commit; if the process dies before
    that, the reconciler starts it."""

    def __init__(
        self,
        issuers: IssuerCache,
        defaults: InputDefaults,
        guards: GuardStarter,
        dispatcher: Dispatcher,
        on_change: Callable[[Collection[str]], None],
        on_queued: Callable[[Collection[str]], None],
    ) -> None:
        """After a commit `on_change` is called with the messages whose tasks changed, `on_queued` with the endpoints
        for which deliveries were queued."""
        self.issuers = issuers
        self._defaults = defaults
        self._guards = guards
        self._dispatcher = dispatcher
        self._on_change = on_change
        self._on_queued = on_queued

    async def page(self, session: Session, chosen: TaskFilter, *, after: str | None, limit: int) -> Page[Task]:
        """Newest first."""
        return await tasks.page(session, chosen, after=after, limit=limit)

    async def get(self, session: Session, gid: str, inboxes: frozenset[str] | None = None) -> TaskView:
        """`inboxes` are those that the viewer may see; None: all of the tenant's. Raises NotFound."""
        row = await _found(session, gid, inboxes)
        made = await tasks.decisions(session, gid)
        chain = await tasks.chain(session, row.task.message_gid, inboxes)
        return TaskView(row, made, chain, await tasks.decision_receipt(session, row.task))

    async def of_delivery(self, session: Session, delivery_gid: str) -> str | None:
        """The gid of the task of a delivery. None if the delivery did not go to an inbox."""
        return await tasks.task_of_delivery(session, delivery_gid)

    async def waiting_for(
        self, session: Session, person: Person, endpoint_gid: str | None = None, *, limit: int
    ) -> Sequence[Task]:
        """Open tasks that ask the person, the earliest due date first: those among the `MAX_LOOKED_AT` tasks that are
        due first."""
        rows = await tasks.open_by_due_date(session, person.inboxes, endpoint_gid, limit=MAX_LOOKED_AT)
        mine = [task for task, inboxes in rows if may_decide(task, inboxes, person)]
        return mine[:limit]

    async def count_open(self, session: Session, inboxes: frozenset[str] | None, *, at_most: int) -> int:
        """How many tasks are open; counting stops at `at_most`."""
        return await tasks.count_open(session, inboxes, at_most=at_most)

    async def inboxes(self, session: Session, within: frozenset[str] | None, *, limit: int) -> Sequence[Endpoint]:
        """The inboxes to choose from, newest first."""
        return await tasks.inboxes(session, within, limit=limit)

    async def grant_link(self, scope: TenantScope, actor: Actor, gid: str, assignee: str) -> TaskLink:
        """Record that a link was created with which one person can decide one task, and say when it ends: with the
        task, and after `MAX_LINK` at the latest. Raises NotFound, AlreadyDecided and InvalidField."""
        async with scope.writing() as session:
            row = await _found(session, gid)
            task, moment = row.task, now()
            _require_open(task)
            if task.due_at <= moment:
                raise AlreadyDecided(f"{gid} is past its due date, so no link can decide it any more.")
            if assignee.startswith(GROUP):
                raise InvalidField("assignee", "names one person, not a group")
            if (why := why_not(task, row.inboxes, Person(assignee))) is not None:
                raise InvalidField("assignee", why)
            detail = {"assignee": assignee}
            record_audit(session, actor, "task.link_created", gid, tenant_gid=task.tenant_gid, detail=detail)
            return TaskLink(task.tenant_gid, gid, assignee, min(task.due_at, moment + MAX_LINK))

    async def decide(self, scope: TenantScope, person: Person, gid: str, submitted: SubmittedDecision) -> TaskView:
        """Decide a task. The same person's same decision again changes nothing.

        With a quorum, the task is decided when as many people chose the same outcome; one that declines decides alone.
        A decision about a step of a gate opens the next step, or releases or discards what waits for the gate. Raises
        NotFound, AlreadyDecided, TaskChanged, Forbidden, PayloadErased and InvalidField.
        """
        async with scope.reading() as session:
            await _found(session, gid)
        issuer = await self.issuers.get()
        decided = await once_more_if_outdated(lambda: self._decide(scope, person, gid, submitted, issuer))
        if decided.input is not None:
            self._guards.signal(decided.input)
        self.start(decided.released)
        self._on_change({decided.message_gid})
        async with scope.reading() as session:
            return await self.get(session, gid, person.inboxes)

    def start(self, released: Released | None) -> None:
        """Start what a gate released, after the commit."""
        if released is not None:
            self._dispatcher.dispatch(NewDelivery(input) for input in released.inputs)
            self._on_queued(released.queued)

    async def _decide(
        self, scope: TenantScope, person: Person, gid: str, submitted: SubmittedDecision, issuer: Issuer
    ) -> _Decided:
        async with scope.writing() as session:
            row = await _found(session, gid, person.inboxes, for_change=True)
            made = await tasks.decisions(session, gid)
            mine = next((each for each in made if each.actor == person.name), None)
            if mine is not None and _is_same(mine, submitted):
                return _Decided(row.task.message_gid)
            _require_open(row.task)
            if mine is not None:
                raise AlreadyDecided(f"You have decided already: {mine.outcome}.")
            if row.task.version != submitted.version:
                raise TaskChanged(
                    f"{gid} has changed since you read it: its version is {row.task.version}. Read it again."
                )
            require_may_decide(row, person)
            outcome = _checked(row, submitted)
            moment = now()
            decision = TaskDecision(
                task_gid=gid,
                actor=person.name,
                outcome=outcome.name,
                comment=submitted.comment or None,
                data=dict(submitted.data) if submitted.data is not None else None,
                decided_at=moment,
            )
            session.add(decision)
            await session.flush()
            agreeing = [each.actor for each in made if each.outcome == outcome.name] + [person.name]
            is_final = outcome.effect is Effect.DECLINE or len(agreeing) >= row.task.document["quorum"]
            detail = {"outcome": outcome.name, "identifiedBy": person.identified_by, "isFinal": is_final}
            actor = Actor(person.name, person.address, person.key_gid)
            record_audit(session, actor, "task.decided", gid, tenant_gid=row.task.tenant_gid, detail=detail)
            decided = _Decided(row.task.message_gid)
            if not is_final:
                return decided
            delivery_gid = row.delivery.gid
            released = await self.conclude(session, row, person, submitted, outcome, moment, issuer)
            connection = await session.connection()
            await expect_signal(connection, [delivery_gid], moment)
            return replace(decided, input=await load_input(connection, self._defaults, delivery_gid), released=released)

    async def conclude(
        self,
        session: Session,
        row: TaskRow,
        person: Person,
        submitted: SubmittedDecision,
        outcome: Outcome,
        moment: datetime,
        issuer: Issuer,
    ) -> Released | None:
        """Close the task and end its delivery, in the transaction of the decision. Returns what a gate released."""
        task, comment = row.task, submitted.comment or None
        data = dict(submitted.data) if submitted.data is not None else None
        values = {
            "outcome": outcome.name,
            "comment": comment,
            "data": data,
            "decided_by": person.name,
            "decided_at": moment,
        }
        tasks.record_task_event(session, EventKind.TASK_DECIDED, row, outcome=outcome.name, decidedBy=person.name)
        attempted = _attempted(row, person, submitted, moment, await tasks.earlier_receipts(session, task), issuer)
        if not await tasks.close(session, task, submitted.version, values):
            raise TaskChanged(f"{task.gid} has changed since you read it. Read it again.")
        if outcome.effect is Effect.DECLINE:
            number = attempted.record.number
            await tasks.discard_declined(session, row.delivery, number, person.name, comment)
        await record_attempts(await session.connection(), [attempted], keep_history=False)
        released = None
        if outcome.effect is Effect.PASS:
            released = await pass_step(session, task, self._defaults, moment)
        else:
            actor = Actor(person.name, person.address, person.key_gid)
            ending = Ending(DeadLetterReason.DECLINED, actor, f"{task.gid} was declined")
            await decline_step(session, task.delivery_gid, ending)
        await session.flush()
        session.expire_all()
        return released

    async def delegate(self, scope: TenantScope, person: Person, gid: str, to: str, comment: str) -> TaskView:
        """Ask someone else instead of the person. The other assignees are still asked; if there are none, only `to` is
        asked from then on. Raises NotFound, AlreadyDecided, Forbidden and InvalidField."""
        async with scope.writing() as session:
            row = await _found(session, gid, person.inboxes, for_change=True)
            task = row.task
            _require_open(task)
            require_may_decide(row, person)
            _check_delegate(row, to)
            task.assignees = [*(each for each in task.assignees if each != person.name), to]
            task.version += 1
            _note(task, {"kind": "delegated", "by": person.name, "to": to, "comment": comment})
            session.add(task)
            actor = Actor(person.name, person.address, person.key_gid)
            record_audit(session, actor, "task.delegated", gid, tenant_gid=task.tenant_gid, detail={"to": to})
            tasks.record_task_event(session, EventKind.TASK_DELEGATED, row, delegatedBy=person.name, to=to)
            await session.flush()
            view = await self.get(session, gid, person.inboxes)
        self._on_change({task.message_gid})
        return view

    async def comment(self, scope: TenantScope, person: Person, gid: str, comment: str) -> TaskView:
        """Add a comment, which decides nothing. Raises NotFound, AlreadyDecided, Forbidden and InvalidField."""
        if not comment.strip():
            raise InvalidField("comment", "is required", "missing")
        async with scope.writing() as session:
            row = await _found(session, gid, person.inboxes, for_change=True)
            _require_open(row.task)
            _note(row.task, {"kind": "commented", "by": person.name, "comment": comment})
            session.add(row.task)
            actor = Actor(person.name, person.address, person.key_gid)
            record_audit(session, actor, "task.commented", gid, tenant_gid=row.task.tenant_gid)
            await session.flush()
            return await self.get(session, gid, person.inboxes)


async def _found(
    session: Session, gid: str, inboxes: frozenset[str] | None = None, *, for_change: bool = False
) -> TaskRow:
    row = await tasks.find(session, gid, for_change=for_change)
    if row is None or (inboxes is not None and inboxes.isdisjoint({row.task.endpoint_gid, row.task.escalated_to})):
        raise NotFound("task", gid)
    return row


def _require_open(task: Task) -> None:
    if task.state is TaskState.DECIDED:
        raise AlreadyDecided(f"{task.gid} was decided already: {task.outcome}.")
    if task.state is not TaskState.OPEN:
        raise AlreadyDecided(f"{task.gid} is {task.state}: nothing is to be decided any more.")


def require_may_decide(row: TaskRow, person: Person) -> None:
    """Raise Forbidden for a person who is not asked, and for the requester where the task excludes them."""
    if (why := why_not(row.task, row.inboxes, person)) is not None:
        raise Forbidden(why)


def why_not(task: Task, inboxes: Sequence[Endpoint], person: Person) -> str | None:
    """Why a person may not decide a task, which is in one inbox, or in two after its escalation. None if the person
    may."""
    if not is_asked(task, inboxes, person):
        asked = [
            name
            for inbox, assignees in _asking(task, inboxes)
            for name in assignees or [f"those who may use the inbox {inbox.gid}"]
        ]
        return f"Only {', '.join(asked)} may decide {task.gid}."
    is_requester = person.name == task.requested_by or (
        person.key_gid is not None and person.key_gid == task.requester_key_gid
    )
    if task.document["excludeRequester"] and is_requester:
        return f"The publisher of the message may not decide {task.gid}: someone else has to."
    return None


def may_decide(task: Task, inboxes: Sequence[Endpoint], person: Person) -> bool:
    return why_not(task, inboxes, person) is None


def is_asked(task: Task, inboxes: Sequence[Endpoint], person: Person) -> bool:
    """Whether a person is asked, by the inbox of the task or by the one that it was escalated to. An inbox without
    assignees asks everyone who may use it, and not those who see the task in the other inbox."""
    return any(
        is_assignee(person.name, assignees, groups_of(inbox.options))
        for inbox, assignees in _asking(task, inboxes)
        if assignees or person.inboxes is None or inbox.gid in person.inboxes
    )


def _asking(task: Task, inboxes: Sequence[Endpoint]) -> list[tuple[Endpoint, Sequence[str]]]:
    """Each inbox with those whom it asks; none: everyone who may use it."""
    own, *others = inboxes
    return [(own, task.assignees), *((each, defaults_of(each.options).get("assignees", [])) for each in others)]


def _check_delegate(row: TaskRow, to: str) -> None:
    """Raise InvalidField if a delegation to this person or group leaves no one to decide."""
    task = row.task
    if to in task.assignees:
        raise InvalidField("to", f"{to} is asked already")
    if to.startswith(GROUP) and to.removeprefix(GROUP) not in groups_of(row.inbox.options):
        raise InvalidField("to", f"the inbox has no group {to.removeprefix(GROUP)}")
    if task.document["excludeRequester"] and to == task.requested_by:
        raise InvalidField("to", f"{to} published this message, so someone else has to decide")


def _checked(row: TaskRow, submitted: SubmittedDecision) -> Outcome:
    """The outcome of a submitted decision that fits the task."""
    if row.message.payload is None:
        raise PayloadErased(f"The payload of {row.message.gid} was erased: there is nothing left to decide about.")
    outcome = outcome_of(row.task.document, submitted.outcome)
    check_comment(outcome, submitted.comment)
    if outcome.effect is Effect.PASS or submitted.data:
        check_data(row.task.document.get("form"), submitted.data)
    if len(_result(submitted)) > MAX_RESULT:
        raise PayloadTooLarge("data", f"makes the result longer than {MAX_RESULT} bytes", "too_large")
    return outcome


def _is_same(decision: TaskDecision, submitted: SubmittedDecision) -> bool:
    return (decision.outcome, decision.comment or "", decision.data or {}) == (
        submitted.outcome,
        submitted.comment,
        dict(submitted.data or {}),
    )


def _note(task: Task, note: dict[str, Any]) -> None:
    if sum("by" in each for each in task.notes) >= MAX_NOTES:  # reminders have no author
        raise InvalidField("comment", f"a task takes at most {MAX_NOTES} comments and delegations")
    task.notes = [*task.notes, {**note, "at": format_time(now())}]


def _result(submitted: SubmittedDecision) -> bytes:
    """The decision in JSON, as the publisher gets it."""
    result: dict[str, Any] = {"outcome": submitted.outcome}
    if submitted.comment:
        result["comment"] = submitted.comment
    if submitted.data is not None:
        result["data"] = dict(submitted.data)
    return orjson.dumps(result)


def shown_document(task: Task) -> bytes:
    """The task as it is shown, in one spelling, for its hash: members sorted, without white space."""
    return orjson.dumps({**task.document, "assignees": task.assignees}, option=orjson.OPT_SORT_KEYS)


def _attempted(
    row: TaskRow, person: Person, submitted: SubmittedDecision, moment: datetime, earlier: Sequence[str], issuer: Issuer
) -> Attempted:
    """A decision as an attempt, with its receipt. The verdict is `delivered` even if the person declines: a decline
    is a response, too."""
    task, delivery, payload, result = row.task, row.delivery, row.message.payload or b"", _result(submitted)
    url = f"everhook:{task.endpoint_gid}"
    record = AttemptRecord(
        attempt_gid=new_gid(Kind.ATTEMPT),
        delivery_gid=delivery.gid,
        endpoint_gid=delivery.endpoint_gid,
        round=delivery.round,
        number=delivery.attempts + 1,
        verdict=Verdict.DELIVERED,
        started_at=task.created_at,
        duration_ms=max(0, round((moment - task.created_at) / timedelta(milliseconds=1))),
        request_sha256=_sha256(payload),
        response_sha256=_sha256(result),
        response_size=len(result),
        peer_address=person.address,
        url_sha256=url_digest(url),
        signatures_sha256=signatures_digest(()),
    )
    decision = {
        "taskGid": task.gid,
        "taskVersion": submitted.version,
        "taskSha256": _sha256(shown_document(task)),
        "payloadSha256": _sha256(payload),
        "outcome": submitted.outcome,
        "commentSha256": _sha256(submitted.comment.encode()),
        "dataSha256": _sha256(orjson.dumps(submitted.data, option=orjson.OPT_SORT_KEYS)),
        "decidedBy": person.name,
        "identifiedBy": person.identified_by,
        "keyGid": person.key_gid,
        "decidedAt": format_time(moment),
        "earlierReceipts": list(earlier),
    }
    context = ReceiptContext(task.tenant_gid, delivery.message_gid, url, decision)
    transcript = Transcript(body=result, url=url, receipt=issue(record, context, issuer))
    return Attempted(record, transcript)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
