"""`send_attempt` from the database's row to the receiver's bytes and back."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import DataError, OperationalError
from standardwebhooks import Webhook
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from everhook import __version__
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import (
    AttemptOutcome,
    AttemptRecord,
    DeadLetterReason,
    DeliveryStatus,
    FailureCode,
    OperatorAction,
    OutcomeReport,
    Verdict,
)
from everhook.delivery import sender
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.store import open_round
from everhook.egress import STORED_BODY_BYTES
from everhook.endpoints import store as endpoints
from everhook.signing.schemes import SignatureScheme, new_secret, secret_key
from everhook.signing.secrets_store import encrypted_secret
from everhook.storage.engine import Database
from everhook.storage.tables import Endpoint, Message, now
from testing.receiver import Arrival, Fault, Response
from testing.waiting import assert_eventually
from tests.activities.desk import POLICY, Desk, order_for
from tests.stores.factories import KEYRING, Store

PAYLOAD = '{ "käse" : [1.0, 2e3 ,"\\u00e9"],"n":12345678901234567890 }'.encode()
"""What any re-serialising would change."""


async def set_payload(desk: Desk, message_gid: str, payload: bytes | None) -> None:
    async with desk.store.database.writing() as session:
        (await session.get_one(Message, message_gid)).payload = payload


def lowered(arrival: Arrival) -> dict[str, str]:
    return {name.lower(): value for name, value in arrival.headers}


def mac(secret: str, signed: bytes) -> str:
    return hmac.new(secret_key(secret), signed, hashlib.sha256).hexdigest()


# --- the request


@pytest.mark.parametrize("body_format", list(BodyFormat))
async def test_a_request_is_signed_in_three_ways_over_the_very_bytes_that_arrive(
    desk: Desk, body_format: BodyFormat
) -> None:
    endpoint = await desk.endpoint(format=body_format)
    secret = desk.secrets[endpoint.gid]
    delivery = await desk.delivery(endpoint)
    await set_payload(desk, delivery.message_gid, PAYLOAD)
    assert await desk.send(delivery) == AttemptOutcome(Verdict.DELIVERED, status_code=200)
    [arrival] = desk.receiver.arrivals
    headers = lowered(arrival)
    Webhook(secret).verify(arrival.body, headers, json_parse=False)
    assert headers["webhook-id"] == delivery.message_gid
    stamp = headers["webhook-timestamp"]
    assert abs(int(stamp) - datetime.now(UTC).timestamp()) < 60
    signed = f"{stamp}.".encode() + arrival.body
    assert headers["x-webhook-signature"] == f"t={stamp},v1={mac(secret, signed)}"
    assert headers["x-npayload-signature"] == f"sha256={mac(secret, arrival.body)}"


@pytest.mark.parametrize(
    ("body_format", "media_type", "template"),
    [
        (
            BodyFormat.ENVELOPE,
            "application/json",
            b'{"messageGid":"%(gid)b","channelName":"orders","payload":%(payload)b,'
            b'"metadata":{"publishedAt":"2026-01-31T12:00:00.000Z","attempt":3}}',
        ),
        (BodyFormat.EVENT, "application/json", b'{"id":"%(gid)b","type":"order.created","data":%(payload)b}'),
        (BodyFormat.RAW, "application/json", b"%(payload)b"),
        (
            BodyFormat.CLOUDEVENTS,
            "application/cloudevents+json",
            b'{"specversion":"1.0","id":"%(gid)b","source":"/channels/orders","type":"order.created",'
            b'"time":"2026-01-31T12:00:00.000Z","datacontenttype":"application/json","data":%(payload)b}',
        ),
    ],
    ids=lambda value: value.value if isinstance(value, BodyFormat) else "",
)
async def test_each_body_format_carries_the_payload_byte_for_byte(
    desk: Desk, body_format: BodyFormat, media_type: str, template: bytes
) -> None:
    delivery = await desk.delivery(await desk.endpoint(format=body_format))
    await set_payload(desk, delivery.message_gid, PAYLOAD)
    await desk.send(delivery, number=3)
    [arrival] = desk.receiver.arrivals
    assert arrival.body == template % {b"gid": delivery.message_gid.encode(), b"payload": PAYLOAD}
    assert arrival.header("content-type") == media_type
    assert arrival.header("content-length") == str(len(arrival.body))


async def test_a_request_carries_what_receivers_need_and_the_endpoints_own_headers(desk: Desk) -> None:
    delivery = await desk.delivery(await desk.endpoint(headers={"X-Team": "billing", "Authorization": "Bearer t"}))
    await desk.send(delivery)
    [arrival] = desk.receiver.arrivals
    assert (arrival.method, arrival.path) == ("POST", "/hook")
    headers = lowered(arrival)
    assert headers["user-agent"] == f"Everhook/{__version__}"
    assert headers["x-webhook-event"] == "order.created"
    assert headers["x-idempotency-key"] == delivery.message_gid
    attempt = await desk.attempt(delivery)
    assert (headers["x-everhook-delivery"], headers["x-everhook-attempt"]) == (delivery.gid, attempt.gid)
    assert headers["x-team"] == "billing"
    assert headers["authorization"] == "Bearer t"
    version, trace, span, flags = headers["traceparent"].split("-")
    assert (version, len(trace), len(span), flags) == ("00", 32, 16, "01")


async def test_an_attempt_stores_the_request_without_the_values_of_the_endpoints_own_headers(desk: Desk) -> None:
    endpoint = await desk.endpoint(headers={"Authorization": "Bearer t0p-secret"})
    delivery = await desk.delivery(endpoint)
    await desk.send(delivery)
    attempt = await desk.attempt(delivery)
    assert attempt.url == endpoint.url
    kept = dict(attempt.request_headers or [])
    sent = lowered(desk.receiver.arrivals[0])
    assert kept.pop("Authorization") == "(kept secret)"
    assert kept == {name: sent[name] for name in kept}
    assert {"webhook-id", "webhook-signature", "content-type", "traceparent"} <= kept.keys()


async def test_every_request_of_a_message_has_its_id_and_a_signature_of_its_own_time(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    delivery = await desk.delivery(endpoint)
    desk.receiver.respond(500)
    await desk.send(delivery, 1)
    await desk.send(delivery, 2)
    first, second = desk.receiver.arrivals
    assert first.id == second.id == delivery.message_gid
    assert [json.loads(arrival.body)["metadata"]["attempt"] for arrival in (first, second)] == [1, 2]
    Webhook(desk.secrets[endpoint.gid]).verify(second.body, lowered(second))


async def test_an_endpoint_may_choose_its_schemes(desk: Desk) -> None:
    endpoint = await desk.endpoint(signatures=[SignatureScheme.NPAYLOAD])
    await desk.send(await desk.delivery(endpoint))
    headers = lowered(desk.receiver.arrivals[0])
    assert "x-npayload-signature" in headers
    assert not {"webhook-signature", "x-webhook-signature"} & headers.keys()


async def test_every_secret_that_is_live_signs_and_no_other(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    leaving, gone = new_secret(), new_secret()
    async with desk.store.database.writing() as session:
        for secret, seconds in ((leaving, 60), (gone, -60)):
            expires_at = now() + timedelta(seconds=seconds)
            session.add(encrypted_secret(KEYRING, endpoint.gid, secret, expires_at=expires_at))
    await desk.send(await desk.delivery(endpoint))
    [arrival] = desk.receiver.arrivals
    for secret in (leaving, desk.secrets[endpoint.gid]):
        Webhook(secret).verify(arrival.body, lowered(arrival))
    assert len((arrival.header("webhook-signature") or "").split()) == 2


async def test_a_changed_endpoint_is_used_from_the_next_attempt_on(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    await desk.send(await desk.delivery(endpoint))
    async with desk.store.database.writing() as session:
        changed = await session.get_one(Endpoint, endpoint.gid)
        await endpoints.change(session, changed, {"url": desk.receiver.url_for("/moved")})
    await desk.send(await desk.delivery(endpoint))
    assert [arrival.path for arrival in desk.receiver.arrivals] == ["/hook", "/moved"]


# --- the record


async def test_an_attempt_is_recorded_when_it_is_reported(desk: Desk) -> None:
    desk.receiver.respond(Response(503, b"not now", (("x-why", "tired"),)))
    delivery = await desk.delivery()
    before = now()
    outcome = await desk.send(delivery)
    assert outcome == AttemptOutcome(Verdict.RETRY, status_code=503, error="http_503")
    attempt = await desk.attempt(delivery)
    [arrival] = desk.receiver.arrivals
    assert (attempt.round, attempt.number, attempt.verdict) == (1, 1, Verdict.RETRY)
    assert (attempt.status_code, attempt.error, attempt.response_body) == (503, "http_503", b"not now")
    assert ["x-why", "tired"] in (attempt.response_headers or [])
    assert attempt.request_sha256 == arrival.sha256
    assert attempt.response_sha256 == hashlib.sha256(b"not now").hexdigest()
    assert attempt.peer_address is not None
    assert before <= attempt.started_at <= now()
    assert attempt.next_attempt_at is not None
    assert POLICY.delays[0] <= attempt.next_attempt_at - attempt.started_at < POLICY.delays[0] + timedelta(seconds=5)
    stored = await desk.store.read(delivery)
    assert (stored.status, stored.attempts, stored.last_status_code) == (DeliveryStatus.RETRYING, 1, 503)
    assert stored.due_at == attempt.next_attempt_at
    assert stored.dispatched_at is not None


async def test_a_delivered_delivery_is_complete(desk: Desk) -> None:
    delivery = await desk.delivery()
    await desk.send(delivery)
    stored = await desk.store.read(delivery)
    assert (stored.status, stored.attempts, stored.due_at) == (DeliveryStatus.DELIVERED, 1, None)
    assert stored.completed_at is not None


async def test_the_last_attempt_of_a_round_announces_no_other(desk: Desk) -> None:
    desk.receiver.respond(500)
    delivery = await desk.delivery()
    await desk.send(delivery, retry=None)
    assert (await desk.attempt(delivery)).next_attempt_at is None
    assert await desk.store.status(delivery) is DeliveryStatus.SENDING


async def test_the_first_16_kib_of_a_long_response_are_stored(desk: Desk) -> None:
    body = bytes(range(256)) * 200
    desk.receiver.respond(Response(500, body))
    delivery = await desk.delivery()
    await desk.send(delivery)
    attempt = await desk.attempt(delivery)
    assert attempt.response_body == body[:STORED_BODY_BYTES]
    assert attempt.response_size == STORED_BODY_BYTES


async def test_nul_characters_of_a_response_are_removed_from_text_and_kept_in_the_body(desk: Desk) -> None:
    desk.receiver.respond(Response(200, b"a\0b"))
    delivery = await desk.delivery()
    await desk.send(delivery)
    assert (await desk.attempt(delivery)).response_body == b"a\0b"


@pytest.mark.parametrize(
    ("step", "code"),
    [(Fault.RESET, FailureCode.RESET), (Fault.GARBAGE, FailureCode.PROTOCOL), (Fault.HANG, FailureCode.TIMEOUT_TOTAL)],
)
async def test_a_request_without_a_response_is_retried_and_its_failure_is_recorded(
    desk: Desk, step: Fault, code: FailureCode
) -> None:
    desk.receiver.respond(step)
    delivery = await desk.delivery()
    outcome = await desk.send(delivery, timeout=timedelta(seconds=0.3))
    assert (outcome.verdict, outcome.status_code, outcome.error) == (Verdict.RETRY, None, code)
    attempt = await desk.attempt(delivery)
    assert (attempt.error, attempt.response_body, attempt.response_sha256) == (code, None, None)


async def test_an_address_that_is_not_allowed_is_blocked(desk: Desk) -> None:
    delivery = await desk.delivery(await desk.endpoint(url="https://10.0.0.1/hook"))
    outcome = await desk.send(delivery)
    assert (outcome.verdict, outcome.reason) == (Verdict.REJECTED, DeadLetterReason.BLOCKED)
    assert (await desk.attempt(delivery)).error == FailureCode.BLOCKED


async def test_a_retry_after_time_is_passed_on_and_recorded(desk: Desk) -> None:
    desk.receiver.respond(Response(429, headers=(("retry-after", "90"),)))
    delivery = await desk.delivery()
    outcome = await desk.send(delivery)
    assert (outcome.verdict, outcome.retry_after) == (Verdict.RETRY, timedelta(seconds=90))
    attempt = await desk.attempt(delivery)
    assert attempt.next_attempt_at is not None
    assert timedelta(seconds=90) <= attempt.next_attempt_at - attempt.started_at < timedelta(seconds=95)


async def test_statuses_that_the_policy_adds_are_retried(desk: Desk) -> None:
    desk.receiver.respond(408)
    assert (await desk.send(await desk.delivery())).verdict is Verdict.REJECTED
    assert (await desk.send(await desk.delivery(), retry_statuses=(408,))).verdict is Verdict.RETRY


# --- asked again


@pytest.mark.parametrize(
    "step", [200, 500, 404, Response(503, headers=(("retry-after", "3600"),)), Fault.RESET], ids=str
)
async def test_a_recorded_attempt_is_not_made_again(desk: Desk, step: Any) -> None:
    desk.receiver.respond(step)
    delivery = await desk.delivery()
    first = await desk.send(delivery, retry=POLICY.plan(1, timedelta(), 0))
    arrived = desk.receiver.count
    again = await desk.send(delivery, retry=POLICY.plan(1, timedelta(), 0))
    assert desk.receiver.count == arrived
    assert (again.verdict, again.reason, again.status_code, again.error) == (
        first.verdict,
        first.reason,
        first.status_code,
        first.error,
    )
    assert len(await desk.store.attempts(delivery)) == 1
    if first.retry_after is not None:
        assert again.retry_after is not None
        assert first.retry_after - timedelta(seconds=10) < again.retry_after <= first.retry_after + timedelta(seconds=1)


async def test_a_recorded_blocked_attempt_is_still_reported_as_blocked(desk: Desk) -> None:
    delivery = await desk.delivery(await desk.endpoint(url="https://10.0.0.1/hook"))
    assert await desk.send(delivery) == await desk.send(delivery)


async def test_a_replayed_delivery_is_sent_although_its_first_round_is_recorded(desk: Desk) -> None:
    desk.receiver.respond(404, 200)
    delivery = await desk.delivery()
    await desk.send(delivery)
    async with desk.store.database.writing() as session:
        await open_round(session, delivery.gid, 1, OperatorAction())
    assert (await desk.send(delivery, round=2)).verdict is Verdict.DELIVERED
    assert [(a.round, a.number) for a in await desk.store.attempts(delivery)] == [(1, 1), (2, 1)]


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED])
async def test_a_delivery_that_is_over_is_not_sent(desk: Desk, status: DeliveryStatus) -> None:
    delivery = await desk.delivery(status=status)
    outcome = await desk.send(delivery)
    assert outcome.verdict is Verdict.DELIVERED
    assert desk.receiver.count == 0
    assert await desk.store.attempts(delivery) == []


async def test_a_delivery_to_a_deleted_endpoint_is_rejected_unsent(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    delivery = await desk.delivery(endpoint)
    async with desk.store.database.writing() as session:
        await endpoints.remove(session, await session.get_one(Endpoint, endpoint.gid))
    assert await desk.send(delivery) == AttemptOutcome(Verdict.REJECTED, DeadLetterReason.ENDPOINT_DELETED)
    assert desk.receiver.count == 0


@pytest.mark.parametrize("state", CircuitState)
async def test_a_delivery_with_an_erased_payload_is_rejected_unsent_in_every_state_of_the_circuit(
    desk: Desk, state: CircuitState
) -> None:
    endpoint = await desk.endpoint()
    await desk.store.circuit(endpoint, state=state, failures=1)
    delivery = await desk.delivery(endpoint)
    await set_payload(desk, delivery.message_gid, None)
    assert await desk.send(delivery) == AttemptOutcome(Verdict.REJECTED, DeadLetterReason.PAYLOAD_ERASED)
    await desk.reporter.close()
    assert desk.receiver.count == 0
    assert await desk.store.attempts(delivery) == []
    assert desk.circuits.reports == []
    assert (await desk.store.circuit(endpoint)).probe_delivery_gid is None


async def test_a_recorded_attempt_is_found_although_its_payload_was_erased_since(desk: Desk) -> None:
    delivery = await desk.delivery()
    before = await desk.send(delivery)
    await set_payload(desk, delivery.message_gid, None)
    assert (await desk.send(delivery)).verdict is before.verdict is Verdict.DELIVERED
    assert desk.receiver.count == 1


async def test_a_delivery_that_the_database_does_not_have_is_not_retried(desk: Desk) -> None:
    delivery = await desk.delivery()
    with pytest.raises(ApplicationError) as raised:
        await ActivityEnvironment().run(desk.sending.send_attempt, order_for(delivery, delivery_gid="dlv_unknown"))
    assert (raised.value.type, raised.value.non_retryable) == ("DeliveryMissing", True)


# --- the circuit


@pytest.mark.parametrize(
    ("circuit", "reason"),
    [
        ({"state": CircuitState.OPEN}, DeadLetterReason.CIRCUIT_OPEN),
        ({"hold": Hold.DISABLED}, DeadLetterReason.ENDPOINT_DISABLED),
        ({"hold": Hold.PAUSED}, None),
        ({"hold": Hold.PAUSED, "state": CircuitState.HALF_OPEN}, None),
    ],
    ids=["open", "disabled", "paused", "paused while half-open"],
)
async def test_a_delivery_is_parked_unsent_while_its_endpoint_takes_nothing(
    desk: Desk, circuit: dict[str, Any], reason: DeadLetterReason | None
) -> None:
    endpoint = await desk.endpoint()
    await desk.store.circuit(endpoint, **circuit)
    delivery = await desk.delivery(endpoint)
    outcome = await desk.send(delivery, park_check=timedelta(minutes=7))
    assert outcome == AttemptOutcome(Verdict.PARKED, reason)
    stored = await desk.store.read(delivery)
    assert (stored.status, stored.attempts) == (DeliveryStatus.PARKED, 0)
    assert stored.parked_at is not None
    assert stored.due_at is not None
    assert timedelta(minutes=6) < stored.due_at - stored.parked_at < timedelta(minutes=8)
    assert desk.receiver.count == 0
    assert await desk.store.attempts(delivery) == []


class Closing(Recorder):
    """The circuit closes just as a delivery is parked, too late for the release of parked deliveries."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.close: Callable[[], Awaitable[object]] | None = None

    async def parked(self, delivery_gid: str, due_at: datetime, *, has_workflow: bool = True) -> bool:
        assert self.close is not None
        await self.close()
        return await super().parked(delivery_gid, due_at, has_workflow=has_workflow)


async def test_a_circuit_that_closes_between_the_check_and_the_parking_is_noticed(desk: Desk) -> None:
    recorder = Closing(desk.store.database)
    desk = desk.with_(recorder=lambda _: recorder)
    endpoint = await desk.endpoint()
    await desk.store.circuit(endpoint, state=CircuitState.OPEN)
    recorder.close = lambda: desk.store.circuit(endpoint, state=CircuitState.CLOSED)
    delivery = await desk.delivery(endpoint)
    assert (await desk.send(delivery)).verdict is Verdict.DELIVERED
    stored = await desk.store.read(delivery)
    assert (stored.status, stored.parked_at) == (DeliveryStatus.DELIVERED, None)


async def test_a_payload_that_is_erased_while_its_delivery_is_parked_is_missed_at_once(desk: Desk) -> None:
    recorder = Closing(desk.store.database)
    desk = desk.with_(recorder=lambda _: recorder)
    endpoint = await desk.endpoint()
    await desk.store.circuit(endpoint, state=CircuitState.OPEN)
    delivery = await desk.delivery(endpoint)

    async def close() -> None:
        await desk.store.circuit(endpoint, state=CircuitState.CLOSED)
        await set_payload(desk, delivery.message_gid, None)

    recorder.close = close
    assert (await desk.send(delivery)).reason is DeadLetterReason.PAYLOAD_ERASED
    assert desk.receiver.count == 0


async def test_one_of_many_concurrent_attempts_at_a_half_open_circuit_is_sent(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    await desk.store.circuit(endpoint, state=CircuitState.HALF_OPEN)
    deliveries = await desk.store.deliveries(25, endpoint)
    outcomes = await asyncio.gather(*(desk.send(delivery) for delivery in deliveries))
    assert sorted(outcome.verdict for outcome in outcomes) == [Verdict.DELIVERED] + [Verdict.PARKED] * 24
    assert desk.receiver.count == 1
    statuses = [await desk.store.status(delivery) for delivery in deliveries]
    assert statuses.count(DeliveryStatus.PARKED) == 24


async def test_a_probe_that_is_asked_for_again_before_it_was_recorded_keeps_its_claim(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    delivery, other = await desk.store.deliveries(2, endpoint)
    until = now() + timedelta(minutes=1)
    await desk.store.circuit(endpoint, state=CircuitState.HALF_OPEN, probe_delivery_gid=delivery.gid, probe_until=until)
    assert (await desk.send(other)).verdict is Verdict.PARKED
    assert (await desk.send(delivery)).verdict is Verdict.DELIVERED


async def test_a_probes_claim_ends_with_its_lease(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    lost, next_ = await desk.store.deliveries(2, endpoint)
    await desk.store.circuit(endpoint, state=CircuitState.HALF_OPEN, probe_delivery_gid=lost.gid, probe_until=now())
    assert (await desk.send(next_)).verdict is Verdict.DELIVERED


async def test_only_failures_and_what_ends_a_streak_are_reported_to_the_circuit(desk: Desk) -> None:
    failing, streak, healthy = [await desk.endpoint(url=desk.receiver.url_for(path)) for path in ("/f", "/s", "/h")]
    desk.receiver.respond(500, path="/f")
    await desk.store.circuit(streak, failures=3)
    for endpoint in (failing, failing, streak, healthy):
        await desk.send(await desk.delivery(endpoint))
    await desk.reporter.close()
    assert dict(desk.circuits.reports) == {
        failing.gid: OutcomeReport(failures=2),
        streak.gid: OutcomeReport(succeeded=True),
    }


# --- the database away


class Away(Recorder):
    """The database refuses attempts a given number of times."""

    def __init__(self, database: Database, error: Exception, times: int = 10**9) -> None:
        super().__init__(database)
        self.tries = 0
        self._error = error
        self._times = times

    async def attempt(self, record: AttemptRecord, transcript: Transcript, **known: bool) -> bool:
        self.tries += 1
        if self.tries <= self._times:
            raise self._error
        return await super().attempt(record, transcript, **known)


AWAY = OperationalError("INSERT", {}, Exception("the database is away"))
POISON = DataError("INSERT", {}, Exception("no such value"))


async def test_a_short_outage_of_the_database_causes_no_second_request(desk: Desk) -> None:
    desk = desk.with_(recorder=lambda database: Away(database, AWAY, times=3))
    delivery = await desk.delivery()
    assert await desk.send(delivery) == AttemptOutcome(Verdict.DELIVERED, status_code=200)
    assert desk.receiver.count == 1
    assert (await desk.attempt(delivery)).verdict is Verdict.DELIVERED


async def test_a_database_that_stays_away_leaves_the_record_to_the_workflow(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "RECORD_PATIENCE_S", 1.0)
    monkeypatch.setattr(sender, "RECORD_RETRY_S", 0.05)
    recorder = Away(desk.store.database, AWAY)
    away = desk.with_(recorder=lambda _: recorder)
    delivery = await desk.delivery()
    outcome = await away.send(delivery)
    assert (outcome.verdict, outcome.status_code) == (Verdict.DELIVERED, 200)
    assert desk.receiver.count == 1
    assert recorder.tries > 5
    record = outcome.unrecorded
    assert record is not None
    assert (record.delivery_gid, record.number, record.verdict) == (delivery.gid, 1, Verdict.DELIVERED)
    assert record.request_sha256 == desk.receiver.arrivals[0].sha256
    await Recorder(desk.store.database).attempt(record, Transcript())
    assert (await desk.attempt(delivery)).gid == record.attempt_gid
    assert (await desk.send(delivery)).verdict is Verdict.DELIVERED
    assert desk.receiver.count == 1


async def test_a_record_that_the_database_refuses_raises_nothing_and_waits_for_nothing(desk: Desk) -> None:
    recorder = Away(desk.store.database, POISON)
    refused = desk.with_(recorder=lambda _: recorder)
    desk.receiver.respond(500)
    outcome = await refused.send(await desk.delivery())
    assert outcome.verdict is Verdict.RETRY
    assert outcome.unrecorded is not None
    assert recorder.tries == 1
    assert desk.receiver.count == 1


async def test_a_database_that_is_away_before_the_request_raises_and_sends_nothing(
    desk: Desk, lost_database: Database
) -> None:
    delivery = await desk.delivery()
    with pytest.raises(OperationalError):
        await desk.with_(store=Store(lost_database)).send(delivery)
    assert desk.receiver.count == 0


@pytest.mark.parametrize("asked_again", ["while it is under way", "when it is over"])
async def test_an_attempt_that_the_engine_cancels_is_finished_and_not_made_again(desk: Desk, asked_again: str) -> None:
    """A worker that shuts down cancels its activities, and the engine asks another, or the next one here."""
    delivery = await desk.delivery()
    respond = asyncio.Event()
    desk.receiver.respond(Response(200, until=respond))
    first = asyncio.create_task(desk.send(delivery))
    await desk.receiver.wait_for(1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    asyncio.get_running_loop().call_later(0.1, respond.set)
    if asked_again == "when it is over":

        async def is_recorded() -> None:
            assert len(await desk.store.attempts(delivery)) == 1

        await assert_eventually(is_recorded)
    assert (await desk.send(delivery)).verdict is Verdict.DELIVERED
    assert (await desk.attempt(delivery)).status_code == 200
    assert len(desk.receiver.arrivals) == 1
