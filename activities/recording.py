"""The activities that record what happens to a delivery. Running one of them twice changes nothing."""

from collections.abc import Callable, Sequence
from datetime import datetime

from temporalio import activity

from everhook.contracts import AttemptRecord, DeadLetterInput, DeliveryInput, DiscardInput, RoundInput
from everhook.delivery.inputs_store import InputDefaults, load_input
from everhook.delivery.recorder_store import Recorder, Transcript
from everhook.delivery.sender import delivery_missing
from everhook.delivery.snapshot_store import load_receipt_context
from everhook.delivery.store import dead_letter, discard, lock_in_round, open_round
from everhook.inbox.deadlines_store import ask_again, cancel
from everhook.ordering.store import Freed
from everhook.publishing.gate_progress_store import decline_discarded
from everhook.pulling.queue_store import requeue, withdraw
from everhook.receipts.issuer import issue, url_of
from everhook.receipts.keys_store import IssuerCache
from everhook.storage.engine import Database
from everhook.storage.tables import now


class RecordingActivities:
    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        issuers: IssuerCache,
        defaults: InputDefaults,
        on_freed: Callable[[Sequence[Freed]], None] = lambda _: None,
    ) -> None:
        """`on_freed` is called with the deliveries whose turn in their group it is, after the commit."""
        self._on_freed = on_freed
        self._database = database
        self._recorder = recorder
        self._issuers = issuers
        self._defaults = defaults

    @activity.defn(name="record_attempt")
    async def record_attempt(self, record: AttemptRecord) -> None:
        """Record, with its receipt, an attempt that was made while the database was unavailable.

        The response body is lost; its hash is in the record. If the delivery was erased meanwhile, nothing is recorded.
        """
        issuer = await self._issuers.get()
        async with self._database.read_connection() as connection:
            context = await load_receipt_context(connection, record.delivery_gid)
        if context is not None:
            late = Transcript(url=url_of(record, context.url), receipt=issue(record, context, issuer))
            await self._recorder.attempt(record, late)

    @activity.defn(name="dead_letter")
    async def dead_letter(self, input: DeadLetterInput) -> datetime | None:
        """Returns since when the delivery is a dead letter."""
        async with self._database.writing() as session:
            dead = await dead_letter(session, input.delivery_gid, input.round, input.reason, now() + input.retention)
        self._on_freed(dead.freed)
        return dead.at

    @activity.defn(name="open_round")
    async def open_round(self, input: RoundInput) -> DeliveryInput:
        """Open the next round of a dead letter. Returns the input of its new workflow run, with the current policy."""
        async with self._database.writing() as session:
            if await open_round(session, input.delivery_gid, input.round, input.note):
                await requeue(session, input.delivery_gid)
                await ask_again(session, input.delivery_gid)
        async with self._database.read_connection() as connection:
            opened = await load_input(connection, self._defaults, input.delivery_gid)
        if opened is None:
            raise delivery_missing(input.delivery_gid)
        return opened

    @activity.defn(name="discard")
    async def discard(self, input: DiscardInput) -> None:
        freed: Sequence[Freed] = ()
        async with self._database.writing() as session:
            if input.round and not await lock_in_round(session, input.delivery_gid, input.round):
                return
            await withdraw(session, input.delivery_gid)
            await cancel(session, input.delivery_gid)
            freed = await discard(session, input.delivery_gid, input.note)
            await decline_discarded(session, input.delivery_gid, input.note.by, input.note.because)
        self._on_freed(freed)
