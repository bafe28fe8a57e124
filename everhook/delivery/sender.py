"""The sender: one attempt of a delivery, from loading it to recording it. The express lane and the activity
`send_attempt` share it."""

import asyncio
import hashlib
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any
from urllib.parse import quote

import structlog
from cachetools import LRUCache
from temporalio.exceptions import ApplicationError

from everhook import __version__
from everhook.circuit.machine import CircuitState, Hold
from everhook.circuit.reporter import OutcomeReporter
from everhook.circuit.store import claim_probe
from everhook.contracts import (
    AttemptInput,
    AttemptOutcome,
    AttemptRecord,
    DeadLetterReason,
    FailureCode,
    HandlerInput,
    HandlerResult,
    NewRateLimit,
    PreviousAttempt,
    Verdict,
)
from everhook.delivery import dead_payloads_store as dead_payloads
from everhook.delivery.authorized import AuthorizedClient
from everhook.delivery.body_formats import Content, render
from everhook.delivery.classify import RETRY_AFTER_STATUSES, Classification, classify
from everhook.delivery.dead_payloads_store import is_about_dead_letter, with_payloads
from everhook.delivery.fitness import EndpointFitness
from everhook.delivery.handling import Handlers, Job, Made
from everhook.delivery.pacing import MISSES, Pacer
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.send_times_store import SendTimes
from everhook.delivery.snapshot_store import DeliverySnapshot, Destination, DestinationCache, SnapshotLoader
from everhook.delivery.turns import TurnQueue
from everhook.delivery.turns_store import Turns
from everhook.egress import EgressClient, Exchange, LocalError, UnsendableRequest
from everhook.ids import Kind, new_gid
from everhook.observability import tracing
from everhook.observability.metrics import ATTEMPT_SECONDS, ATTEMPTS, DELIVERY_SECONDS
from everhook.observability.trace_context import of_message
from everhook.observability.tracing import Span
from everhook.receipts.issuer import Issuer, ReceiptContext, issue, url_digest
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.receipt import signatures_digest
from everhook.signing.schemes import signature_headers
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.keyring import KeyRing

RECORD_PATIENCE_S = 5.0
"""How long a finished attempt waits here for the database. After that the workflow has to record it."""

RECORD_RETRY_S = 0.25

RELOAD_S = 0.05
"""An attempt that waited for a send time loads its endpoint again this long before it sends."""

PROBE_LEASE_MARGIN = timedelta(seconds=30)

TURN_MARGIN = timedelta(seconds=30)
"""What a request may take beyond its timeout: its send time, recording it, and differences of clocks."""

MAX_FAULTS_REMEMBERED = 10_000

_PARKED_TOO_LONG = {
    None: DeadLetterReason.CIRCUIT_OPEN,
    Hold.DISABLED: DeadLetterReason.ENDPOINT_DISABLED,
    Hold.PAUSED: None,
}

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")

log = structlog.get_logger()


def delivery_missing(delivery_gid: str) -> ApplicationError:
    """For a delivery that the database does not have: it was restored to an earlier time, or the tenant was erased.

    Not retryable, so that the workflow ends. If the row exists after all (the worker used another database), the
    reconciler starts the workflow again.
    """
    return ApplicationError(f"{delivery_gid} is not in the database", type="DeliveryMissing", non_retryable=True)


class Caller(Enum):
    """Who has an attempt made. `LANE`: the express lane, before there is a workflow. `REPLAY`: the same, for a replay,
    whose attempts give way to others."""

    WORKFLOW = auto()
    LANE = auto()
    REPLAY = auto()


class Sender:
    """Makes attempts: load, sign, post, classify, record with a receipt, report to the circuit.

    A failure of the endpoint is a value. A local error before the first byte (a secret that cannot be decrypted, a
    header that the HTTP client refuses, no socket) is an attempt with the error `unsendable`. Only an unavailable
    database and receipt keys that cannot be decrypted raise: they affect every delivery, and no attempt could be
    recorded.
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
        on_change: Callable[[Collection[str]], None] | None = None,
        handlers: Handlers | None = None,
        max_payload_bytes: int = dead_payloads.MAX_BYTES,
    ) -> None:
        """`on_change` is called with the message of an attempt that was recorded, after the commit. `handlers` make the
        attempts of endpoints of the mode `internal`. `max_payload_bytes` bounds events that carry a payload."""
        self._database = database
        self._max_payload_bytes = max_payload_bytes
        self._handlers = handlers
        self._on_change = on_change
        self._recorder = recorder
        self._issuers = issuers
        self._egress = egress
        self._authorized = AuthorizedClient(egress)
        self._reporter = reporter
        self._fitness = fitness
        self._under_way: dict[tuple[str, int, int], asyncio.Task[PreviousAttempt]] = {}
        self._snapshots = SnapshotLoader(database)
        self._destinations = DestinationCache(database, keyring)
        self._pacer = Pacer(SendTimes(database))
        self._turns = TurnQueue(Turns(database))
        self._faults: LRUCache[str, str] = LRUCache(MAX_FAULTS_REMEMBERED)

    async def attempt(self, input: AttemptInput, tries: int = 1) -> AttemptOutcome:
        """Make an attempt that a workflow requested, for the `tries`-th time. Returns once it is recorded.

        An attempt that is recorded already is not made again: its response to Temporal was lost. Raises an error with a
        retry delay if the endpoint's limits do not allow a request soon.
        """
        ready = await self._ready(input)
        if isinstance(ready, AttemptOutcome) or (at_once := ready[1].max_in_flight) is None:
            return await self._paced(input, ready, tries)
        began = time.monotonic()
        lease = input.timeout + TURN_MARGIN
        waits = input.rate_limit is not None  # only on the queue for limited endpoints
        turn = await self._turns.take(input.endpoint_gid, at_once, lease, tries, waits=waits)
        try:
            if time.monotonic() - began > RELOAD_S:
                ready = await self._ready(input)
            return await self._paced(input, ready, tries)
        finally:
            under_way = self._under_way.get((input.delivery_gid, input.round, input.number))
            if under_way is None:
                await self._turns.give_back(turn)
            else:  # this call was cancelled, and its request goes on
                under_way.add_done_callback(lambda _: self._turns.give_back_soon(turn))

    async def close(self) -> None:
        """Finish what goes on after the last attempt."""
        await self._turns.close()

    async def _paced(
        self, input: AttemptInput, ready: "tuple[DeliverySnapshot, Destination] | AttemptOutcome", tries: int
    ) -> AttemptOutcome:
        """Make the attempt at a time that the endpoint's rate limit allows."""
        misses = 0
        while not isinstance(ready, AttemptOutcome) and (limit := ready[1].rate_limit) is not None:
            send_at = await self._pacer.reserve(input.endpoint_gid, limit, tries)
            if send_at - time.monotonic() > RELOAD_S:
                await self._pacer.wait(send_at - RELOAD_S)
                ready = await self._ready(input)
                if isinstance(ready, AttemptOutcome) or ready[1].rate_limit != limit:
                    continue
            if await self._pacer.wait(send_at) or (misses := misses + 1) >= MISSES:
                break
        if isinstance(ready, AttemptOutcome):
            return ready
        snapshot, destination = ready
        attempted = await self._finish(input, snapshot, destination, Caller.WORKFLOW)
        return _with_limit(attempted.outcome, input, destination)

    async def handle(self, input: HandlerInput, tries: int = 1) -> HandlerResult:
        """As `attempt`, for a delivery that Everhook handles itself; or what is due before its attempt."""
        ready = await self._ready(input.attempt)
        if isinstance(ready, AttemptOutcome):
            return HandlerResult(ready)
        snapshot, destination = ready
        if self._handlers is not None and destination.fault is None:
            later = await self._handlers.postponed(_job(input.attempt, snapshot, destination, input.step))
            if later is not None:
                return HandlerResult(due_at=later.until, step=later.step)
        return HandlerResult(await self.attempt(input.attempt, tries))

    async def _ready(self, input: AttemptInput) -> tuple[DeliverySnapshot, Destination] | AttemptOutcome:
        """What to send and where, if a request has to be made; otherwise the outcome without a request."""
        snapshot, destination = await self._load(input)
        if (known := _known_outcome(input, snapshot)) is not None:
            return _with_limit(known, input, destination)
        if not await self._may_send(input, snapshot):
            await self._recorder.parked(input.delivery_gid, datetime.now(UTC) + input.park_check)
            # The circuit may have closed, and the parked deliveries may have been released, while this one was being
            # parked: check again.
            snapshot, destination = await self._load(input)
            if (known := _known_outcome(input, snapshot)) is not None:
                return _with_limit(known, input, destination)
            if not await self._may_send(input, snapshot):
                return _with_limit(AttemptOutcome(Verdict.PARKED, _PARKED_TOO_LONG[snapshot.hold]), input, destination)
        return snapshot, destination

    async def first_attempt(
        self, input: AttemptInput, snapshot: DeliverySnapshot, caller: Caller = Caller.LANE
    ) -> PreviousAttempt | None:
        """Make the first attempt of a delivery that has no workflow yet. The caller has it in memory and has checked
        that the circuit is closed. None if nothing was sent, because the endpoint was deleted or has a limit."""
        destination = await self._destinations.get(input.endpoint_gid, snapshot.endpoint_version)
        if destination.deleted or destination.queue_limit is not None:
            return None
        return await self._finish(input, snapshot, destination, caller)

    async def load_snapshot(self, delivery_gid: str) -> DeliverySnapshot | None:
        """The delivery as the database has it; None if there is no such delivery."""
        return await self._snapshots.load(delivery_gid)

    async def _finish(
        self, input: AttemptInput, snapshot: DeliverySnapshot, destination: Destination, caller: Caller
    ) -> PreviousAttempt:
        """Make an attempt and record it, even if the caller is cancelled.

        A worker that shuts down cancels its activities, and Temporal requests the same attempt again. That second
        request gets the outcome of the attempt in flight, or its record, so nothing is sent twice.
        """
        attempt = (input.delivery_gid, input.round, input.number)
        task = self._under_way.get(attempt)
        if task is None:
            sending = self._send(input, snapshot, destination, caller)
            task = self._under_way[attempt] = asyncio.create_task(sending)
            task.add_done_callback(lambda _: self._under_way.pop(attempt))
        return await asyncio.shield(task)

    async def _load(self, input: AttemptInput) -> tuple[DeliverySnapshot, Destination]:
        snapshot = await self._snapshots.load(input.delivery_gid)
        if snapshot is None:
            raise delivery_missing(input.delivery_gid)
        destination = await self._destinations.get(input.endpoint_gid, snapshot.endpoint_version)
        return replace(snapshot, endpoint_deleted=snapshot.endpoint_deleted or destination.deleted), destination

    async def _may_send(self, input: AttemptInput, snapshot: DeliverySnapshot) -> bool:
        if snapshot.hold is not None or snapshot.state is CircuitState.OPEN:
            return False
        if snapshot.state is CircuitState.CLOSED:
            return True
        async with self._database.write_connection() as connection:
            return await claim_probe(
                connection, input.endpoint_gid, input.delivery_gid, input.timeout + PROBE_LEASE_MARGIN
            )

    async def _send(
        self, input: AttemptInput, snapshot: DeliverySnapshot, destination: Destination, caller: Caller
    ) -> PreviousAttempt:
        with tracing.span("attempt", of_message(snapshot.message_gid, snapshot.traceparent)) as span:
            return await self._exchange(input, snapshot, destination, span, caller)

    async def _exchange(
        self,
        input: AttemptInput,
        snapshot: DeliverySnapshot,
        destination: Destination,
        span: Span,
        caller: Caller,
    ) -> PreviousAttempt:
        issuer = await self._issuers.get()
        started_at = datetime.now(UTC)
        issuer.must_sign_at(started_at)
        attempt_gid = new_gid(Kind.ATTEMPT)
        made = await self._make(input, snapshot, destination, attempt_gid, started_at, span)
        exchange, classification = made.exchange, made.classification
        retry_after = exchange.retry_after if exchange.status in RETRY_AFTER_STATUSES else None
        record = _record(input, made, attempt_gid, started_at, destination.url, retry_after)
        context = ReceiptContext(destination.tenant_gid, snapshot.message_gid, destination.url)
        transcript = _transcript(exchange, destination, made.headers)
        recorded = await self._record_attempt(
            record,
            transcript,
            context,
            issuer,
            caller,
            is_grouped=snapshot.group_key is not None,
        )
        if recorded is False:
            earlier = await self._recorded_before(input)
            if earlier is not None and earlier.outcome.attempt_gid != record.attempt_gid:
                return earlier
        if self._on_change is not None:
            self._on_change([snapshot.message_gid])
        self._fitness.note(input.endpoint_gid, exchange.duration, classification)
        in_streak = snapshot.failures > 0 or snapshot.state is not CircuitState.CLOSED
        self._reporter.note(input.endpoint_gid, destination.tenant, classification, in_streak=in_streak)
        _count_attempt(record, snapshot)
        facts = _facts(record, snapshot, destination)
        span.note(facts, failed=record.error is not None)
        log.info("attempt", **facts)
        outcome = AttemptOutcome(
            verdict=classification.verdict,
            reason=classification.reason,
            status_code=exchange.status,
            error=record.error,
            retry_after=retry_after if classification.verdict is Verdict.RETRY else None,
            unrecorded=record if recorded is None else None,
            attempt_gid=record.attempt_gid,
            duration_ms=record.duration_ms,
        )
        return PreviousAttempt(outcome, record.next_attempt_at)

    async def _make(
        self,
        input: AttemptInput,
        snapshot: DeliverySnapshot,
        destination: Destination,
        attempt_gid: str,
        moment: datetime,
        span: Span,
    ) -> Made:
        """What was sent, the exchange, and what it means. Anything that raises before the first byte is
        `unsendable`."""
        snapshot = await self._as_sent(input, snapshot)
        headers: Sequence[tuple[str, str]] = ()
        body = b""
        try:
            if destination.fault is not None:
                raise UnsendableRequest(destination.fault)
            if destination.handler is not None:
                made = await self._handled(input, snapshot, destination)
            else:
                headers, body = _request(input, snapshot, destination, attempt_gid, moment, span)
                exchange = await self._post(destination, headers, body, input.timeout)
                classification = classify(exchange.status, exchange.failure, retry_statuses=input.retry_statuses)
                made = Made(headers, body, exchange, classification)
        except Exception as error:
            if destination.handler is not None and is_unavailable(error):
                raise
            exchange = self._unsendable(input.endpoint_gid, error)
            return Made(headers, body, exchange, classify(exchange.status, exchange.failure))
        self._faults.pop(input.endpoint_gid, None)
        return made

    async def _as_sent(self, input: AttemptInput, snapshot: DeliverySnapshot) -> DeliverySnapshot:
        """An event about a dead letter carries that payload if its subscription says so."""
        if snapshot.payload is None or not is_about_dead_letter(snapshot.channel, snapshot.event_type):
            return snapshot
        async with self._database.read_connection() as connection:
            event = {input.delivery_gid: snapshot.payload}
            sent = await with_payloads(connection, event, max_bytes=self._max_payload_bytes)
        return replace(snapshot, payload=sent[input.delivery_gid])

    async def _post(
        self, destination: Destination, headers: Sequence[tuple[str, str]], body: bytes, timeout: timedelta
    ) -> Exchange:
        if destination.auth is not None:
            return await self._authorized.post(destination, destination.auth, headers, body, timeout)
        return await self._egress.post(destination.url, headers, body, timeout, destination.tls, destination.tenant_gid)

    async def _handled(self, input: AttemptInput, snapshot: DeliverySnapshot, destination: Destination) -> Made:
        if self._handlers is None:
            raise LocalError("this process has no handlers")
        return await self._handlers.make(_job(input, snapshot, destination))

    def _unsendable(self, endpoint_gid: str, error: Exception) -> Exchange:
        """Log a local error once for each endpoint. The text of an unknown exception is left out: it may hold a
        secret."""
        detail = str(error) if isinstance(error, LocalError) else f"cannot be sent ({type(error).__name__})"
        if self._faults.get(endpoint_gid) != detail:
            self._faults[endpoint_gid] = detail
            where = "".join(traceback.format_tb(error.__traceback__)[-3:])
            log.error("messages to an endpoint cannot be sent", endpoint_gid=endpoint_gid, error=detail, where=where)
        return Exchange(status=None, failure=FailureCode.UNSENDABLE, detail=detail, duration=timedelta())

    async def _record_attempt(
        self,
        record: AttemptRecord,
        transcript: Transcript,
        context: ReceiptContext,
        issuer: Issuer,
        caller: Caller,
        *,
        is_grouped: bool,
    ) -> bool | None:
        """Sign the receipt and record the attempt, retrying for a few seconds.

        False: this attempt was recorded before. None: it could not be recorded. Never raises: after an exception
        Temporal would have the request made again.
        """
        give_up_at = time.monotonic() + RECORD_PATIENCE_S
        while True:
            try:
                with_receipt = replace(transcript, receipt=issue(record, context, issuer))
                recording = self._recorder.attempt(
                    record,
                    with_receipt,
                    before_workflow=caller is not Caller.WORKFLOW,
                    is_grouped=is_grouped,
                    can_wait=caller is Caller.REPLAY,
                )
                async with asyncio.timeout(RECORD_PATIENCE_S):
                    return await recording
            except Exception as error:
                if not is_unavailable(error) and not isinstance(error, TimeoutError):
                    log.exception("could not record an attempt", attempt_gid=record.attempt_gid)
                    return None
                if time.monotonic() >= give_up_at:
                    log.warning("the database is unavailable; the workflow will record", attempt_gid=record.attempt_gid)
                    return None
            await asyncio.sleep(RECORD_RETRY_S)

    async def _recorded_before(self, input: AttemptInput) -> PreviousAttempt | None:
        """The record of an attempt that another process recorded first, or that this process recorded without a
        confirmation."""
        try:
            snapshot = await self._snapshots.load(input.delivery_gid)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return None
        known = _known_outcome(input, snapshot) if snapshot is not None else None
        return PreviousAttempt(known, snapshot.next_attempt_at) if snapshot is not None and known is not None else None


def _with_limit(outcome: AttemptOutcome, input: AttemptInput, destination: Destination) -> AttemptOutcome:
    """Add the endpoint's rate limit to the outcome if it differs from the workflow's: it decides the next attempt's
    queue."""
    if destination.queue_limit == input.rate_limit:
        return outcome
    return replace(outcome, new_rate_limit=NewRateLimit(destination.queue_limit))


def _known_outcome(input: AttemptInput, snapshot: DeliverySnapshot) -> AttemptOutcome | None:
    """The outcome if it is known without a request: this attempt is recorded, the delivery is over, the endpoint was
    deleted, or the payload was erased."""
    if snapshot.has_recorded(input.round, input.number) and snapshot.last_verdict is not None:
        return AttemptOutcome(
            verdict=snapshot.last_verdict,
            reason=_recorded_reason(snapshot),
            status_code=snapshot.last_status_code,
            error=snapshot.last_error,
            retry_after=_time_left(snapshot.next_attempt_at),
            attempt_gid=snapshot.last_attempt_gid,
            duration_ms=snapshot.last_duration_ms,
        )
    if snapshot.is_terminal:
        return AttemptOutcome(Verdict.DELIVERED)
    if snapshot.endpoint_deleted:
        return AttemptOutcome(Verdict.REJECTED, DeadLetterReason.ENDPOINT_DELETED)
    if snapshot.payload is None:
        return AttemptOutcome(Verdict.REJECTED, DeadLetterReason.PAYLOAD_ERASED)
    return None


def _recorded_reason(snapshot: DeliverySnapshot) -> DeadLetterReason | None:
    if snapshot.last_error == FailureCode.UNSENDABLE:
        return DeadLetterReason.UNSENDABLE
    if snapshot.last_verdict is not Verdict.REJECTED:
        return None
    return DeadLetterReason.BLOCKED if snapshot.last_error == FailureCode.BLOCKED else DeadLetterReason.REJECTED


def _time_left(moment: datetime | None) -> timedelta | None:
    return max(moment - datetime.now(UTC), timedelta()) if moment is not None else None


def _job(input: AttemptInput, snapshot: DeliverySnapshot, destination: Destination, step: int = 0) -> Job:
    assert snapshot.payload is not None and destination.handler is not None
    return Job(
        handler=destination.handler,
        delivery_gid=input.delivery_gid,
        message_gid=snapshot.message_gid,
        endpoint_gid=input.endpoint_gid,
        tenant_gid=destination.tenant_gid,
        tenant=destination.tenant,
        channel=snapshot.channel,
        event_type=snapshot.event_type,
        payload=snapshot.payload,
        accepted_at=snapshot.accepted_at,
        timeout=input.timeout,
        retry_statuses=input.retry_statuses,
        step=step,
    )


def _request(
    input: AttemptInput,
    snapshot: DeliverySnapshot,
    destination: Destination,
    attempt_gid: str,
    moment: datetime,
    span: Span,
) -> tuple[Sequence[tuple[str, str]], bytes]:
    """The headers and the body. The signed bytes are the sent bytes: the body is rendered once."""
    assert snapshot.payload is not None  # else its outcome is known
    media_type, body = render(
        destination.format,
        Content(
            snapshot.message_gid,
            snapshot.channel,
            snapshot.event_type,
            snapshot.payload,
            snapshot.published_at,
            input.number,
            input.round,
            snapshot.attributes,
        ),
    )
    headers = [
        ("content-type", media_type),
        ("user-agent", f"Everhook/{__version__}"),
        ("x-webhook-event", snapshot.event_type),
        ("x-idempotency-key", snapshot.message_gid),
        ("x-everhook-delivery", input.delivery_gid),
        ("x-everhook-attempt", attempt_gid),
        *([("x-webhook-round", str(input.round))] if input.round > 1 else ()),
        ("traceparent", str(span.traceparent or of_message(snapshot.message_gid, snapshot.traceparent).child())),
        *(attribute_headers(snapshot.attributes) if snapshot.attributes and destination.metadata_headers else ()),
        *_signatures(snapshot.message_gid, moment, body, destination),
        *destination.headers,
    ]
    return headers, body


def attribute_headers(attributes: Mapping[str, str]) -> list[tuple[str, str]]:
    """Attributes as headers; what is not printable ASCII is percent-encoded as UTF-8."""
    return [(f"x-webhook-meta-{name}".lower(), quote(value, safe=_PRINTABLE)) for name, value in attributes.items()]


def _signatures(message_gid: str, moment: datetime, body: bytes, destination: Destination) -> list[tuple[str, str]]:
    return signature_headers(
        message_gid,
        int(moment.timestamp()),
        body,
        destination.live_keys(moment),
        destination.schemes,
        destination.live_ed25519_keys(moment),
    )


def _record(
    input: AttemptInput,
    made: Made,
    attempt_gid: str,
    started_at: datetime,
    url: str,
    retry_after: timedelta | None,
) -> AttemptRecord:
    exchange, classification = made.exchange, made.classification
    record = AttemptRecord(
        attempt_gid=attempt_gid,
        delivery_gid=input.delivery_gid,
        endpoint_gid=input.endpoint_gid,
        round=input.round,
        number=input.number,
        verdict=classification.verdict,
        started_at=started_at,
        duration_ms=round(exchange.duration / timedelta(milliseconds=1)),
        status_code=exchange.status,
        error=_error(exchange, classification),
        request_sha256=hashlib.sha256(made.body).hexdigest(),
        response_sha256=hashlib.sha256(exchange.body).hexdigest() if _has_responded(exchange) else None,
        response_size=len(exchange.body) if _has_responded(exchange) else None,
        peer_address=exchange.peer_address,
        connection_reused=exchange.reused,
        redialed=exchange.redialed,
        url_sha256=url_digest(url),
        signatures_sha256=signatures_digest(made.headers),
    )
    if classification.verdict is not Verdict.RETRY or input.retry is None:
        return record
    wait = input.retry.wait(retry_after)
    return replace(record, next_attempt_at=started_at + exchange.duration + wait)


def _has_responded(exchange: Exchange) -> bool:
    """Whether there was a response. Those of handlers have no HTTP status."""
    return exchange.status is not None or exchange.body != b""


def _error(exchange: Exchange, classification: Classification) -> str | None:
    """The error in the attempt's record: `timeout_total`, `http_503`; None if the attempt delivered."""
    if exchange.failure is not None:
        return exchange.failure.value
    return None if classification.verdict is Verdict.DELIVERED else f"http_{exchange.status}"


def _transcript(exchange: Exchange, destination: Destination, request_headers: Sequence[tuple[str, str]]) -> Transcript:
    """The transcript of an exchange. NUL is removed, because PostgreSQL cannot store it in text. The values of the
    endpoint's own headers, and of the one that `auth` adds, are left out: they hold credentials."""
    own = destination.headers if request_headers else ()
    sent = request_headers[: len(request_headers) - len(own)]
    secret = [name for name, _ in own]
    if destination.auth is not None and request_headers:
        secret.append(destination.auth.header_name)
    return Transcript(
        detail=exchange.detail.replace("\0", "") or None,
        headers=tuple((name.replace("\0", ""), value.replace("\0", "")) for name, value in exchange.headers),
        body=exchange.body if _has_responded(exchange) else None,
        url=destination.url,
        request_headers=(*sent, *((name, "(kept secret)") for name in secret)),
    )


def _count_attempt(record: AttemptRecord, snapshot: DeliverySnapshot) -> None:
    if record.error == FailureCode.UNSENDABLE:
        return  # no request was made
    duration = timedelta(milliseconds=record.duration_ms)
    ATTEMPTS.labels(record.verdict).inc()
    ATTEMPT_SECONDS.observe(duration.total_seconds())
    waits_by_plan = snapshot.is_decided or snapshot.is_scheduled or snapshot.group_key is not None
    if record.verdict is Verdict.DELIVERED and record.round == 1 and not waits_by_plan:
        DELIVERY_SECONDS.observe((record.started_at + duration - snapshot.accepted_at).total_seconds())


def _facts(record: AttemptRecord, snapshot: DeliverySnapshot, destination: Destination) -> dict[str, Any]:
    """The fields of the one canonical log line of an attempt, and of its span, named like the columns of the
    database."""
    return {
        "attempt_gid": record.attempt_gid,
        "delivery_gid": record.delivery_gid,
        "message_gid": snapshot.message_gid,
        "endpoint_gid": record.endpoint_gid,
        "tenant": destination.tenant,
        "channel": snapshot.channel,
        "event_type": snapshot.event_type,
        "round": record.round,
        "number": record.number,
        "verdict": record.verdict.value,
        "status_code": record.status_code,
        "error": record.error,
        "duration_ms": record.duration_ms,
        "connection_reused": record.connection_reused,
    }
