"""One attempt of a delivery, from what the database knows to what it must know: the steps that the express lane and
the activity `send_attempt` share."""

import asyncio
import hashlib
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from temporalio.exceptions import ApplicationError

from everhook import __version__
from everhook.circuit.machine import CircuitState, Hold
from everhook.circuit.reporter import OutcomeReporter
from everhook.circuit.store import claim_probe
from everhook.contracts import (
    AttemptOrder,
    AttemptOutcome,
    AttemptRecord,
    DeadLetterReason,
    FailureCode,
    NewRateLimit,
    PreviousAttempt,
    Verdict,
)
from everhook.delivery.body_formats import Content, render
from everhook.delivery.classify import RETRY_AFTER_STATUSES, Judgement, classify
from everhook.delivery.fitness import EndpointFitness
from everhook.delivery.pacing import MISSES, Pacer
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.send_times_store import SendTimes
from everhook.delivery.snapshot_store import Bases, Basis, Target, Targets
from everhook.egress import EgressClient, Exchange, OurFault, Unsendable
from everhook.ids import Kind, new_gid
from everhook.observability import tracing
from everhook.observability.metrics import ATTEMPT_SECONDS, ATTEMPTS, DELIVERY_SECONDS
from everhook.observability.trace_context import of_message
from everhook.observability.tracing import Span
from everhook.receipts.issuer import Issuer, Subject, issue, url_digest
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.receipt import signatures_digest
from everhook.signing.schemes import signature_headers
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.keyring import KeyRing

RECORD_PATIENCE_S = 5.0
"""How long a finished attempt waits here for the database, before the workflow is asked to have it recorded."""

RECORD_RETRY_S = 0.25

RELOAD_S = 0.05
"""An attempt that waited for its endpoint's rate limit looks at its endpoint again this long before it sends."""

PROBE_LEASE_MARGIN = timedelta(seconds=30)

MAX_FAULTS_REMEMBERED = 10_000

_PARKED_TOO_LONG = {
    None: DeadLetterReason.CIRCUIT_OPEN,
    Hold.DISABLED: DeadLetterReason.ENDPOINT_DISABLED,
    Hold.PAUSED: None,
}

log = structlog.get_logger()


class Sender:
    """Makes attempts: load, sign, post, classify, record with its receipt, report to the circuit.

    What an endpoint does is a value. A fault of our own before the first byte (a secret that does not decrypt, a
    header that the HTTP client refuses, no socket) is an attempt with the error `unsendable`. Only a database that is
    away, and receipt keys that cannot be read, raise: they concern every delivery, and no attempt could be recorded.
    """

    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        issuers: IssuerCache,
        egress: EgressClient,
        reporter: OutcomeReporter,
        fitness: EndpointFitness,
        keyring: KeyRing,
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._issuers = issuers
        self._egress = egress
        self._reporter = reporter
        self._fitness = fitness
        self._under_way: dict[tuple[str, int, int], asyncio.Task[PreviousAttempt]] = {}
        self._bases = Bases(database)
        self._targets = Targets(database, keyring)
        self._pacer = Pacer(SendTimes(database))
        self._faults: dict[str, str] = {}

    async def attempt(self, order: AttemptOrder, tries: int = 1) -> AttemptOutcome:
        """An attempt that a workflow asks for, for the `tries`-th time. Returns once it is recorded.

        One that is recorded already (the engine lost our response and asks again) is not made again. Raises an error
        that has Temporal ask again later where the endpoint's rate limit does not allow a request soon.
        """
        ready = await self._ready(order)
        misses = 0
        while not isinstance(ready, AttemptOutcome) and (limit := ready[1].rate_limit) is not None:
            send_at = await self._pacer.reserve(order.endpoint_gid, limit, tries)
            if send_at - time.monotonic() > RELOAD_S:
                await self._pacer.wait(send_at - RELOAD_S)
                ready = await self._ready(order)
                if isinstance(ready, AttemptOutcome) or ready[1].rate_limit != limit:
                    continue
            if await self._pacer.wait(send_at) or (misses := misses + 1) >= MISSES:
                break
        if isinstance(ready, AttemptOutcome):
            return ready
        basis, target = ready
        made = await self._finish(order, basis, target, before_workflow=False)
        return _with_limit(made.outcome, order, target)

    async def _ready(self, order: AttemptOrder) -> tuple[Basis, Target] | AttemptOutcome:
        """What to send, and where, if a request is to be made; else the outcome without one."""
        basis, target = await self._load(order)
        if (known := _known_outcome(order, basis)) is not None:
            return _with_limit(known, order, target)
        if not await self._may_send(order, basis):
            await self._recorder.parked(order.delivery_gid, datetime.now(UTC) + order.park_check)
            # The circuit may have closed, and the parked deliveries been released, while we were parking: check again.
            basis, target = await self._load(order)
            if (known := _known_outcome(order, basis)) is not None:
                return _with_limit(known, order, target)
            if not await self._may_send(order, basis):
                return _with_limit(AttemptOutcome(Verdict.PARKED, _PARKED_TOO_LONG[basis.hold]), order, target)
        return basis, target

    async def first_attempt(self, order: AttemptOrder, basis: Basis) -> PreviousAttempt | None:
        """The first attempt of a delivery that has no workflow yet, by a process that has it in memory and knows that
        the circuit is closed. None where the endpoint was deleted, or was given a rate limit: nothing is sent."""
        target = await self._targets.get(order.endpoint_gid, basis.endpoint_version)
        if target.deleted or target.rate_limit is not None:
            return None
        return await self._finish(order, basis, target, before_workflow=True)

    async def load_basis(self, delivery_gid: str) -> Basis | None:
        """What the database knows of a delivery; None where there is no such delivery."""
        return await self._bases.load(delivery_gid)

    async def _finish(
        self, order: AttemptOrder, basis: Basis, target: Target, *, before_workflow: bool
    ) -> PreviousAttempt:
        """Finish and record an attempt that was begun, also where the caller is cancelled: a worker that shuts down
        cancels its activities, and the engine asks for the same attempt again. Then the one under way answers, or its
        record, and nothing is sent twice."""
        attempt = (order.delivery_gid, order.round, order.number)
        task = self._under_way.get(attempt)
        if task is None:
            sending = self._send(order, basis, target, before_workflow=before_workflow)
            task = self._under_way[attempt] = asyncio.create_task(sending)
            task.add_done_callback(lambda _: self._under_way.pop(attempt))
        return await asyncio.shield(task)

    async def _load(self, order: AttemptOrder) -> tuple[Basis, Target]:
        basis = await self._bases.load(order.delivery_gid)
        if basis is None:
            raise ApplicationError(f"{order.delivery_gid} is not in the database", type="DeliveryMissing")
        target = await self._targets.get(order.endpoint_gid, basis.endpoint_version)
        return replace(basis, endpoint_deleted=basis.endpoint_deleted or target.deleted), target

    async def _may_send(self, order: AttemptOrder, basis: Basis) -> bool:
        if basis.hold is not None or basis.state is CircuitState.OPEN:
            return False
        if basis.state is CircuitState.CLOSED:
            return True
        async with self._database.write_connection() as connection:
            return await claim_probe(
                connection, order.endpoint_gid, order.delivery_gid, order.timeout + PROBE_LEASE_MARGIN
            )

    async def _send(
        self, order: AttemptOrder, basis: Basis, target: Target, *, before_workflow: bool
    ) -> PreviousAttempt:
        with tracing.span("attempt", of_message(basis.message_gid, basis.traceparent)) as span:
            return await self._exchange(order, basis, target, span, before_workflow=before_workflow)

    async def _exchange(
        self, order: AttemptOrder, basis: Basis, target: Target, span: Span, *, before_workflow: bool
    ) -> PreviousAttempt:
        issuer = await self._issuers.get()
        started_at = datetime.now(UTC)
        issuer.must_sign_at(started_at)
        headers, body, exchange = await self._post(order, basis, target, started_at, span)
        retry_after = exchange.retry_after if exchange.status in RETRY_AFTER_STATUSES else None
        judgement = classify(exchange.status, exchange.failure, retry_statuses=order.retry_statuses)
        record = _record(order, exchange, judgement, started_at, target.url, headers, body, retry_after)
        subject = Subject(target.tenant_gid, basis.message_gid, target.url)
        transcript = _transcript(exchange, target, headers)
        recorded = await self._put_on_record(record, transcript, subject, issuer, before_workflow=before_workflow)
        if recorded is False:
            made = await self._recorded_before(order)
            if made is not None and made.outcome.attempt_gid != record.attempt_gid:
                return made
        self._fitness.note(order.endpoint_gid, exchange.duration, judgement)
        in_streak = basis.failures > 0 or basis.state is not CircuitState.CLOSED
        self._reporter.note(order.endpoint_gid, target.tenant, judgement, in_streak=in_streak)
        _count_attempt(record, basis)
        facts = _facts(record, basis, target)
        span.note(facts, failed=record.error is not None)
        log.info("attempt", **facts)
        outcome = AttemptOutcome(
            verdict=judgement.verdict,
            reason=judgement.reason,
            status_code=exchange.status,
            error=record.error,
            retry_after=retry_after if judgement.verdict is Verdict.RETRY else None,
            unrecorded=record if recorded is None else None,
            attempt_gid=record.attempt_gid,
            duration_ms=record.duration_ms,
        )
        return PreviousAttempt(outcome, record.next_attempt_at)

    async def _post(
        self, order: AttemptOrder, basis: Basis, target: Target, moment: datetime, span: Span
    ) -> tuple[Sequence[tuple[str, str]], bytes, Exchange]:
        """Headers and body as sent, and what came of it. What raises before the first byte is `unsendable`."""
        headers: Sequence[tuple[str, str]] = ()
        body = b""
        try:
            if target.fault is not None:
                raise Unsendable(target.fault)
            headers, body = _request(order, basis, target, moment, span)
            exchange = await self._egress.post(target.url, headers, body, order.timeout, target.tls, target.tenant_gid)
        except Exception as error:
            exchange = self._unsendable(order.endpoint_gid, error)
        else:
            self._faults.pop(order.endpoint_gid, None)
        return headers, body, exchange

    def _unsendable(self, endpoint_gid: str, error: Exception) -> Exchange:
        """Log a fault once for each endpoint. The text of an exception that is not ours may hold a secret."""
        detail = str(error) if isinstance(error, OurFault) else f"cannot be sent ({type(error).__name__})"
        if self._faults.get(endpoint_gid) != detail:
            if len(self._faults) >= MAX_FAULTS_REMEMBERED:
                self._faults.clear()
            self._faults[endpoint_gid] = detail
            where = "".join(traceback.format_tb(error.__traceback__)[-3:])
            log.error("messages to an endpoint cannot be sent", endpoint_gid=endpoint_gid, error=detail, where=where)
        return Exchange(status=None, failure=FailureCode.UNSENDABLE, detail=detail, duration=timedelta())

    async def _put_on_record(
        self, record: AttemptRecord, transcript: Transcript, subject: Subject, issuer: Issuer, *, before_workflow: bool
    ) -> bool | None:
        """Sign the receipt and record, trying for a few seconds. False: this very attempt was recorded before. None:
        it is not recorded. Never an exception: that would have the request made again."""
        give_up_at = time.monotonic() + RECORD_PATIENCE_S
        while True:
            try:
                stated = replace(transcript, receipt=issue(record, subject, issuer))
                recording = self._recorder.attempt(record, stated, before_workflow=before_workflow)
                return await asyncio.wait_for(recording, RECORD_PATIENCE_S)
            except Exception as error:
                if not is_unavailable(error) and not isinstance(error, TimeoutError):
                    log.exception("could not record an attempt", attempt_gid=record.attempt_gid)
                    return None
                if time.monotonic() >= give_up_at:
                    log.warning("the database is away, the workflow will record", attempt_gid=record.attempt_gid)
                    return None
            await asyncio.sleep(RECORD_RETRY_S)

    async def _recorded_before(self, order: AttemptOrder) -> PreviousAttempt | None:
        """What is recorded of an attempt that another process recorded first, or this one without learning of it."""
        try:
            basis = await self._bases.load(order.delivery_gid)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return None
        known = _known_outcome(order, basis) if basis is not None else None
        return PreviousAttempt(known, basis.next_attempt_at) if basis is not None and known is not None else None


def _with_limit(outcome: AttemptOutcome, order: AttemptOrder, target: Target) -> AttemptOutcome:
    """Report a rate limit that was changed since the workflow was given it: the next attempt's queue depends on it."""
    if target.rate_limit == order.rate_limit:
        return outcome
    return replace(outcome, new_rate_limit=NewRateLimit(target.rate_limit))


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
            attempt_gid=basis.last_attempt_gid,
            duration_ms=basis.last_duration_ms,
        )
    if basis.is_settled:
        return AttemptOutcome(Verdict.DELIVERED)
    if basis.endpoint_deleted:
        return AttemptOutcome(Verdict.REJECTED, DeadLetterReason.ENDPOINT_DELETED)
    if basis.payload is None:
        return AttemptOutcome(Verdict.REJECTED, DeadLetterReason.PAYLOAD_ERASED)
    return None


def _recorded_reason(basis: Basis) -> DeadLetterReason | None:
    if basis.last_error == FailureCode.UNSENDABLE:
        return DeadLetterReason.UNSENDABLE
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
    own = target.headers if request_headers else ()
    sent = request_headers[: len(request_headers) - len(own)]
    return Transcript(
        detail=exchange.detail.replace("\0", "") or None,
        headers=tuple((name.replace("\0", ""), value.replace("\0", "")) for name, value in exchange.headers),
        body=exchange.body if exchange.status is not None else None,
        url=target.url,
        request_headers=(*sent, *((name, "(kept secret)") for name, _ in own)),
    )


def _count_attempt(record: AttemptRecord, basis: Basis) -> None:
    if record.error == FailureCode.UNSENDABLE:
        return  # no request was made
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
