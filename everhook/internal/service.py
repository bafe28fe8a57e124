"""The handlers of a process: what endpoints of the mode `internal` do with their deliveries.

Everything that a handler looks up is looked up as the tenant of the endpoint: what belongs to others does not exist.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from everhook.contracts import DeadLetterReason, FailureCode, Verdict
from everhook.delivery.body_formats import timestamp
from everhook.delivery.classify import Classification
from everhook.delivery.handling import Job, Made, Postponed
from everhook.delivery.inputs import NewDelivery
from everhook.egress import EgressClient, Exchange, LocalError
from everhook.endpoints import store as endpoints
from everhook.endpoints.store import route_to
from everhook.errors import NotFound
from everhook.ids import Kind, first_gid_at, is_gid, new_gid
from everhook.internal import store
from everhook.internal.chat import send_chat
from everhook.internal.email import Mailer
from everhook.internal.options import HandlerKind
from everhook.internal.payloads import (
    Escalation,
    InvalidPayload,
    Reminder,
    parse_escalation,
    parse_reminder,
)
from everhook.notifications.events import is_reserved
from everhook.publishing.matching import parse_exactly
from everhook.publishing.publication import Accepted, PayloadRefused, Publication, Refused, UnknownChannel
from everhook.publishing.routing import Route
from everhook.publishing.store import Acceptor
from everhook.settings import Settings
from everhook.storage.engine import Database, Session
from everhook.storage.tables import now
from everhook.storage.tenant_scope import TenantScope

REMINDER = "reminder"
"""The type of the messages that a reminder sends."""


def mailer_of(settings: Settings) -> Mailer | None:
    """None if no SMTP server is configured."""
    if settings.smtp_server is None or settings.smtp_from is None:
        return None
    return Mailer(settings.smtp_server, settings.smtp_from, tuple(settings.smtp_domains))


class InternalHandlers:
    """One for each process."""

    def __init__(
        self,
        database: Database,
        egress: EgressClient,
        acceptor: Acceptor,
        mailer: Mailer | None,
        *,
        retention: timedelta | None = None,
    ) -> None:
        """`retention`: how long messages are kept after their deliveries ended. None: for ever."""
        self._retention = retention
        self._database = database
        self._egress = egress
        self._acceptor = acceptor
        self._mailer = mailer
        self._dispatch: Callable[[Iterable[NewDelivery]], None] = lambda _: None

    def dispatch_by(self, dispatch: Callable[[Iterable[NewDelivery]], None]) -> None:
        """Have deliveries that result from handlers dispatched. Without it they are left to the reconciler."""
        self._dispatch = dispatch

    async def postponed(self, job: Job) -> Postponed | None:
        """Send the reminder that is due, unless it is the last one. None if the attempt is due, which also reports a
        payload that cannot be used."""
        try:
            if job.handler.kind is HandlerKind.REMINDER:
                later = await self._remind_until_last(job)
            elif job.handler.kind is HandlerKind.ESCALATION:
                later = await self._escalates_later(job)
            else:
                return None
        except InvalidPayload:
            return None
        if later is not None:
            async with self._database.write_connection() as connection:
                await store.postpone(connection, job.delivery_gid, later.until)
        return later

    async def make(self, job: Job) -> Made:
        """Make the attempt: the mail, the text, the last reminder, or the escalation."""
        try:
            content = _content(job)
            match job.handler.kind:
                case HandlerKind.EMAIL:
                    if self._mailer is None:
                        raise LocalError("no SMTP server is configured: EVERHOOK_SMTP_URL and EVERHOOK_SMTP_FROM")
                    return await self._mailer.make(job, content)
                case HandlerKind.CHAT:
                    return await send_chat(self._egress, job, content)
                case HandlerKind.REMINDER:
                    return _done(job, await self._last_reminder(job, content))
                case HandlerKind.ESCALATION:
                    return _done(job, await self._escalate(job, content))
        except InvalidPayload as error:
            return _refused(job, str(error))

    async def _remind_until_last(self, job: Job) -> Postponed | None:
        """Each reminder has a number, from which its idempotency key is made. Reminders that were missed, because no
        worker ran, are not made up for: the latest one alone is sent."""
        reminder = parse_reminder(_content(job), job.accepted_at)
        is_over, route = await self._reminded(job, reminder)
        number = reminder.latest_due(now())
        if is_over or (number is not None and number >= reminder.count - 1):
            return None
        if number is None:
            return Postponed(reminder.due(0), 0)
        if number >= job.step:
            await self._remind(job, reminder, number, route)
        return Postponed(reminder.due(number + 1), number + 1)

    async def _last_reminder(self, job: Job, content: Any) -> str:
        reminder = parse_reminder(content, job.accepted_at)
        is_over, route = await self._reminded(job, reminder)
        if is_over:
            return f"{reminder.until} is settled: no reminder is needed"
        _must_be_due(reminder.due(reminder.count - 1))
        await self._remind(job, reminder, reminder.count - 1, route)
        return f"reminder {reminder.count} of {reminder.count} sent to {reminder.notify}"

    async def _reminded(self, job: Job, reminder: Reminder) -> tuple[bool, Route]:
        """Whether no reminder is needed any more, and whom to remind. Raises InvalidPayload."""
        if reminder.notify == job.endpoint_gid:
            raise InvalidPayload("notify: is the endpoint of this reminder itself")
        async with self._scope(job).reading() as session:
            is_over = await store.is_settled(session, reminder.until)
            view = await endpoints.view(session, reminder.notify)
        if is_over is None and self._may_be_deleted(reminder.until):
            is_over = True
        if is_over is None:
            raise InvalidPayload("until: there is no such message or task")
        if view is None:
            raise InvalidPayload("notify: there is no such endpoint")
        return is_over, route_to(view)

    def _may_be_deleted(self, gid: str) -> bool:
        """Whether a message or a task is so old that retention has deleted it, if all deliveries of the message ended:
        it deletes no other."""
        if self._retention is None:
            return False
        kind = Kind.TASK if is_gid(gid, Kind.TASK) else Kind.MESSAGE
        return gid < first_gid_at(kind, now() - self._retention)

    async def _remind(self, job: Job, reminder: Reminder, number: int, route: Route) -> None:
        content = {
            "number": number + 1,
            "max": reminder.count,
            "until": reminder.until,
            "dueAt": timestamp(reminder.due(number)),
            "messageGid": job.message_gid,
            "deliveryGid": job.delivery_gid,
        }
        publication = _publication(job, job.channel, REMINDER, content, f"{job.delivery_gid}/reminder/{number + 1}")
        try:
            acceptance = await self._acceptor.accept_for(publication, route)
        except NotFound as error:
            raise InvalidPayload("notify: there is no such endpoint") from error
        if isinstance(acceptance, Accepted):
            self._dispatch(acceptance.new)

    async def _escalates_later(self, job: Job) -> Postponed | None:
        escalation = parse_escalation(_content(job))
        due_at = job.accepted_at + escalation.after
        if due_at <= now():
            return None
        async with self._scope(job).reading() as session:
            await self._check(session, escalation)
        return Postponed(due_at)

    async def _escalate(self, job: Job, content: Any) -> str:
        escalation = parse_escalation(content)
        async with self._scope(job).reading() as session:
            if await self._check(session, escalation):
                return f"{escalation.watch} is delivered: no escalation is needed"
        _must_be_due(job.accepted_at + escalation.after)
        key = f"{job.delivery_gid}/escalation"
        publication = _publication(job, escalation.channel, escalation.event_type, escalation.payload, key)
        acceptance = await self._acceptor.accept(publication)
        if isinstance(acceptance, UnknownChannel):
            raise InvalidPayload("then.channel: there is no such channel")
        if isinstance(acceptance, Refused):
            raise InvalidPayload(f"then.channel: the gate of the channel: {acceptance.message}")
        if isinstance(acceptance, PayloadRefused):
            raise InvalidPayload(f"then.{acceptance.fault}: the channel rejects it")
        if isinstance(acceptance, Accepted):
            self._dispatch(acceptance.new)
        return f"{escalation.watch} is not delivered: {acceptance.message_gid} published to {escalation.channel}"

    async def _check(self, session: Session, escalation: Escalation) -> bool:
        """Whether what is watched is delivered. Raises InvalidPayload."""
        is_delivered = await store.is_delivered(session, escalation.watch)
        if is_delivered is None:
            raise InvalidPayload("watch: there is no such message")
        if is_reserved(escalation.channel):
            raise InvalidPayload("then.channel: only Everhook itself publishes to this channel")
        if not await store.channel_exists(session, escalation.channel):
            raise InvalidPayload("then.channel: there is no such channel")
        return is_delivered

    def _scope(self, job: Job) -> TenantScope:
        return TenantScope(self._database, job.tenant_gid)


def _must_be_due(moment: datetime) -> None:
    """Raise LocalError for an attempt that is not due: the clock was set back. Another attempt follows."""
    if moment > now():
        raise LocalError("is not due yet")


def _content(job: Job) -> Any:
    """The parsed payload. Raises InvalidPayload for what is nested too deeply."""
    try:
        return parse_exactly(job.payload)
    except (ValueError, RecursionError):
        raise InvalidPayload("the payload: cannot be parsed") from None


def _publication(job: Job, channel: str, event_type: str, content: Any, key: str) -> Publication:
    """A message of Everhook to endpoints of the job's tenant. The same key has the same payload."""
    try:
        payload = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        raise InvalidPayload("then.payload: has a number that is too large") from None
    return Publication(
        message_gid=new_gid(Kind.MESSAGE),
        channel=channel,
        event_type=event_type,
        payload=payload,
        content=content,
        body_sha256=hashlib.sha256(event_type.encode() + b"\0" + payload).hexdigest(),
        published_at=now(),
        tenant_gid=job.tenant_gid,
        idempotency_key=key,
    )


def _done(job: Job, text: str) -> Made:
    exchange = Exchange(status=None, failure=None, detail=text, duration=timedelta(), body=text.encode())
    return _made(job, exchange, Classification(Verdict.DELIVERED, healthy=True))


def _refused(job: Job, reason: str) -> Made:
    exchange = Exchange(status=None, failure=FailureCode.INVALID_PAYLOAD, detail=reason, duration=timedelta())
    return _made(job, exchange, Classification(Verdict.REJECTED, DeadLetterReason.REJECTED))


def _made(job: Job, exchange: Exchange, classification: Classification) -> Made:
    return Made((("x-everhook-handler", job.handler.kind.value),), job.payload, exchange, classification)
