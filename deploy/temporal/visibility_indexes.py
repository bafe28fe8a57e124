"""Print SQL that reduces the indexes of Temporal's visibility table in PostgreSQL to those needed, or restores all.

    export TEMPORAL_ADDRESS=temporal.internal:7233
    .venv/bin/python deploy/temporal/visibility_indexes.py needed | psql postgresql://…/temporal_visibility
    .venv/bin/python deploy/temporal/visibility_indexes.py all | psql postgresql://…/temporal_visibility

Temporal's schema (visibility 1.14, of server 1.32) has an index for every attribute that can be searched, and
each workflow writes to all of them. Queries by an attribute without an index still work; they read more rows.

Which column holds a custom attribute differs from cluster to cluster. So `needed` asks Temporal, and keeps the indexes
of the columns that any namespace uses. Run it again after search attributes were added. Run `all` before an update of
Temporal's schema, which may expect an index to exist.
"""

import asyncio
import os
import sys
from collections.abc import Collection

from temporalio.api.workflowservice.v1 import ListNamespacesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from cli.errors import UsageError
from everhook.temporal.client import connect
from everhook.temporal.sdk_errors import in_words

TABLE = "executions_visibility"
BY_TIME = "(COALESCE(close_time, '9999-12-31 23:59:59')) DESC, start_time DESC, run_id"
DEFAULT = "default_idx"

KEPT = {
    DEFAULT,
    "by_execution_time",
    "by_workflow_id",
    "by_workflow_type",
    "by_status",
    "by_root_workflow_id",
    "by_parent_workflow_id",
    "by_temporal_namespace_division",
    "by_temporal_scheduled_by_id",
}
"""Used by the UI, schedules and batch operations, in addition to custom attributes."""

PLAIN = (
    "execution_time", "workflow_id", "status", "history_length", "history_size_bytes", "execution_duration",
    "state_transition_count", "task_queue", "parent_workflow_id", "parent_run_id", "root_workflow_id", "root_run_id",
)  # fmt: skip
"""Columns of the server itself, each with an index named `by_` and its name."""

BTREE = {
    **{f"by_{column}": column for column in PLAIN},
    "by_workflow_type": "workflow_type_name",
    "by_batcher_user": "BatcherUser",
    "by_temporal_scheduled_start_time": "TemporalScheduledStartTime",
    "by_temporal_scheduled_by_id": "TemporalScheduledById",
    "by_temporal_schedule_paused": "TemporalSchedulePaused",
    "by_temporal_namespace_division": "TemporalNamespaceDivision",
    "by_temporal_worker_deployment_version": "TemporalWorkerDeploymentVersion",
    "by_temporal_workflow_versioning_behavior": "TemporalWorkflowVersioningBehavior",
    "by_temporal_worker_deployment": "TemporalWorkerDeployment",
    "by_temporal_external_payload_size_bytes": "TemporalExternalPayloadSizeBytes",
    "by_temporal_external_payload_count": "TemporalExternalPayloadCount",
    **{
        f"by_temporal_{kind.lower()}_{number:02}": f"Temporal{kind}{number:02}"
        for kind, count in {"Bool": 2, "Datetime": 2, "Double": 2, "Int": 2, "Keyword": 4}.items()
        for number in range(1, count + 1)
    },
    "by_temporal_low_cardinality_keyword_01": "TemporalLowCardinalityKeyword01",
    **{
        f"by_{kind.lower()}_{number:02}": f"{kind}{number:02}"
        for kind, count in {"Bool": 3, "Datetime": 3, "Double": 3, "Int": 3, "Keyword": 10}.items()
        for number in range(1, count + 1)
    },
}
"""By the name of the index: its column, which comes after the namespace and before the times."""

JSON = {
    "by_temporal_change_version": "TemporalChangeVersion",
    "by_binary_checksums": "BinaryChecksums",
    "by_build_ids": "BuildIds",
    "by_temporal_pause_info": "TemporalPauseInfo",
    "by_temporal_reported_problems": "TemporalReportedProblems",
    "by_used_deployment_versions": "TemporalUsedWorkerDeploymentVersions",
    **{f"by_temporal_keyword_list_{number:02}": f"TemporalKeywordList{number:02}" for number in (1, 2)},
    **{f"by_keyword_list_{number:02}": f"KeywordList{number:02}" for number in (1, 2, 3)},
}
TEXT = {f"by_text_{number:02}": f"Text{number:02}" for number in (1, 2, 3)}

DEFINITIONS = {
    DEFAULT: f"(namespace_id, {BY_TIME})",
    **{name: f"(namespace_id, {column}, {BY_TIME})" for name, column in BTREE.items()},
    **{name: f"USING GIN (namespace_id, {column} jsonb_path_ops)" for name, column in JSON.items()},
    **{name: f"USING GIN (namespace_id, {column})" for name, column in TEXT.items()},
}
"""All indexes but the primary key."""


def needed(columns: Collection[str]) -> set[str]:
    """The indexes to keep, where custom attributes are in these columns."""
    by_column = {column: name for name, column in {**BTREE, **JSON, **TEXT}.items()}
    return KEPT | {by_column[column] for column in columns}


def statements(wanted: Collection[str]) -> list[str]:
    """SQL that creates the wanted indexes where they are missing and drops the others. None of it blocks writers."""
    return [
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {TABLE} {definition};"
        if name in wanted
        else f"DROP INDEX CONCURRENTLY IF EXISTS {name};"
        for name, definition in DEFINITIONS.items()
    ]


async def used_columns(client: Client) -> set[str]:
    """The columns that hold custom search attributes of any namespace."""
    columns: set[str] = set()
    page = b""
    while True:
        request = ListNamespacesRequest(page_size=100, next_page_token=page)
        found = await client.workflow_service.list_namespaces(request)
        for namespace in found.namespaces:
            columns.update(namespace.config.custom_search_attribute_aliases)
        page = found.next_page_token
        if not page:
            return columns


async def main(what: str) -> list[str]:
    return statements(DEFINITIONS if what == "all" else needed(await used_columns(await connect())))


if __name__ == "__main__":
    if sys.argv[1:] not in (["needed"], ["all"]):
        sys.exit("usage: python deploy/temporal/visibility_indexes.py needed | all")
    try:
        lines = asyncio.run(main(sys.argv[1]))
    except UsageError as error:
        sys.exit(str(error))
    except (RPCError, RuntimeError) as error:
        sys.exit(f"{in_words(str(error))} (TEMPORAL_ADDRESS)")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    # The Temporal SDK's threads may abort an interpreter that is finalised (temporalio/sdk-python#300).
    os._exit(0)
