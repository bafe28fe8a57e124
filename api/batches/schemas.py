"""Replays of channels, and batches."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from api.dead_letters.schemas import BATCH_GID, MAX_VALUES
from api.deliveries.schemas import ENDPOINT_GID
from api.schemas import ApiModel, EndpointRef, EventType, Flag, Moment, Name, Text
from everhook.batches.service import BatchView
from everhook.redelivery.replays import PlannedReplay, ReplayRequest
from everhook.storage import tables
from everhook.storage.tables import BatchKind, BatchState, ReplayMode

BATCH_EXAMPLE: dict[str, Any] = {
    "batchGid": BATCH_GID,
    "kind": "channel_replay",
    "state": "running",
    "total": 120,
    "completed": 80,
    "failed": 0,
    "startedAt": "2026-01-31T12:00:00Z",
    "closedAt": None,
    "matched": 120,
    "matchedAtLeast": False,
    "started": 77,
    "skipped": 1,
    "erased": 2,
    "channel": "orders",
    "mode": "all",
    "tenant": "acme",
    "endpointGid": ENDPOINT_GID,
    "types": [],
    "since": "2026-01-31T10:00:00Z",
    "until": "2026-01-31T12:00:00Z",
    "selection": None,
    "reason": "they lost their database",
    "actor": "ann",
    "error": None,
}


class ReplayIn(ApiModel):
    """Which messages of a channel are sent again, or for the first time, and why. `since` and `until` bound the time of
    acceptance."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "since": "2026-01-31T10:00:00Z",
                    "endpointGid": ENDPOINT_GID,
                    "mode": "all",
                    "reason": "they lost their database",
                }
            ]
        }
    )

    since: Moment
    until: Moment | None = Field(None, description="Now by default.")
    mode: ReplayMode = Field(
        description="`failed`: dead letters, and what was discarded. `all`: also what was delivered. `missing`: what "
        "the endpoint subscribes to now and never had a delivery of."
    )
    endpoint_gid: EndpointRef | None = Field(
        None, description="To this endpoint only: its gid, or what it alone has in its URL or description."
    )
    tenant: Name | None = Field(None, description="To the endpoints of this tenant only.")
    types: Annotated[list[EventType], Field(max_length=MAX_VALUES)] | None = Field(
        None, description="Only messages of these types."
    )
    reason: Text = Field("", description="Recorded with the deliveries and in the audit trail.")
    dry_run: Flag = Field(False, description="Only count.")

    def request(self, channel: str) -> ReplayRequest:
        return ReplayRequest(
            channel=channel,
            mode=self.mode,
            since=self.since,
            until=self.until,
            endpoint=self.endpoint_gid,
            tenant=self.tenant,
            types=self.types,
        )


class Replay(ApiModel):
    """A replay that was counted, and started unless it is a dry run."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"matched": 120, "matchedAtLeast": False, "erased": 2, "batchGid": BATCH_GID}]}
    )

    matched: int = Field(description="How many deliveries match, those without a payload included.")
    matched_at_least: bool = Field(
        description="Whether `matched` and `erased` are lower bounds, because counting all would take long."
    )
    erased: int = Field(description="How many of them are skipped, because the payload was erased.")
    batch_gid: str | None = Field(description="Null for a dry run, and where nothing matched.")

    @classmethod
    def of(cls, planned: PlannedReplay, batch: tables.Batch | None) -> "Replay":
        return cls(
            matched=planned.matched,
            matched_at_least=planned.at_least,
            erased=planned.erased,
            batch_gid=batch.gid if batch is not None else None,
        )


class Batch(ApiModel):
    """The progress of a replay of a channel, or of a bulk operation on dead letters."""

    model_config = ConfigDict(json_schema_extra={"examples": [BATCH_EXAMPLE]})

    batch_gid: str
    kind: BatchKind
    state: BatchState
    total: int = Field(description="The same as `matched`.")
    completed: int = Field(description="How many of them are done: the sum of `started`, `skipped` and `erased`.")
    failed: int = Field(description="Dead letters whose workflow could not be reached; 0 for replays of channels.")
    started_at: datetime | None
    closed_at: datetime | None
    matched: int = Field(
        description="How many match. Counted at the start; a replay that has completed shows what it found."
    )
    matched_at_least: bool = Field(description="Whether `matched` is a lower bound.")
    started: int = Field(
        description="Deliveries that were started; for bulk operations dead letters whose workflow was signalled. Once "
        "such an operation has completed, also those that had ended otherwise before it reached them."
    )
    skipped: int = Field(
        description="Deliveries that were left alone: in progress meanwhile, of a message that did not pass its gate, "
        "or to an endpoint that was deleted meanwhile."
    )
    erased: int = Field(description="Deliveries whose payload was erased.")
    channel: str | None = Field(None, description="Null for bulk operations that do not name exactly one.")
    mode: ReplayMode | None = Field(None, description="Of replays of channels.")
    tenant: str | None = Field(None, description="The tenant whose deliveries it is limited to.")
    endpoint_gid: str | None = Field(None, description="The endpoint that it is limited to.")
    types: list[str] | None = Field(None, description="The types that it is limited to; none: every type.")
    since: datetime | None = Field(
        None, description="Of the time of acceptance; for bulk operations, as `until`, of that of dead-lettering."
    )
    until: datetime | None = None
    selection: dict[str, Any] | None = Field(
        None, description="Of bulk operations: which dead letters, as the request named them."
    )
    reason: str | None = None
    actor: str | None = None
    error: str | None = Field(None, description="Why it failed.")

    @classmethod
    def of(cls, view: BatchView) -> "Batch":
        row = view.batch
        done = row.started + row.skipped + row.erased
        matched = max(row.matched, done + row.failed)
        return cls(
            batch_gid=row.gid,
            kind=row.kind,
            state=row.state,
            total=matched,
            completed=done,
            failed=row.failed,
            started_at=row.created_at,
            closed_at=row.ended_at,
            matched=matched,
            matched_at_least=row.matched_at_least,
            started=row.started,
            skipped=row.skipped,
            erased=row.erased,
            channel=row.channel,
            mode=row.mode,
            tenant=view.tenant,
            endpoint_gid=row.endpoint_gid,
            types=row.event_types,
            since=row.since,
            until=row.until,
            selection=row.selection,
            reason=row.reason,
            actor=row.actor,
            error=row.error,
        )
