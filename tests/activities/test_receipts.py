"""Each attempt that is over has a receipt, which says what the receiver itself saw."""

import asyncio
import hashlib
import json
from base64 import urlsafe_b64encode
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, select
from sqlmodel import col
from temporalio.testing import ActivityEnvironment

from activities.recording import RecordingActivities
from everhook.circuit.machine import CircuitState
from everhook.contracts import AttemptRecord, Verdict
from everhook.delivery.inputs_store import InputDefaults
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.receipts.issuer import Issuer
from everhook.receipts.keys import KeySet, NoReceiptKey, ReceiptKey, jwks
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.receipt import Receipt, signatures_digest, verify_receipt
from everhook.storage.keyring import DecryptionError, KeyRing, new_master_key
from everhook.storage.tables import Delivery, Endpoint, now
from everhook.storage.tables import Receipt as ReceiptRow
from testing.receiver import Fault, Response
from tests.activities.desk import Desk
from tests.stores.factories import ISSUER

CREDENTIAL = "t0p-secret"


async def rows_of(desk: Desk, delivery: Delivery) -> list[ReceiptRow]:
    async with desk.store.database.reading() as session:
        found = await session.execute(
            select(ReceiptRow).where(col(ReceiptRow.delivery_gid) == delivery.gid).order_by(col(ReceiptRow.number))
        )
        return list(found.scalars())


async def stated(desk: Desk, row: ReceiptRow) -> Receipt:
    keys = KeySet.from_jwks(jwks((await desk.issuers.get()).keys))
    return verify_receipt(row.jws, keys).receipt


async def receipt_of(desk: Desk, delivery: Delivery) -> Receipt:
    """The one that there is, verified."""
    [row] = await rows_of(desk, delivery)
    receipt = await stated(desk, row)
    assert (row.gid, row.tenant_gid, row.attempt_gid) == (receipt.gid, receipt.tenant, receipt.attempt_gid)
    return receipt


class LateIssuer(Issuer):
    """Its keys were valid when the request was made."""

    def must_sign_at(self, moment: datetime) -> None:
        pass


class Fixed(IssuerCache):
    """An issuer with these keys."""

    def __init__(self, *keys: ReceiptKey, type_: type[Issuer] = Issuer) -> None:
        self._issuer = type_(ISSUER, keys)

    async def get(self) -> Issuer:
        return self._issuer


async def test_a_receipt_says_what_the_receiver_saw(desk: Desk) -> None:
    desk.receiver.respond(Response(202, body=b"thanks"))
    endpoint = await desk.endpoint()
    delivery = await desk.delivery(endpoint)
    await desk.send(delivery)
    receipt, attempt = await receipt_of(desk, delivery), await desk.attempt(delivery)
    [arrival] = desk.receiver.arrivals
    assert receipt.request_sha256 == hashlib.sha256(arrival.body).hexdigest()
    assert receipt.signatures_sha256 == signatures_digest(arrival.headers)
    assert receipt.response_sha256 == hashlib.sha256(b"thanks").hexdigest()
    assert (receipt.status_code, receipt.error, receipt.outcome) == (202, None, "delivered")
    assert (receipt.issuer, receipt.tenant, receipt.url) == (ISSUER, endpoint.tenant_gid, endpoint.url)
    assert receipt.peer_address == "127.0.0.1"
    assert (receipt.endpoint_gid, receipt.delivery_gid, receipt.message_gid) == (
        endpoint.gid,
        delivery.gid,
        delivery.message_gid,
    )
    assert (receipt.attempt_gid, receipt.round, receipt.number) == (attempt.gid, 1, 1)
    assert receipt.started_at == attempt.started_at
    assert receipt.ended_at - receipt.started_at == timedelta(milliseconds=attempt.duration_ms)


@pytest.mark.parametrize(
    ("step", "status", "error", "outcome"),
    [
        (503, 503, "http_503", "retry"),
        (404, 404, "http_404", "rejected"),
        (Fault.RESET, None, "reset", "retry"),
        (Fault.HANG, None, "timeout_total", "retry"),
    ],
)
async def test_a_failed_attempt_has_a_receipt_as_well(
    desk: Desk, step: Any, status: int | None, error: str, outcome: str
) -> None:
    desk.receiver.respond(step)
    delivery = await desk.delivery()
    await desk.send(delivery, timeout=timedelta(seconds=0.3))
    receipt = await receipt_of(desk, delivery)
    assert (receipt.status_code, receipt.error, receipt.outcome) == (status, error, outcome)
    assert (receipt.response_sha256 is None) == (status is None)


async def test_the_receipt_of_an_attempt_that_our_own_rules_forbade_says_so(desk: Desk) -> None:
    delivery = await desk.delivery(await desk.endpoint(url="http://10.0.0.1/"))
    await desk.send(delivery)
    receipt = await receipt_of(desk, delivery)
    assert (receipt.status_code, receipt.error, receipt.outcome) == (None, "blocked", "rejected")


async def test_a_delivery_parked_without_an_attempt_has_no_receipt(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    await desk.store.circuit(endpoint, state=CircuitState.OPEN)
    delivery = await desk.delivery(endpoint)
    assert (await desk.send(delivery)).verdict is Verdict.PARKED
    assert await rows_of(desk, delivery) == []


async def test_each_attempt_of_a_delivery_has_its_own_receipt(desk: Desk) -> None:
    desk.receiver.respond(500, 200)
    delivery = await desk.delivery()
    await desk.send(delivery)
    await desk.send(delivery, 2)
    receipts = [await stated(desk, row) for row in await rows_of(desk, delivery)]
    assert [(receipt.number, receipt.outcome) for receipt in receipts] == [(1, "retry"), (2, "delivered")]
    assert [receipt.request_sha256 for receipt in receipts] == [each.sha256 for each in desk.receiver.arrivals]


async def test_an_attempt_that_is_asked_for_again_keeps_its_receipt(desk: Desk) -> None:
    delivery = await desk.delivery()
    await desk.send(delivery)
    before = await receipt_of(desk, delivery)
    await desk.send(delivery)
    assert await receipt_of(desk, delivery) == before


async def test_when_two_make_one_attempt_at_once_the_receipt_is_of_the_recorded_one(desk: Desk) -> None:
    """The engine may think a worker lost, and ask another. Both send; one is recorded, with its own receipt."""
    desk.receiver.respond(Response(200, delay=0.1))
    for delivery in await desk.store.deliveries(5, await desk.endpoint()):
        await asyncio.gather(*(worker.send(delivery) for worker in (desk, desk.with_(), desk.with_())))
        assert (await receipt_of(desk, delivery)).attempt_gid == (await desk.attempt(delivery)).gid
    assert desk.receiver.count == 15


# Internal errors


async def test_without_its_keys_nothing_is_sent(desk: Desk) -> None:
    delivery = await desk.delivery()
    await desk.issuers.get()
    other_ring = IssuerCache(desk.store.database, KeyRing([new_master_key()]), ISSUER)
    with pytest.raises(DecryptionError):
        await desk.with_(issuers=other_ring).send(delivery)
    with pytest.raises(NoReceiptKey):
        await desk.with_(issuers=Fixed(ReceiptKey.generate(now() + timedelta(hours=1)))).send(delivery)
    assert desk.receiver.count == 0


async def test_a_signing_error_after_the_request_raises_nothing_and_loses_nothing(desk: Desk) -> None:
    retired = replace(ReceiptKey.generate(now() - timedelta(hours=1)), retired_at=now())
    delivery = await desk.delivery()
    outcome = await desk.with_(issuers=Fixed(retired, type_=LateIssuer)).send(delivery)
    assert outcome.verdict is Verdict.DELIVERED
    assert outcome.unrecorded is not None
    await recorded_late(desk, outcome.unrecorded)
    assert (await receipt_of(desk, delivery)).outcome == "delivered"
    assert desk.receiver.count == 1


# Recorded by the workflow


class Away(Recorder):
    """A database that does not take it."""

    async def attempt(self, record: AttemptRecord, transcript: Transcript, **known: bool) -> bool:
        raise ValueError("no")


async def unrecorded(desk: Desk, delivery: Delivery) -> AttemptRecord:
    outcome = await desk.with_(recorder=Away).send(delivery)
    assert outcome.unrecorded is not None
    return outcome.unrecorded


async def recorded_late(desk: Desk, record: AttemptRecord) -> None:
    recording = RecordingActivities(desk.store.database, Recorder(desk.store.database), desk.issuers, InputDefaults())
    await ActivityEnvironment().run(recording.record_attempt, record)


async def test_an_attempt_that_is_recorded_late_gets_the_receipt_that_it_would_have_had(desk: Desk) -> None:
    endpoint = await desk.endpoint(url=desk.receiver.url_for(f"/hook?key={CREDENTIAL}"))
    delivery = await desk.delivery(endpoint)
    record = await unrecorded(desk, delivery)
    await recorded_late(desk, record)
    receipt, [arrival] = await receipt_of(desk, delivery), desk.receiver.arrivals
    assert (receipt.url, receipt.tenant, receipt.message_gid) == (
        endpoint.url,
        endpoint.tenant_gid,
        delivery.message_gid,
    )
    assert receipt.signatures_sha256 == signatures_digest(arrival.headers)
    assert receipt.attempt_gid == record.attempt_gid == (await desk.attempt(delivery)).gid
    assert (await desk.attempt(delivery)).url == endpoint.url
    await recorded_late(desk, record)
    assert await receipt_of(desk, delivery) == receipt


async def test_the_record_in_a_workflow_history_contains_neither_the_url_nor_a_signature(desk: Desk) -> None:
    endpoint = await desk.endpoint(url=desk.receiver.url_for(f"/hook?key={CREDENTIAL}"))
    record = await unrecorded(desk, await desk.delivery(endpoint))
    dumped = json.dumps(asdict(record), default=str)
    assert CREDENTIAL not in dumped and "whsec" not in dumped
    for name, value in desk.receiver.arrivals[0].headers:
        assert "signature" not in name.lower() or value not in dumped


async def test_a_receipt_states_the_hash_of_a_url_that_was_changed_before_the_record(desk: Desk) -> None:
    endpoint = await desk.endpoint()
    delivery = await desk.delivery(endpoint)
    record = await unrecorded(desk, delivery)
    async with desk.store.database.writing() as session:
        (await session.get_one(Endpoint, endpoint.gid)).url = "https://elsewhere.example/"
    await recorded_late(desk, record)
    digest = urlsafe_b64encode(hashlib.sha256(endpoint.url.encode()).digest()).decode().rstrip("=")
    assert (await receipt_of(desk, delivery)).url == f"ni:///sha-256;{digest}"


async def test_nothing_is_recorded_for_a_delivery_that_was_erased_meanwhile(desk: Desk) -> None:
    delivery = await desk.delivery()
    record = await unrecorded(desk, delivery)
    async with desk.store.database.writing() as session:
        await session.execute(delete(Delivery).where(col(Delivery.gid) == delivery.gid))
    await recorded_late(desk, record)
    assert await rows_of(desk, delivery) == []
    assert await desk.store.attempts(delivery) == []
