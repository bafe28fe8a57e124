"""`send_attempt`: one try of a delivery, from what the database knows to what it must know."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.circuits import OutcomeReporter
from activities.express import ExpressLane
from everhook import __version__, tracing
from everhook.circuit import CircuitState, Hold
from everhook.contracts import AttemptOrder, AttemptOutcome, AttemptRecord, DeadLetterReason, Verdict
from everhook.egress import EgressClient, Exchange
from everhook.envelope import Content, render
from everhook.ids import Kind, new_gid
from everhook.keyring import KeyRing
from everhook.metrics import ATTEMPT_SECONDS, ATTEMPTS, DELIVERY_SECONDS
from everhook.receipt_issuer import Issuer, Subject, issue, url_digest
from everhook.receipts import signatures_digest
from everhook.signing import signature_headers
from everhook.storage.attempts import Bases, Basis, Recorder, Target, Targets, Transcript, claim_probe
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.receipt_keys import IssuerCache
from everhook.trace_context import of_message
from everhook.tracing import Span
from everhook.verdict import RETRY_AFTER_STATUSES, Judgement, classify

RECORD_PATIENCE_S = 5.0
"""How long a finished attempt waits here for the database, before the workflow is asked to have it recorded."""

RECORD_RETRY_S = 0.25

PROBE_LEASE_MARGIN = timedelta(seconds=30)

_PARKED_TOO_LONG = {
    None: DeadLetterReason.CIRCUIT_OPEN,
    Hold.DISABLED: DeadLetterReason.ENDPOINT_DISABLED,
    Hold.PAUSED: None,
}

log = structlog.get_logger()


class Sending:
    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        issuers: IssuerCache,
        egress: EgressClient,
        reporter: OutcomeReporter,
        express: ExpressLane,
        keyring: KeyRing,
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._issuers = issuers
        self._egress = egress
        self._reporter = reporter
        self._express = express
        self._under_way: dict[tuple[str, int, int], asyncio.Task[AttemptOutcome]] = {}
        self._bases = Bases(database)
        self._targets = Targets(database, keyring)

    @activity.defn(name="send_attempt")
    async def send_attempt(self, order: AttemptOrder) -> AttemptOutcome:
        """Load, sign, post, record; returns once the attempt is on record.

        An attempt that is on record already (the engine lost our answer and asks again) is not made again. Faults of
        our own raise before the request and are retried by Temporal; behind it nothing raises, for that would send
        again. What the endpoint does is a value.
        """
        if order.express and not self._express.admits(order.endpoint_gid):
            return AttemptOutcome(Verdict.DEFERRED)
        with self._express.occupied(order.endpoint_gid):
            basis, target = await self._load(order)
            if (known := _known_outcome(order, basis)) is not None:
                return known
            if not await self._may_send(order, basis):
                await self._recorder.parked(order.delivery_gid, datetime.now(UTC) + order.park_check)
                # It may have closed, and released those parked by then, while we were parking: look once more.
                basis, target = await self._load(order)
                if (known := _known_outcome(order, basis)) is not None:
                    return known
                if not await self._may_send(order, basis):
                    return AttemptOutcome(Verdict.PARKED, _PARKED_TOO_LONG[basis.hold])
            return await self._see_through(order, basis, target)

    async def _see_through(self, order: AttemptOrder, basis: Basis, target: Target) -> AttemptOutcome:
        """What was begun is finished and put on record, also where the engine cancels us: it takes a workflow out of
        its cache with the local activity that it waits for, and asks for the same attempt again 10 s later. Then the
        one under way answers, or its record, and nothing is sent twice (of 500 messages at once to an endpoint that
        took 2 s to answer, 36 were)."""
        attempt = (order.delivery_gid, order.round, order.number)
        task = self._under_way.get(attempt)
        if task is None:
            task = self._under_way[attempt] = asyncio.create_task(self._send(order, basis, target))
            task.add_done_callback(lambda _: self._under_way.pop(attempt))
        return await asyncio.shield(task)

    async def _load(self, order: AttemptOrder) -> tuple[Basis, Target]:
        basis = await self._bases.load(order.delivery_gid)
        if basis is None:
            raise ApplicationError(f"{order.delivery_gid} is not in the database", type="DeliveryMissing")
        return basis, await self._targets.get(order.endpoint_gid, basis.endpoint_version)

    async def _may_send(self, order: AttemptOrder, basis: Basis) -> bool:
        if basis.hold is not None or basis.state is CircuitState.OPEN:
            return False
        if basis.state is CircuitState.CLOSED:
            return True
        async with self._database.write_connection() as connection:
            return await claim_probe(
                connection, order.endpoint_gid, order.delivery_gid, order.timeout + PROBE_LEASE_MARGIN
            )

    async def _send(self, order: AttemptOrder, basis: Basis, target: Target) -> AttemptOutcome:
        with tracing.span("attempt", of_message(basis.message_gid, basis.traceparent)) as span:
            return await self._exchange(order, basis, target, span)

    async def _exchange(self, order: AttemptOrder, basis: Basis, target: Target, span: Span) -> AttemptOutcome:
        issuer = await self._issuers.get()
        started_at = datetime.now(UTC)
        issuer.must_sign_at(started_at)
        headers, body = _request(order, basis, target, started_at, span)
        exchange = await self._egress.post(target.url, headers, body, order.timeout, target.tls)
        retry_after = exchange.retry_after if exchange.status in RETRY_AFTER_STATUSES else None
        judgement = classify(
            exchange.status,
            exchange.failure,
            named_return=retry_after is not None,
            retry_statuses=order.retry_statuses,
        )
        record = _record(order, exchange, judgement, started_at, target.url, headers, body, retry_after)
        subject = Subject(target.tenant_gid, basis.message_gid, target.url)
        recorded = await self._put_on_record(record, _transcript(exchange, target, headers), subject, issuer)
        self._express.note(order.endpoint_gid, exchange.duration)
        in_streak = basis.failures > 0 or basis.state is not CircuitState.CLOSED
        self._reporter.note(order.endpoint_gid, target.tenant, judgement, in_streak=in_streak)
        _count_attempt(record, basis)
        facts = _facts(record, basis, target)
        span.note(facts, failed=record.error is not None)
        log.info("attempt", **facts)
        return AttemptOutcome(
            verdict=judgement.verdict,
            reason=judgement.reason,
            status_code=exchange.status,
            error=record.error,
            retry_after=retry_after if judgement.verdict is Verdict.RETRY else None,
            unrecorded=None if recorded else record,
        )

    async def _put_on_record(
        self, record: AttemptRecord, transcript: Transcript, subject: Subject, issuer: Issuer
    ) -> bool:
        """Sign, and try for a few seconds. False, never an exception: that would have the request made again."""
        give_up_at = time.monotonic() + RECORD_PATIENCE_S
        while True:
            try:
                stated = replace(transcript, receipt=issue(record, subject, issuer))
                await asyncio.wait_for(self._recorder.attempt(record, stated), RECORD_PATIENCE_S)
                return True
            except Exception as error:
                if not is_unavailable(error) and not isinstance(error, TimeoutError):
                    log.exception("could not record an attempt", attempt_gid=record.attempt_gid)
                    return False
                if time.monotonic() >= give_up_at:
                    log.warning("the database is away, the workflow will record", attempt_gid=record.attempt_gid)
                    return False
            await asyncio.sleep(RECORD_RETRY_S)


def _known_outcome(order: AttemptOrder, basis: Basis) -> AttemptOutcome | None:
    """What is certain without a request: this attempt's recorded outcome, a delivery that is over, a deleted
    endpoint, an erased payload."""
    if basis.has_recorded(order.round, order.number) and basis.last_verdict is not None:
        return AttemptOutcome(
            verdict=basis.last_verdict,
            reason=_recorded_reason(basis),
            status_code=basis.last_status_code,
            error=basis.last_error,
            retry_after=_time_left(basis.next_attempt_at),
        )
    if basis.is_settled:
        return AttemptOutcome(Verdict.DELIVERED)
    if basis.endpoint_deleted:
        return AttemptOutcome(Verdict.REJECTED, DeadLetterReason.ENDPOINT_DELETED)
    if basis.payload is None:
        return AttemptOutcome(Verdict.REJECTED, DeadLetterReason.PAYLOAD_ERASED)
    return None


def _recorded_reason(basis: Basis) -> DeadLetterReason | None:
    if basis.last_verdict is not Verdict.REJECTED:
        return None
    return DeadLetterReason.REJECTED if basis.last_status_code is not None else DeadLetterReason.BLOCKED


def _time_left(moment: datetime | None) -> timedelta | None:
    return max(moment - datetime.now(UTC), timedelta()) if moment is not None else None


def _request(
    order: AttemptOrder, basis: Basis, target: Target, moment: datetime, span: Span
) -> tuple[Sequence[tuple[str, str]], bytes]:
    """Headers and body. What is signed is what is sent: the body is made once."""
    assert basis.payload is not None  # else its outcome was known
    media_type, body = render(
        target.format,
        Content(basis.message_gid, basis.channel, basis.event_type, basis.payload, basis.published_at, order.number),
    )
    headers = [
        ("content-type", media_type),
        ("user-agent", f"Everhook/{__version__}"),
        ("x-webhook-event", basis.event_type),
        ("x-idempotency-key", basis.message_gid),
        ("traceparent", str(span.traceparent or of_message(basis.message_gid, basis.traceparent).child())),
        *_signatures(basis.message_gid, moment, body, target),
        *target.headers,
    ]
    return headers, body


def _signatures(message_gid: str, moment: datetime, body: bytes, target: Target) -> list[tuple[str, str]]:
    return signature_headers(
        message_gid,
        int(moment.timestamp()),
        body,
        target.live_keys(moment),
        target.schemes,
        target.live_ed25519_keys(moment),
    )


def _record(
    order: AttemptOrder,
    exchange: Exchange,
    judgement: Judgement,
    started_at: datetime,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    retry_after: timedelta | None,
) -> AttemptRecord:
    record = AttemptRecord(
        attempt_gid=new_gid(Kind.ATTEMPT),
        delivery_gid=order.delivery_gid,
        endpoint_gid=order.endpoint_gid,
        round=order.round,
        number=order.number,
        verdict=judgement.verdict,
        started_at=started_at,
        duration_ms=round(exchange.duration / timedelta(milliseconds=1)),
        status_code=exchange.status,
        error=_error(exchange, judgement),
        request_sha256=hashlib.sha256(body).hexdigest(),
        response_sha256=hashlib.sha256(exchange.body).hexdigest() if exchange.status is not None else None,
        response_size=len(exchange.body) if exchange.status is not None else None,
        peer_address=exchange.peer_address,
        connection_reused=exchange.reused,
        redialed=exchange.redialed,
        url_sha256=url_digest(url),
        signatures_sha256=signatures_digest(headers),
    )
    if judgement.verdict is not Verdict.RETRY or order.retry is None:
        return record
    wait = order.retry.wait(retry_after)
    return replace(record, next_attempt_at=started_at + exchange.duration + wait)


def _error(exchange: Exchange, judgement: Judgement) -> str | None:
    """The failure's name in the attempt's record: `timeout_total`, `http_503`; None where it was delivered."""
    if exchange.failure is not None:
        return exchange.failure.value
    return None if judgement.verdict is Verdict.DELIVERED else f"http_{exchange.status}"


def _transcript(exchange: Exchange, target: Target, request_headers: Sequence[tuple[str, str]]) -> Transcript:
    """NUL is the one character PostgreSQL cannot keep in text. An endpoint's own headers may hold credentials."""
    sent = request_headers[: len(request_headers) - len(target.headers)]
    return Transcript(
        detail=exchange.detail.replace("\0", "") or None,
        headers=tuple((name.replace("\0", ""), value.replace("\0", "")) for name, value in exchange.headers),
        body=exchange.body if exchange.status is not None else None,
        url=target.url,
        request_headers=(*sent, *((name, "(kept secret)") for name, _ in target.headers)),
    )


def _count_attempt(record: AttemptRecord, basis: Basis) -> None:
    duration = timedelta(milliseconds=record.duration_ms)
    ATTEMPTS.labels(record.verdict).inc()
    ATTEMPT_SECONDS.observe(duration.total_seconds())
    if record.verdict is Verdict.DELIVERED:
        DELIVERY_SECONDS.observe((record.started_at + duration - basis.accepted_at).total_seconds())


def _facts(record: AttemptRecord, basis: Basis, target: Target) -> dict[str, Any]:
    """What the one canonical log line of an attempt says, and its span, with the names of the database row."""
    return {
        "attempt_gid": record.attempt_gid,
        "delivery_gid": record.delivery_gid,
        "message_gid": basis.message_gid,
        "endpoint_gid": record.endpoint_gid,
        "tenant": target.tenant,
        "channel": basis.channel,
        "event_type": basis.event_type,
        "round": record.round,
        "number": record.number,
        "verdict": record.verdict.value,
        "status_code": record.status_code,
        "error": record.error,
        "duration_ms": record.duration_ms,
        "connection_reused": record.connection_reused,
    }
