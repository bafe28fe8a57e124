"""The cost of receipts: for each delivery, and for sealing many."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random

from bench.cost import ITEMS, WARM_UP, Deliveries
from bench.stack import EVERHOOK, embedded_stack
from bench.tables import Progress, Table, target
from everhook.contracts import AttemptRecord, Verdict
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.ids import Kind, new_gid
from everhook.receipts.issuer import Issuer, ReceiptContext, issue, url_digest
from everhook.receipts.keys_store import IssuerCache
from everhook.receipts.log.sealing_store import BATCH, seal_batch
from everhook.receipts.receipt import signatures_digest
from everhook.signing.schemes import DEFAULT_SCHEMES, new_secret, secret_key, signature_headers
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.storage.migrate import migrate
from everhook.storage.statements import table_of
from everhook.storage.tables import DEFAULT_TENANT_GID, Receipt, now
from testing.postgres_server import PostgresServer
from testing.stack import async_url

URL = "https://hooks.example.com/orders"
BODY = b'{"text":"' + b"x" * 400 + b'"}'
AT_ONCE = 20
ROUNDS, ATTEMPTS = 5, 1_000
JWS_BYTES = 1_250
INSERTED_TOGETHER = 5_000
SEALED = 100_000
SEALING_S = 20
MOST_SHARE = 0.05

KEYRING = KeyRing([new_master_key()])


async def receipts(progress: Progress) -> Table:
    """What a receipt adds to Everhook's CPU a delivery, and how long sealing takes on each database."""
    progress("deliveries")
    async with embedded_stack() as stack:
        deliveries = await Deliveries.prepared(stack)
        await deliveries.deliver(WARM_UP)
        delivery_ms = (await deliveries.deliver(ITEMS)).ms(EVERHOOK)
    progress("recording without and with receipts")
    async with sqlite() as database:
        without, with_receipt = await recording_ms(database)
    share = (with_receipt - without) / (delivery_ms - (with_receipt - without))
    seals = []
    for name, opened in (("SQLite", sqlite), ("PostgreSQL", postgres)):
        progress(f"sealing on {name}")
        async with opened() as database:
            seals.append((name, (await sealing_time(database, SEALED)).total_seconds()))
    return Table(
        "Receipts",
        ("what", "figure"),
        [
            ("Everhook's CPU a delivery, receipt included", f"{delivery_ms:.2f} ms"),
            ("CPU to record an attempt, receipts off", f"{without:.3f} ms"),
            ("CPU to record an attempt, receipts on", f"{with_receipt:.3f} ms"),
            *((f"{SEALED:,} receipts sealed on {name} in", f"{seconds:.1f} s") for name, seconds in seals),
        ],
        [
            target("percent that a receipt adds", 100 * share, share <= MOST_SHARE, f"at most {100 * MOST_SHARE:.0f}"),
            *(
                target(f"seconds to seal on {name}", took, took <= SEALING_S, f"at most {SEALING_S}")
                for name, took in seals
            ),
        ],
    )


@asynccontextmanager
async def sqlite() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        async with _migrated(f"sqlite+aiosqlite:///{directory}/everhook.db") as database:
            yield database


@asynccontextmanager
async def postgres() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="everhook-bench-") as directory:
        async with (
            PostgresServer(Path(directory) / "postgres.log") as server,
            _migrated(async_url(server.url)) as found,
        ):
            yield found


@asynccontextmanager
async def _migrated(url: str) -> AsyncIterator[Database]:
    await migrate(url)
    database = Database(url)
    try:
        yield database
    finally:
        await database.close()


async def recording_ms(database: Database) -> tuple[float, float]:
    """CPU milliseconds to record an attempt, without and with its receipt: medians of rounds that take turns."""
    issuer = await IssuerCache(database, KEYRING, "hooks.example.com").get()
    recorder = Recorder(database)
    without, with_receipt = [], []
    for _ in range(ROUNDS):
        without.append(await _record_ms(recorder, None))
        with_receipt.append(await _record_ms(recorder, issuer))
    return statistics.median(without), statistics.median(with_receipt)


async def _record_ms(recorder: Recorder, issuer: Issuer | None) -> float:
    headers = signature_headers("msg_bench", 1_767_225_600, BODY, [secret_key(new_secret())], DEFAULT_SCHEMES)
    began = time.process_time()
    for _ in range(ATTEMPTS // AT_ONCE):
        await asyncio.gather(*(_record(recorder, headers, issuer) for _ in range(AT_ONCE)))
    return (time.process_time() - began) * 1000 / ATTEMPTS


async def _record(recorder: Recorder, headers: Iterable[tuple[str, str]], issuer: Issuer | None) -> None:
    record = AttemptRecord(
        attempt_gid=new_gid(Kind.ATTEMPT),
        delivery_gid=new_gid(Kind.DELIVERY),
        endpoint_gid=new_gid(Kind.ENDPOINT),
        round=1,
        number=1,
        verdict=Verdict.DELIVERED,
        started_at=now(),
        duration_ms=12,
        status_code=200,
        request_sha256="ab" * 32,
        response_sha256="cd" * 32,
        peer_address="203.0.113.7",
        url_sha256=url_digest(URL) if issuer else "",
        signatures_sha256=signatures_digest(headers) if issuer else "",
    )
    context = ReceiptContext(DEFAULT_TENANT_GID, new_gid(Kind.MESSAGE), URL)
    await recorder.attempt(record, Transcript(url=URL, receipt=issue(record, context, issuer) if issuer else None))


async def sealing_time(database: Database, count: int) -> timedelta:
    """The time to seal `count` receipts of one tenant. They are as long as real ones."""
    await IssuerCache(database, KEYRING, "hooks.example.com").get()
    for start in range(0, count, INSERTED_TOGETHER):
        async with database.write_connection() as connection:
            rows = [_row() for _ in range(min(INSERTED_TOGETHER, count - start))]
            await connection.execute(table_of(Receipt).insert(), rows)
    began, more = time.monotonic(), True
    while more:
        async with database.writing() as session:
            more = (await seal_batch(session, DEFAULT_TENANT_GID, KEYRING, now(), at_most=BATCH)).more
    return timedelta(seconds=time.monotonic() - began)


def _row() -> dict[str, object]:
    return {
        "gid": new_gid(Kind.RECEIPT),
        "tenant_gid": DEFAULT_TENANT_GID,
        "delivery_gid": new_gid(Kind.DELIVERY),
        "attempt_gid": new_gid(Kind.ATTEMPT),
        "round": 1,
        "number": 1,
        "jws": _RANDOM.randbytes(JWS_BYTES // 2).hex(),
        "created_at": now(),
    }


_RANDOM = Random(1)
