"""What a sender loads before it sends, the claim on a probe, and what is recorded before it reports."""

import asyncio
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlmodel import col

from everhook.circuit.machine import CircuitState, Hold
from everhook.circuit.store import claim_probe
from everhook.contracts import AttemptRecord, DeadLetterReason, DeliveryStatus, FailureCode, OperatorAction, Verdict
from everhook.delivery import history_store as history
from everhook.delivery import snapshot_store
from everhook.delivery import store as deliveries
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.history_store import Pending
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.snapshot_store import DestinationCache, SnapshotLoader
from everhook.endpoints import store as endpoints
from everhook.ids import Kind, new_gid
from everhook.receipts.issuer import SignedReceipt
from everhook.signing.schemes import SignatureScheme, secret_key
from everhook.signing.secrets_store import encrypted_secret
from everhook.storage.engine import Database, is_unavailable
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.tables import (
    DEFAULT_TENANT_GID,
    Attempt,
    Delivery,
    EndpointMinute,
    EndpointMinuteError,
    EndpointSecret,
    Receipt,
    now,
)
from tests.stores.factories import KEYRING, URL, Store, attempt_record, moment

LEASE = timedelta(seconds=45)
NOTE = OperatorAction("ada", "fixed")


@pytest.fixture
def recorder(database: Database) -> Recorder:
    return Recorder(database)


def picture(delivery: Delivery) -> dict[str, Any]:
    return delivery.model_dump()


# Recording attempts


async def test_a_success_ends_its_delivery(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    record = attempt_record(delivery, verdict=Verdict.DELIVERED, status_code=204, duration_ms=250)
    await recorder.attempt(record, Transcript())
    row = await store.read(delivery)
    assert (row.status, row.attempts, row.due_at) == (DeliveryStatus.DELIVERED, 1, None)
    assert row.completed_at == row.dispatched_at == moment(1.25)
    assert (row.last_status_code, row.last_error) == (204, None)


async def test_a_failure_that_is_followed_by_another_attempt_is_due_then(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    record = attempt_record(delivery, status_code=503, error="http_503", next_attempt_at=moment(31))
    await recorder.attempt(record, Transcript())
    row = await store.read(delivery)
    assert (row.status, row.attempts, row.due_at) == (DeliveryStatus.RETRYING, 1, moment(31))
    assert (row.completed_at, row.last_status_code, row.last_error) == (None, 503, "http_503")


@pytest.mark.parametrize(
    ("verdict", "code", "error"), [(Verdict.RETRY, None, "timeout_total"), (Verdict.REJECTED, 404, "http_404")]
)
async def test_the_end_of_a_bad_round_is_due_at_once_until_it_is_dead_lettered(
    store: Store, recorder: Recorder, verdict: Verdict, code: int | None, error: str
) -> None:
    delivery = await store.delivery(status=DeliveryStatus.RETRYING, attempts=5)
    record = attempt_record(delivery, 6, verdict=verdict, status_code=code, error=error)
    await recorder.attempt(record, Transcript())
    row = await store.read(delivery)
    assert (row.status, row.attempts, row.due_at) == (DeliveryStatus.SENDING, 6, moment(6.5))
    assert (row.last_status_code, row.last_error) == (code, error)


async def test_an_attempt_is_stored_with_the_whole_response(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    record = attempt_record(
        delivery,
        status_code=500,
        error="http_500",
        request_sha256="a" * 64,
        response_sha256="b" * 64,
        response_size=3,
        peer_address="192.0.2.1:443",
        connection_reused=True,
        redialed=True,
        next_attempt_at=moment(9),
    )
    await recorder.attempt(record, Transcript("why", (("x-a", "1"), ("x-a", "2")), b"\x00\xff!", URL, (("x-b", "3"),)))
    (row,) = await store.attempts(delivery)
    kept = row.model_dump()
    assert kept.pop("error_detail") == "why"
    assert kept.pop("url") == URL
    assert kept.pop("request_headers") == [["x-b", "3"]]
    assert kept.pop("response_headers") == [["x-a", "1"], ["x-a", "2"]]
    assert kept.pop("response_body") == b"\x00\xff!"
    kept["attempt_gid"] = kept.pop("gid")
    assert kept == {k: v for k, v in vars(record).items() if k not in ("url_sha256", "signatures_sha256")}


@pytest.mark.both_databases
async def test_an_attempt_recorded_twice_is_there_once_and_changes_nothing_more(
    store: Store, recorder: Recorder
) -> None:
    delivery = await store.delivery()
    record = attempt_record(delivery, status_code=500, next_attempt_at=moment(31))
    await recorder.attempt(record, Transcript(body=b"first"))
    first = picture(await store.read(delivery))
    await asyncio.gather(*(recorder.attempt(record, Transcript()) for _ in range(3)))
    assert picture(await store.read(delivery)) == first
    assert [row.response_body for row in await store.attempts(delivery)] == [b"first"]


async def test_each_attempt_of_each_round_is_kept(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    for round_, number in [(1, 1), (1, 2), (2, 1)]:
        if round_ == 2 and number == 1:
            async with store.database.writing() as session:
                await deliveries.open_round(session, delivery.gid, 1, NOTE)
        await recorder.attempt(attempt_record(delivery, number, round=round_), Transcript())
    assert [(row.round, row.number) for row in await store.attempts(delivery)] == [(1, 1), (1, 2), (2, 1)]
    row = await store.read(delivery)
    assert (row.round, row.attempts) == (2, 1)


@pytest.mark.parametrize(
    ("round_", "number"),
    [(2, 2), (1, 3), (1, 9)],
    ids=["an earlier attempt", "an earlier round", "a later number of an earlier round"],
)
async def test_a_late_attempt_is_stored_and_does_not_undo_newer_state(
    store: Store, recorder: Recorder, round_: int, number: int
) -> None:
    delivery = await store.delivery(status=DeliveryStatus.RETRYING, round=2, attempts=3, due_at=moment(99))
    before = picture(await store.read(delivery))
    await recorder.attempt(attempt_record(delivery, number, round=round_, status_code=500), Transcript())
    assert picture(await store.read(delivery)) == before
    assert len(await store.attempts(delivery)) == 1


@pytest.mark.parametrize("status", [DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED, DeliveryStatus.DEAD_LETTERED])
@pytest.mark.parametrize("verdict", [Verdict.DELIVERED, Verdict.RETRY])
async def test_recording_does_not_change_an_ended_delivery(
    store: Store, recorder: Recorder, status: DeliveryStatus, verdict: Verdict
) -> None:
    delivery = await store.delivery(status=status, attempts=1)
    before = picture(await store.read(delivery))
    await recorder.attempt(attempt_record(delivery, 2, verdict=verdict, next_attempt_at=moment(5)), Transcript())
    await recorder.parked(delivery.gid, moment(60))
    assert picture(await store.read(delivery)) == before


async def test_an_attempt_does_not_move_the_moment_of_dispatch(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery(dispatched_at=moment(0.5))
    await recorder.attempt(attempt_record(delivery), Transcript())
    await recorder.parked(delivery.gid, moment(60))
    assert (await store.read(delivery)).dispatched_at == moment(0.5)


@pytest.mark.both_databases
async def test_two_hundred_attempts_at_once_are_all_recorded_each_on_its_own_delivery(
    store: Store, recorder: Recorder
) -> None:
    rows = await store.deliveries(20)
    records = [attempt_record(row, n, status_code=500 + n) for row in rows for n in range(1, 11)]
    await asyncio.gather(*(recorder.attempt(record, Transcript()) for record in records))
    assert await store.count(Attempt) == 200
    for row in rows:
        assert {(a.number, a.status_code) for a in await store.attempts(row)} == {(n, 500 + n) for n in range(1, 11)}


@pytest.mark.both_databases
async def test_attempts_are_recorded_by_two_processes_at_once(
    store: Store, recorder: Recorder, other_database: Database
) -> None:
    rows = await store.deliveries(20)
    other = Recorder(other_database)
    records = [attempt_record(row, status_code=500) for row in rows]
    await asyncio.gather(
        *(recorder.attempt(record, Transcript()) for record in records),
        *(other.attempt(record, Transcript()) for record in reversed(records)),
    )
    assert await store.count(Attempt) == 20


async def test_recording_raises_unavailable_while_the_database_is_away(lost_database: Database) -> None:
    with pytest.raises(Exception) as failed:
        await Recorder(lost_database).parked("dlv_1", moment())
    assert is_unavailable(failed.value)


# First attempts, before there is a workflow


@pytest.mark.parametrize(
    ("verdict", "next_attempt_at", "status"),
    [
        (Verdict.DELIVERED, None, DeliveryStatus.DELIVERED),
        (Verdict.RETRY, moment(31), DeliveryStatus.RETRYING),
        (Verdict.REJECTED, None, DeliveryStatus.SENDING),
    ],
)
async def test_a_first_attempt_leaves_the_start_of_the_workflow_to_be_confirmed_unless_it_delivered(
    store: Store, recorder: Recorder, verdict: Verdict, next_attempt_at: datetime | None, status: DeliveryStatus
) -> None:
    delivery = await store.delivery()
    record = attempt_record(delivery, verdict=verdict, next_attempt_at=next_attempt_at)
    await recorder.attempt(record, Transcript(), before_workflow=True)
    row = await store.read(delivery)
    assert (row.status, row.attempts) == (status, 1)
    assert (row.dispatched_at is not None) == (verdict is Verdict.DELIVERED)


async def test_a_first_attempt_does_not_reset_a_confirmed_start(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery(dispatched_at=moment(0.5))
    await recorder.attempt(attempt_record(delivery), Transcript(), before_workflow=True)
    await recorder.parked(delivery.gid, moment(60), has_workflow=False)
    assert (await store.read(delivery)).dispatched_at == moment(0.5)


@pytest.mark.parametrize("keep_history", [True, False])
@pytest.mark.parametrize("before_workflow", [True, False])
@pytest.mark.parametrize("verdict", [Verdict.DELIVERED, Verdict.RETRY])
async def test_history_is_pending_for_a_delivery_delivered_before_its_workflow_where_history_is_kept(
    store: Store, database: Database, keep_history: bool, before_workflow: bool, verdict: Verdict
) -> None:
    delivery = await store.delivery()
    recorder = Recorder(database, keep_history=keep_history)
    await recorder.attempt(attempt_record(delivery, verdict=verdict), Transcript(), before_workflow=before_workflow)
    async with database.read_connection() as connection:
        found = await history.pending(connection, moment(2), 10)
    due = keep_history and before_workflow and verdict is Verdict.DELIVERED
    assert found == ([Pending(delivery.gid, moment(1.5), signal=False)] if due else [])


async def test_recording_says_whether_the_attempt_was_new(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    first, other = attempt_record(delivery), attempt_record(delivery)
    assert await recorder.attempt(first, Transcript())
    assert not await recorder.attempt(other, Transcript())
    assert not await recorder.attempt(first, Transcript())


def receipt_of(record: AttemptRecord) -> SignedReceipt:
    return SignedReceipt(new_gid(Kind.RECEIPT), DEFAULT_TENANT_GID, jws=record.attempt_gid)


@pytest.mark.both_databases
@pytest.mark.parametrize("first", ["the process", "the workflow", "both at once", "both in one group"])
async def test_a_first_attempt_and_attempt_1_of_the_workflow_are_recorded_as_one_with_its_receipt(
    store: Store, recorder: Recorder, other_database: Database, first: str
) -> None:
    delivery = await store.delivery()
    other = recorder if first == "both in one group" else Recorder(other_database)
    direct = attempt_record(delivery, verdict=Verdict.DELIVERED, status_code=200)
    asked = attempt_record(delivery, status_code=503, error="http_503", next_attempt_at=moment(31))

    def recording(record: AttemptRecord) -> Coroutine[Any, Any, bool]:
        by, before_workflow = (recorder, True) if record is direct else (other, False)
        return by.attempt(record, Transcript(receipt=receipt_of(record)), before_workflow=before_workflow)

    records = [direct, asked] if first == "the process" else [asked, direct]
    if first.startswith("both"):
        new = await asyncio.gather(*map(recording, records))
    else:
        new = [await recording(record) for record in records]
        assert new == [True, False]
    assert sorted(new) == [False, True]
    counted = records[new.index(True)]
    (attempt,) = await store.attempts(delivery)
    async with store.database.reading() as session:
        receipt = (await session.execute(select(Receipt))).scalar_one()
        minute = (await session.execute(select(EndpointMinute))).scalar_one()
    row = await store.read(delivery)
    assert attempt.gid == receipt.attempt_gid == receipt.jws == counted.attempt_gid
    assert (minute.delivered, minute.retried) == ((1, 0) if counted is direct else (0, 1))
    assert (row.status, row.last_status_code) == (
        (DeliveryStatus.DELIVERED, 200) if counted is direct else (DeliveryStatus.RETRYING, 503)
    )


async def test_an_internal_error_is_recorded_and_not_counted_against_the_endpoint(
    store: Store, recorder: Recorder
) -> None:
    delivery = await store.delivery()
    record = attempt_record(delivery, error=FailureCode.UNSENDABLE, next_attempt_at=moment(31))
    await recorder.attempt(record, Transcript(receipt=receipt_of(record)), before_workflow=True)
    assert (await store.read(delivery)).last_error == "unsendable"
    assert [attempt.error for attempt in await store.attempts(delivery)] == ["unsendable"]
    assert await store.count(Receipt) == 1
    assert (await store.count(EndpointMinute), await store.count(EndpointMinuteError)) == (0, 0)


# Parking


async def test_a_parked_delivery_is_not_charged_an_attempt(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery(status=DeliveryStatus.RETRYING, attempts=2)
    before = now()
    await recorder.parked(delivery.gid, moment(600))
    row = await store.read(delivery)
    assert (row.status, row.attempts, row.due_at) == (DeliveryStatus.PARKED, 2, moment(600))
    assert row.parked_at is not None and before <= row.parked_at <= now()
    assert row.dispatched_at is not None


async def test_a_delivery_parked_without_a_workflow_does_not_count_as_started(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    await recorder.parked(delivery.gid, moment(600), has_workflow=False)
    row = await store.read(delivery)
    assert (row.status, row.due_at, row.dispatched_at) == (DeliveryStatus.PARKED, moment(600), None)


async def test_an_attempt_ends_the_parking(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery(status=DeliveryStatus.PARKED, parked_at=moment())
    await recorder.attempt(attempt_record(delivery, next_attempt_at=moment(31)), Transcript())
    row = await store.read(delivery)
    assert (row.status, row.parked_at) == (DeliveryStatus.RETRYING, None)


@pytest.mark.both_databases
async def test_attempts_and_parkings_at_once_are_all_recorded(store: Store, recorder: Recorder) -> None:
    tried, parked = await store.deliveries(5), await store.deliveries(5)
    await asyncio.gather(
        *(recorder.attempt(attempt_record(row, next_attempt_at=moment(31)), Transcript()) for row in tried),
        *(recorder.parked(row.gid, moment(60)) for row in parked),
    )
    assert {await store.status(row) for row in tried} == {DeliveryStatus.RETRYING}
    assert {await store.status(row) for row in parked} == {DeliveryStatus.PARKED}


# The basis of an attempt


@pytest.mark.both_databases
async def test_the_snapshot_contains_the_data_that_decides_about_an_attempt(store: Store) -> None:
    end = await store.subscribed()
    await store.circuit(end, state=CircuitState.HALF_OPEN, hold=Hold.PAUSED, failures=7)
    delivery = await store.delivery(end)
    snapshot = await SnapshotLoader(store.database).load(delivery.gid)
    assert snapshot is not None
    assert (snapshot.status, snapshot.message_gid, snapshot.payload) == (
        DeliveryStatus.ACCEPTED,
        delivery.message_gid,
        b'{"a":1}',
    )
    assert (snapshot.channel, snapshot.event_type, snapshot.published_at) == ("orders", "order.created", moment())
    assert (snapshot.state, snapshot.hold, snapshot.failures) == (CircuitState.HALF_OPEN, Hold.PAUSED, 7)
    assert (snapshot.endpoint_version, snapshot.endpoint_deleted, snapshot.last_verdict) == (1, False, None)
    assert not snapshot.has_recorded(1, 1)
    assert not snapshot.is_terminal


async def test_the_basis_of_no_delivery_is_none(database: Database) -> None:
    assert await SnapshotLoader(database).load("dlv_none") is None


async def test_the_basis_has_the_recorded_attempt(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    await recorder.attempt(attempt_record(delivery, 1, status_code=500, next_attempt_at=moment(9)), Transcript())
    record = attempt_record(delivery, 2, status_code=503, error="http_503", next_attempt_at=moment(31))
    await recorder.attempt(record, Transcript())
    snapshot = await SnapshotLoader(store.database).load(delivery.gid)
    assert snapshot is not None
    assert (snapshot.last_verdict, snapshot.last_status_code, snapshot.last_error, snapshot.next_attempt_at) == (
        Verdict.RETRY,
        503,
        "http_503",
        moment(31),
    )
    assert [snapshot.has_recorded(1, number) for number in (1, 2, 3)] == [True, True, False]
    assert not snapshot.has_recorded(2, 1)


async def test_the_basis_has_no_attempt_after_a_replay(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    await recorder.attempt(attempt_record(delivery, 1, verdict=Verdict.REJECTED, status_code=404), Transcript())
    async with store.database.writing() as session:
        await deliveries.dead_letter(session, delivery.gid, 1, DeadLetterReason.REJECTED, moment(99))
        await deliveries.open_round(session, delivery.gid, 1, NOTE)
    snapshot = await SnapshotLoader(store.database).load(delivery.gid)
    assert snapshot is not None
    assert (snapshot.round, snapshot.attempts, snapshot.last_verdict) == (2, 0, None)
    assert not snapshot.has_recorded(2, 1)


@pytest.mark.parametrize(
    ("status", "settled"),
    [(status, status in (DeliveryStatus.DELIVERED, DeliveryStatus.DISCARDED)) for status in DeliveryStatus],
)
async def test_only_delivered_and_discarded_are_settled(store: Store, status: DeliveryStatus, settled: bool) -> None:
    delivery = await store.delivery(status=status)
    snapshot = await SnapshotLoader(store.database).load(delivery.gid)
    assert snapshot is not None and snapshot.is_terminal is settled


async def test_the_snapshot_shows_that_the_endpoint_was_deleted(store: Store) -> None:
    end = await store.subscribed()
    delivery = await store.delivery(end)
    async with store.database.writing() as session:
        await endpoints.remove(session, end)
    snapshot = await SnapshotLoader(store.database).load(delivery.gid)
    assert snapshot is not None and snapshot.endpoint_deleted


@pytest.mark.both_databases
async def test_each_of_many_concurrent_callers_gets_its_own_snapshot(store: Store) -> None:
    rows = await store.deliveries(120)
    snapshots = SnapshotLoader(store.database)
    found = await asyncio.gather(*(snapshots.load(gid) for row in rows for gid in (row.gid, "dlv_none", row.gid)))
    expected = [gid for row in rows for gid in (row.gid, None, row.gid)]
    assert [snapshot and snapshot.gid for snapshot in found] == expected


# Targets


async def test_a_target_is_an_endpoint_as_senders_need_it(store: Store) -> None:
    tenant = await store.tenant("acme")
    end = await store.endpoint(tenant, format=BodyFormat.RAW, headers={"x-a": "1"}, signatures=["standard", "npayload"])
    target = await DestinationCache(store.database, KEYRING).get(end.gid, 1)
    assert (target.url, target.tenant, target.format) == (URL, "acme", BodyFormat.RAW)
    assert target.headers == (("x-a", "1"),)
    assert target.schemes == {SignatureScheme.STANDARD, SignatureScheme.NPAYLOAD}
    assert [len(key) for key in target.live_keys(moment())] == [32]


@pytest.mark.both_databases
async def test_a_target_is_kept_until_its_version_grows(store: Store) -> None:
    end = await store.endpoint()
    destinations = DestinationCache(store.database, KEYRING)
    first = await destinations.get(end.gid, 1)
    async with store.database.writing() as session:
        await endpoints.change(session, end, {"url": "https://example.com/new"})
    assert await destinations.get(end.gid, 1) is first
    assert (await destinations.get(end.gid, end.version)).url == "https://example.com/new"
    assert end.version == 2


async def test_live_secrets_sign_newest_first_and_expired_ones_do_not(store: Store) -> None:
    end = await store.endpoint()
    start = now()
    secrets = ["whsec_" + letter * 43 + "=" for letter in "AEI"]
    async with store.database.writing() as session:
        for secret, seconds in zip(secrets, (-1, 60, None), strict=True):
            expires_at = start + timedelta(seconds=seconds) if seconds is not None else None
            session.add(encrypted_secret(KEYRING, end.gid, secret, expires_at=expires_at))
            await session.flush()
    target = await DestinationCache(store.database, KEYRING).get(end.gid, 1)
    keys = [secret_key(secret) for secret in secrets]
    assert target.live_keys(start)[:2] == [keys[2], keys[1]]
    assert keys[0] not in target.live_keys(start)
    later = target.live_keys(start + timedelta(seconds=60))
    assert later[0] == keys[2] and keys[1] not in later


async def test_a_target_whose_secret_was_sealed_with_a_key_that_is_gone_says_so_until_it_opens(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = await store.endpoint()
    ciphertext = await stored_secret(store)
    destinations = DestinationCache(store.database, KeyRing([new_master_key()]))
    faulty = await destinations.get(end.gid, 1)
    assert faulty.fault is not None and ciphertext.split(".")[1] in faulty.fault and ciphertext not in faulty.fault
    assert (faulty.url, faulty.live_keys(moment())) == (URL, [])
    assert await destinations.get(end.gid, 1) is faulty
    monkeypatch.setattr(snapshot_store, "FAULTY_S", 0.0)
    again = DestinationCache(store.database, KeyRing([new_master_key()]))
    assert await again.get(end.gid, 1) is not await again.get(end.gid, 1)
    well = await DestinationCache(store.database, KEYRING).get(end.gid, 1)
    assert well.fault is None and well.live_keys(moment())


async def test_a_secret_moved_to_another_endpoints_row_does_not_sign(store: Store) -> None:
    end = await store.endpoint()
    stolen = await stored_secret(store)
    other = await store.endpoint()
    async with store.database.writing() as session:
        await session.execute(
            update(EndpointSecret).where(col(EndpointSecret.endpoint_gid) == other.gid).values(secret=stolen)
        )
    target = await DestinationCache(store.database, KEYRING).get(other.gid, 1)
    assert target.fault is not None and target.live_keys(moment()) == []
    assert (await DestinationCache(store.database, KEYRING).get(end.gid, 1)).fault is None


async def stored_secret(store: Store) -> str:
    """What the database holds of the one secret there is."""
    async with store.database.reading() as session:
        return (await session.execute(select(col(EndpointSecret.secret)))).scalar_one()


# The probe


async def claim(database: Database, endpoint_gid: str, delivery_gid: str, lease: timedelta = LEASE) -> bool:
    async with database.write_connection() as connection:
        return await claim_probe(connection, endpoint_gid, delivery_gid, lease)


@pytest.mark.both_databases
async def test_exactly_one_of_fifty_concurrent_claims_gets_the_probe(store: Store) -> None:
    end = await store.endpoint()
    await store.circuit(end, state=CircuitState.HALF_OPEN)
    won = await asyncio.gather(*(claim(store.database, end.gid, f"dlv_{n}") for n in range(50)))
    assert won.count(True) == 1
    assert (await store.circuit(end)).probe_delivery_gid == f"dlv_{won.index(True)}"


async def test_only_the_holder_of_a_claim_may_claim_again(store: Store) -> None:
    end = await store.endpoint()
    await store.circuit(end, state=CircuitState.HALF_OPEN)
    assert await claim(store.database, end.gid, "dlv_1")
    assert await claim(store.database, end.gid, "dlv_1")
    assert not await claim(store.database, end.gid, "dlv_2")


async def test_a_claim_ends_with_its_lease(store: Store) -> None:
    end = await store.endpoint()
    await store.circuit(end, state=CircuitState.HALF_OPEN)
    assert await claim(store.database, end.gid, "dlv_1", timedelta(seconds=-1))
    assert await claim(store.database, end.gid, "dlv_2")
    assert not await claim(store.database, end.gid, "dlv_1")


@pytest.mark.parametrize(
    "changes",
    [
        {"state": CircuitState.CLOSED},
        {"state": CircuitState.OPEN},
        {"state": CircuitState.HALF_OPEN, "hold": Hold.PAUSED},
        {"state": CircuitState.HALF_OPEN, "hold": Hold.DISABLED},
    ],
)
async def test_there_is_a_probe_only_where_the_circuit_is_half_open_and_not_held(
    store: Store, changes: dict[str, Any]
) -> None:
    end = await store.endpoint()
    await store.circuit(end, **changes)
    assert not await claim(store.database, end.gid, "dlv_1")


async def test_each_endpoint_has_its_own_probe(store: Store) -> None:
    ends = [await store.endpoint() for _ in range(2)]
    for end in ends:
        await store.circuit(end, state=CircuitState.HALF_OPEN)
    assert [await claim(store.database, end.gid, "dlv_1") for end in ends] == [True, True]


async def test_an_attempt_recorded_again_does_not_undo_a_parking(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    record = attempt_record(delivery, next_attempt_at=moment(31))
    await recorder.attempt(record, Transcript())
    await recorder.parked(delivery.gid, moment(600))
    before = picture(await store.read(delivery))
    await recorder.attempt(record, Transcript())
    assert picture(await store.read(delivery)) == before


async def test_row_and_delivery_agree_after_two_outcomes_of_one_attempt(store: Store, recorder: Recorder) -> None:
    delivery = await store.delivery()
    await recorder.attempt(attempt_record(delivery, status_code=500, next_attempt_at=moment(31)), Transcript())
    await recorder.attempt(attempt_record(delivery, status_code=404, verdict=Verdict.REJECTED), Transcript())
    (row,) = await store.attempts(delivery)
    assert row.status_code == (await store.read(delivery)).last_status_code
