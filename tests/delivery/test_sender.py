"""Attempts: internal errors, attempts that are made twice, and what a first attempt leaves to the workflow."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError
from sqlmodel import col
from structlog.testing import capture_logs
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from everhook.circuit.machine import Hold
from everhook.contracts import (
    AttemptOutcome,
    AttemptRecord,
    DeadLetterReason,
    DeliveryStatus,
    FailureCode,
    NewRateLimit,
    OutcomeReport,
    PreviousAttempt,
    Verdict,
)
from everhook.delivery import sender as module
from everhook.delivery import snapshot_store
from everhook.delivery.limits import UNLIMITED
from everhook.delivery.pacing import MISSES, Pacer
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.send_times_store import SendTime, SendTimes
from everhook.delivery.snapshot_store import DeliverySnapshot
from everhook.egress import EgressClient, Exchange, LocalError, TlsExtras
from everhook.endpoints import store as endpoints
from everhook.receipts.keys import KeySet, jwks
from everhook.receipts.receipt import verify_receipt
from everhook.signing.secrets_store import encrypted_secret
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.tables import Delivery, Endpoint, EndpointMinute, EndpointSecret, PendingHistory, Receipt
from testing.receiver import Response
from tests.activities.conftest import LOOPBACK
from tests.activities.desk import Desk, order_for
from tests.stores.factories import KEYRING, Store

SECRET = "s3cr3t-that-must-not-leak"


async def first_attempt(desk: Desk, delivery: Delivery, **changes: Any) -> PreviousAttempt:
    """The first attempt as the process makes it that accepted the delivery."""
    snapshot = await desk.sender.load_snapshot(delivery.gid)
    assert snapshot is not None
    made = await desk.sender.first_attempt(order_for(delivery, **changes), snapshot)
    assert made is not None
    return made


# Internal errors before the first byte

Faulty = Callable[[Desk, pytest.MonkeyPatch], Awaitable[tuple[Desk, Endpoint]]]


class Failing(EgressClient):
    """A way out that fails before the first byte."""

    def __init__(self, error: Exception) -> None:
        super().__init__(LOOPBACK)
        self._error = error

    async def post(
        self,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        timeout: timedelta,
        tls: TlsExtras | None = None,
        tenant: str = "",
    ) -> Exchange:
        raise self._error


def with_headers(**headers: str) -> Faulty:
    async def prepare(desk: Desk, _: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
        return desk, await desk.endpoint(headers=headers | {"x-key": SECRET})

    return prepare


def with_fields(**fields: Any) -> Faulty:
    async def prepare(desk: Desk, _: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
        return desk, await desk.endpoint(**fields)

    return prepare


def with_egress(error: Exception) -> Faulty:
    async def prepare(desk: Desk, _: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
        return desk.with_(egress=Failing(error)), await desk.endpoint()

    return prepare


async def with_a_lost_master_key(desk: Desk, _: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
    return desk.with_(keyring=KeyRing([new_master_key()])), await desk.endpoint()


async def with_a_secret_that_is_none(desk: Desk, _: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
    endpoint = await desk.endpoint()
    async with desk.store.database.writing() as session:
        session.add(encrypted_secret(KEYRING, endpoint.gid, SECRET))
    return desk, endpoint


async def with_a_tls_key_of_another(desk: Desk, _: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
    endpoint = await desk.endpoint()
    async with desk.store.database.writing() as session:
        await session.execute(update(Endpoint).where(col(Endpoint.gid) == endpoint.gid).values(tls_key="v1.0.AAAA"))
    return desk, endpoint


async def with_headers_that_are_none(desk: Desk, _: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
    endpoint = await desk.endpoint()
    async with desk.store.database.writing() as session:
        await session.execute(update(Endpoint).where(col(Endpoint.gid) == endpoint.gid).values(headers=[SECRET]))
    return desk, endpoint


async def with_signing_that_breaks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> tuple[Desk, Endpoint]:
    def signature_headers(*_: Any) -> Any:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(module, "signature_headers", signature_headers)
    return desk, await desk.endpoint()


FAULTS: dict[str, Faulty] = {
    "a lost master key": with_a_lost_master_key,
    "a secret that is none": with_a_secret_that_is_none,
    "a TLS key of another endpoint": with_a_tls_key_of_another,
    "signing that breaks": with_signing_that_breaks,
    "a header with a trailing blank": with_headers(**{"x-a": "1 "}),
    "a header with a line break": with_headers(**{"x-a": "1\r\nx-b: 2"}),
    "a header outside ASCII": with_headers(**{"x-a": "ä"}),
    "a header name with a blank": with_headers(**{"x a": "1"}),
    "a header that is not the endpoint's to set": with_headers(**{"content-length": "1"}),
    "headers that are none": with_headers_that_are_none,
    "a scheme that there is not": with_fields(signatures=[SECRET]),
    "no socket to be had": with_egress(LocalError("no socket to be had (EMFILE)")),
    "an unexpected error": with_egress(KeyError(SECRET)),
}


@pytest.mark.parametrize("path", ["before its workflow", "for its workflow"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_failure_before_the_first_byte_is_a_recorded_attempt_and_is_not_charged_to_the_endpoint(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, fault: Faulty, path: str
) -> None:
    faulty, endpoint = await fault(desk, monkeypatch)
    deliveries = await desk.store.deliveries(3, endpoint)
    with capture_logs() as logs:
        for delivery in deliveries:
            before = path == "before its workflow"
            outcome = (await first_attempt(faulty, delivery)).outcome if before else await faulty.send(delivery)
            assert (outcome.verdict, outcome.reason, outcome.error, outcome.status_code, outcome.unrecorded) == (
                Verdict.RETRY,
                DeadLetterReason.UNSENDABLE,
                FailureCode.UNSENDABLE,
                None,
                None,
            )
    await faulty.reporter.close()
    assert desk.receiver.count == 0
    assert (faulty.circuits.reports, await desk.store.count(EndpointMinute)) == ([], 0)
    assert faulty.fitness.is_fit(endpoint.gid)
    for delivery in deliveries:
        await assert_recorded_as_unsendable(desk, delivery)
    errors = [line for line in logs if line["log_level"] == "error"]
    assert [line["endpoint_gid"] for line in errors] == [endpoint.gid]
    assert [line["error"] for line in logs if line["event"] == "attempt"] == ["unsendable"] * 3
    assert SECRET not in str(logs) and desk.secrets[endpoint.gid] not in str(logs)


async def assert_recorded_as_unsendable(desk: Desk, delivery: Delivery) -> None:
    attempt = await desk.attempt(delivery)
    assert (attempt.verdict, attempt.error, attempt.status_code) == (Verdict.RETRY, FailureCode.UNSENDABLE, None)
    assert attempt.error_detail and SECRET not in attempt.error_detail
    assert attempt.next_attempt_at is not None
    row = await desk.store.read(delivery)
    assert (row.status, row.attempts, row.due_at) == (DeliveryStatus.RETRYING, 1, attempt.next_attempt_at)
    async with desk.store.database.reading() as session:
        found = await session.execute(select(Receipt).where(col(Receipt.delivery_gid) == delivery.gid))
        jws = found.scalar_one().jws
    receipt = verify_receipt(jws, KeySet.from_jwks(jwks((await desk.issuers.get()).keys))).receipt
    assert (receipt.outcome, receipt.error, receipt.attempt_gid) == ("retry", "unsendable", attempt.gid)


async def test_the_fault_of_a_last_attempt_is_why_the_delivery_becomes_a_dead_letter(desk: Desk) -> None:
    delivery = await desk.delivery(await desk.endpoint(headers={"x-a": "1 "}))
    expected = AttemptOutcome(Verdict.RETRY, DeadLetterReason.UNSENDABLE, error=FailureCode.UNSENDABLE)
    assert await desk.send(delivery, retry=None) == expected
    assert await desk.send(delivery, retry=None) == expected  # asked again, from the record
    assert len(await desk.store.attempts(delivery)) == 1


async def test_a_fault_that_was_fixed_and_comes_back_is_logged_again(desk: Desk) -> None:
    endpoint = await desk.endpoint()

    async def send(headers: dict[str, str]) -> Verdict:
        async with desk.store.database.writing() as session:
            await endpoints.change(session, await session.get_one(Endpoint, endpoint.gid), {"headers": headers})
        return (await desk.send(await desk.delivery(endpoint))).verdict

    with capture_logs() as logs:
        verdicts = [await send({"x-a": value}) for value in ("1 ", "1 ", "1", "1 ")]
    assert verdicts == [Verdict.RETRY, Verdict.RETRY, Verdict.DELIVERED, Verdict.RETRY]
    assert [line["endpoint_gid"] for line in logs if line["log_level"] == "error"] == [endpoint.gid] * 2


async def test_a_secret_that_can_be_decrypted_again_is_used_after_a_while(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_store, "FAULTY_S", 0.0)
    endpoint = await desk.endpoint()
    async with desk.store.database.writing() as session:
        secret = (await session.execute(select(EndpointSecret))).scalar_one()
        ciphertext, secret.secret = secret.secret, "v1.00000000.AAAA"
    assert (await desk.send(await desk.delivery(endpoint))).reason is DeadLetterReason.UNSENDABLE
    async with desk.store.database.writing() as session:
        (await session.execute(select(EndpointSecret))).scalar_one().secret = ciphertext
    assert (await desk.send(await desk.delivery(endpoint))).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("path", ["before its workflow", "for its workflow"])
async def test_a_database_that_is_away_before_the_request_is_no_attempt(
    desk: Desk, lost_database: Database, path: str
) -> None:
    delivery = await desk.delivery()
    snapshot = await desk.sender.load_snapshot(delivery.gid)
    assert snapshot is not None
    lost = desk.with_(store=Store(lost_database))
    with pytest.raises(OperationalError):
        if path == "before its workflow":
            await lost.sender.first_attempt(order_for(delivery), snapshot)
        else:
            await lost.send(delivery)
    assert desk.receiver.count == 0


# First attempts


async def test_a_first_attempt_that_delivers_ends_its_delivery(desk: Desk) -> None:
    delivery = await desk.delivery()
    made = await first_attempt(desk, delivery)
    attempt = await desk.attempt(delivery)
    assert made == PreviousAttempt(AttemptOutcome(Verdict.DELIVERED, status_code=200))
    assert (made.outcome.attempt_gid, made.outcome.duration_ms) == (attempt.gid, attempt.duration_ms)
    row = await desk.store.read(delivery)
    assert row.status is DeliveryStatus.DELIVERED and row.dispatched_at == row.completed_at is not None
    assert await desk.store.count(PendingHistory) == 1


@pytest.mark.parametrize(
    "response", [500, Response(429, headers=(("retry-after", "90"),))], ids=["failed", "named a time to come back"]
)
async def test_a_first_attempt_that_fails_says_when_the_next_one_is_due(desk: Desk, response: Any) -> None:
    desk.receiver.respond(response)
    delivery = await desk.delivery()
    made = await first_attempt(desk, delivery)
    attempt, row = await desk.attempt(delivery), await desk.store.read(delivery)
    assert made.outcome.verdict is Verdict.RETRY
    assert made.next_attempt_at == attempt.next_attempt_at == row.due_at is not None
    assert (row.status, row.dispatched_at) == (DeliveryStatus.RETRYING, None)
    assert await desk.store.count(PendingHistory) == 0


async def test_a_first_attempt_that_is_rejected_is_followed_by_no_other(desk: Desk) -> None:
    desk.receiver.respond(404)
    delivery = await desk.delivery()
    made = await first_attempt(desk, delivery)
    assert (made.outcome.verdict, made.next_attempt_at) == (Verdict.REJECTED, None)
    assert (await desk.store.read(delivery)).dispatched_at is None


async def test_a_first_attempt_to_an_endpoint_that_was_deleted_meanwhile_is_not_made(desk: Desk) -> None:
    """Its secrets are gone: the request would not be signed."""
    endpoint = await desk.endpoint()
    delivery = await desk.delivery(endpoint)
    snapshot = await desk.sender.load_snapshot(delivery.gid)
    assert snapshot is not None
    async with desk.store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, endpoint.gid))
    assert await desk.sender.first_attempt(order_for(delivery), snapshot) is None
    assert desk.receiver.count == 0
    assert await desk.store.attempts(delivery) == []


async def test_an_endpoint_that_is_deleted_as_an_attempt_begins_gets_no_unsigned_request(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = await desk.endpoint()
    delivery = await desk.delivery(endpoint)
    load = desk.sender._snapshots.load

    async def load_before_it_is_deleted(delivery_gid: str) -> DeliverySnapshot | None:
        snapshot = await load(delivery_gid)
        async with desk.store.database.writing() as session:
            await endpoints.remove(session, await session.get_one(Endpoint, endpoint.gid))
        return snapshot

    monkeypatch.setattr(desk.sender._snapshots, "load", load_before_it_is_deleted)
    assert await desk.send(delivery) == AttemptOutcome(Verdict.REJECTED, DeadLetterReason.ENDPOINT_DELETED)
    assert desk.receiver.count == 0


# One attempt, made twice


async def test_a_first_attempt_and_the_workflows_attempt_1_at_once_both_report_the_recorded_one(desk: Desk) -> None:
    """The reconciler may take a process for dead that was only slow."""
    respond = asyncio.Event()
    desk.receiver.respond(Response(500, until=respond), Response(503))
    delivery = await desk.delivery()
    other = desk.with_()
    late = asyncio.create_task(first_attempt(desk, delivery))
    await desk.receiver.wait_for(1)
    counted = await other.send(delivery)
    respond.set()
    made = await late
    for each in (desk, other):
        await each.reporter.close()
    attempt = await desk.attempt(delivery)
    assert attempt.status_code == counted.status_code == made.outcome.status_code == 503
    assert attempt.gid == counted.attempt_gid == made.outcome.attempt_gid
    assert made.next_attempt_at == attempt.next_attempt_at
    assert desk.circuits.reports == [(delivery.endpoint_gid, OutcomeReport(failures=1))]


class Forgetful(Recorder):
    """Records, and loses the connection before it can say so."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.lost = 1

    async def attempt(self, record: AttemptRecord, transcript: Transcript, **known: bool) -> bool:
        recorded = await super().attempt(record, transcript, **known)
        if self.lost:
            self.lost -= 1
            raise OperationalError("COMMIT", {}, Exception("the connection is gone"))
        return recorded


async def test_an_attempt_whose_recording_was_not_confirmed_counts_in_full(desk: Desk) -> None:
    desk.receiver.respond(500)
    forgetful = desk.with_(recorder=Forgetful)
    delivery = await desk.delivery()
    with capture_logs() as logs:
        made = await first_attempt(forgetful, delivery)
    await forgetful.reporter.close()
    attempt = await desk.attempt(delivery)
    assert (made.outcome.attempt_gid, made.outcome.unrecorded) == (attempt.gid, None)
    assert made.next_attempt_at == attempt.next_attempt_at
    assert desk.circuits.reports == [(delivery.endpoint_gid, OutcomeReport(failures=1))]
    assert [line["attempt_gid"] for line in logs if line["event"] == "attempt"] == [attempt.gid]


# Rate limits


class Times(SendTimes):
    """Gives these send times, in seconds from now, and then refuses; `before` runs ahead of each."""

    def __init__(self, *ahead_s: float, before: Callable[[], Awaitable[None]] | None = None) -> None:
        self.ahead_s = list(ahead_s)
        self.limits: list[float] = []
        self._before = before

    async def reserve(self, endpoint_gid: str, limit: float) -> SendTime:
        self.limits.append(limit)
        if not self.ahead_s:
            return SendTime(time.monotonic() + 7, reserved=False)
        if self._before is not None:
            await self._before()
        return SendTime(time.monotonic() + self.ahead_s.pop(0), reserved=True)


def paced(desk: Desk, monkeypatch: pytest.MonkeyPatch, times: Times) -> Times:
    monkeypatch.setattr(desk.sender, "_pacer", Pacer(times))
    return times


async def set_limit(desk: Desk, endpoint: Endpoint, limit: float | None) -> None:
    async with desk.store.database.writing() as session:
        await endpoints.change(session, endpoint, {"rate_limit": limit})


async def test_an_endpoint_without_a_limit_asks_for_no_send_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    times = paced(desk, monkeypatch, Times())
    outcome = await desk.send(await desk.delivery())
    assert (outcome.verdict, outcome.new_rate_limit, times.limits) == (Verdict.DELIVERED, None, [])


async def test_an_attempt_leaves_at_its_send_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = await desk.endpoint(rate_limit=2.0)
    times = paced(desk, monkeypatch, Times(0.4, 0.0, 0.0))  # the others if this machine misses the first
    began = time.monotonic()
    outcome = await desk.send(await desk.delivery(endpoint), rate_limit=2.0)
    assert (outcome.verdict, outcome.new_rate_limit, set(times.limits)) == (Verdict.DELIVERED, None, {2.0})
    assert desk.receiver.arrivals[0].monotonic - began >= 0.4


async def test_an_attempt_whose_time_is_far_is_asked_for_again_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is sent or recorded, and Temporal gets a benign error that it does not log as a failure."""
    delivery = await desk.delivery(await desk.endpoint(rate_limit=2.0))
    paced(desk, monkeypatch, Times())
    with pytest.raises(ApplicationError) as refusal:
        await desk.send(delivery)
    assert (refusal.value.type, refusal.value.category) == ("RateLimited", ApplicationErrorCategory.BENIGN)
    assert refusal.value.next_retry_delay is not None
    assert timedelta(seconds=7) < refusal.value.next_retry_delay < timedelta(seconds=8.5)
    assert desk.receiver.count == 0
    assert await desk.store.attempts(delivery) == []


async def test_a_send_time_that_is_missed_is_given_up_for_another(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not for ever: a machine that is overloaded still sends."""
    endpoint = await desk.endpoint(rate_limit=2.0)
    times = paced(desk, monkeypatch, Times(-1, 0.0, 0.0))
    assert (await desk.send(await desk.delivery(endpoint))).verdict is Verdict.DELIVERED
    assert len(times.limits) == 2
    times = paced(desk, monkeypatch, Times(*[-1] * 10))
    assert (await desk.send(await desk.delivery(endpoint))).verdict is Verdict.DELIVERED
    assert len(times.limits) == MISSES


@pytest.mark.parametrize("limit", [0.5, 50.0, None])
async def test_a_limit_that_changes_while_an_attempt_waits_counts_for_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: float | None
) -> None:
    endpoint = await desk.endpoint(rate_limit=2.0)
    times = Times(0.2, 0.0, before=lambda: set_limit(desk, endpoint, limit))
    paced(desk, monkeypatch, times)
    outcome = await desk.send(await desk.delivery(endpoint), rate_limit=2.0)
    assert outcome.verdict is Verdict.DELIVERED
    assert times.limits == ([2.0] if limit is None else [2.0, limit])
    assert outcome.new_rate_limit == NewRateLimit(limit)


async def test_an_endpoint_that_is_paused_while_an_attempt_waits_gets_none(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = await desk.endpoint(rate_limit=2.0)

    async def pause() -> None:
        await desk.store.circuit(endpoint, hold=Hold.PAUSED)

    paced(desk, monkeypatch, Times(0.4, 0.4, 0.4, before=pause))
    outcome = await desk.send(await desk.delivery(endpoint))
    assert (outcome.verdict, desk.receiver.count) == (Verdict.PARKED, 0)


# Requests in flight


async def test_no_more_requests_are_in_flight_than_the_endpoint_allows(desk: Desk) -> None:
    endpoint = await desk.endpoint(max_in_flight=2)
    desk.receiver.respond(Response(200, delay=0.05))
    deliveries = await desk.store.deliveries(8, endpoint)
    outcomes = await asyncio.gather(*(desk.send(each, rate_limit=UNLIMITED) for each in deliveries))
    assert {outcome.verdict for outcome in outcomes} == {Verdict.DELIVERED}
    assert desk.receiver.peak_in_flight == 2


async def test_an_attempt_that_gets_no_turn_is_postponed_and_burns_no_attempt(desk: Desk) -> None:
    endpoint = await desk.endpoint(max_in_flight=1)
    respond = asyncio.Event()
    desk.receiver.respond(Response(200, until=respond))
    first, second = await desk.store.deliveries(2, endpoint)
    sending = asyncio.create_task(desk.send(first))
    await desk.receiver.wait_for(1)
    with pytest.raises(ApplicationError) as refusal:  # on the queue of endpoints without limits, none waits in a slot
        await desk.send(second)
    assert (refusal.value.type, refusal.value.category) == ("MaxInFlight", ApplicationErrorCategory.BENIGN)
    assert await desk.store.attempts(second) == []
    respond.set()
    assert (await sending).new_rate_limit == NewRateLimit(UNLIMITED), "its next attempt is on the other queue"


async def test_a_request_keeps_its_turn_when_its_activity_is_cancelled(desk: Desk) -> None:
    endpoint = await desk.endpoint(max_in_flight=1)
    respond = asyncio.Event()
    desk.receiver.respond(Response(200, until=respond))
    first, second = await desk.store.deliveries(2, endpoint)
    sending = asyncio.create_task(desk.sender.attempt(order_for(first)))
    await desk.receiver.wait_for(1)
    sending.cancel()
    with pytest.raises(ApplicationError):
        await desk.send(second)
    respond.set()
    assert (await desk.send(second, rate_limit=UNLIMITED)).verdict is Verdict.DELIVERED
    assert desk.receiver.peak_in_flight == 1


async def test_a_first_attempt_to_an_endpoint_with_a_limit_is_left_to_its_workflow(desk: Desk) -> None:
    delivery = await desk.delivery(await desk.endpoint(max_in_flight=1))
    snapshot = await desk.sender.load_snapshot(delivery.gid)
    assert snapshot is not None
    assert await desk.sender.first_attempt(order_for(delivery), snapshot) is None
    assert desk.receiver.count == 0
