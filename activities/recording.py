"""What the database must know of a delivery beyond its attempts. Each may run twice and then changes nothing."""

from temporalio import activity
from temporalio.exceptions import ApplicationError

from everhook.contracts import AttemptRecord, DeadLetterNote, DeliveryOrder, DiscardNote, RoundOrder
from everhook.delivery.inputs_store import OrderDefaults, load_order
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.snapshot_store import load_subject
from everhook.delivery.store import dead_letter, discard, open_round
from everhook.receipts.issuer import issue, url_of
from everhook.receipts.keys_store import IssuerCache
from everhook.storage.engine import Database
from everhook.storage.tables import now


class Recording:
    def __init__(self, database: Database, recorder: Recorder, issuers: IssuerCache, defaults: OrderDefaults) -> None:
        self._database = database
        self._recorder = recorder
        self._issuers = issuers
        self._defaults = defaults

    @activity.defn(name="record_attempt")
    async def record_attempt(self, record: AttemptRecord) -> None:
        """Record an attempt that was made while the database was away, with its receipt.

        Its response body is gone; the hash is not. Nothing is left to record where the delivery was erased meanwhile.
        """
        issuer = await self._issuers.get()
        async with self._database.read_connection() as connection:
            subject = await load_subject(connection, record.delivery_gid)
        if subject is not None:
            late = Transcript(url=url_of(record, subject.url), receipt=issue(record, subject, issuer))
            await self._recorder.attempt(record, late)

    @activity.defn(name="dead_letter")
    async def dead_letter(self, note: DeadLetterNote) -> None:
        async with self._database.writing() as session:
            await dead_letter(session, note.delivery_gid, note.round, note.reason, now() + note.retention)

    @activity.defn(name="open_round")
    async def open_round(self, order: RoundOrder) -> DeliveryOrder:
        """Begin the next round of a dead letter; returns its order, with the policy as it is now."""
        async with self._database.writing() as session:
            await open_round(session, order.delivery_gid, order.round, order.note)
        async with self._database.read_connection() as connection:
            opened = await load_order(connection, self._defaults, order.delivery_gid)
        if opened is None:
            raise ApplicationError(f"{order.delivery_gid} is not in the database", type="DeliveryMissing")
        return opened

    @activity.defn(name="discard")
    async def discard(self, note: DiscardNote) -> None:
        async with self._database.writing() as session:
            await discard(session, note.delivery_gid, note.note)
