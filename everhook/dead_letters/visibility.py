"""The dead letters that a bulk operation reaches: Temporal's visibility query for what an operator selects."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from temporalio.client import Client

from everhook.contracts import DELIVERY_WORKFLOW, DeliveryStatus
from everhook.dead_letters.store import DeadLetterFilter

INDEX_PATIENCE_S, INDEX_POLL_S = 5.0, 0.25
MAX_ENDPOINTS = 1_000
"""This many gids make a query of 32 KB."""


def visibility_query(
    chosen: DeadLetterFilter, endpoints: Sequence[str] | None = None, *, but: Sequence[str] = ()
) -> str:
    """The open dead letters that a filter selects, in Temporal's list filter language; only those of `endpoints`, if
    given, and none of the endpoints `but`.

    If the filter names a tenant, `endpoints` must be that tenant's: a tenant's name can change owner, the gid of an
    endpoint cannot.
    """
    parts = [
        f'WorkflowType = "{DELIVERY_WORKFLOW}"',
        'ExecutionStatus = "Running"',
        f'DeliveryStatus = "{DeliveryStatus.DEAD_LETTERED}"',
    ]
    for attribute, value in (
        ("Channel", chosen.channel),
        ("Endpoint", chosen.endpoint_gid),
        ("EventType", chosen.event_type),
        ("DeadLetterReason", chosen.reason),
    ):
        if value is not None:
            parts.append(_is_one_of(attribute, [f'"{_quoted(one)}"' for one in value]))
    if chosen.tenant_gid is not None or endpoints is not None:
        parts.append(f"Endpoint IN ({_gids(endpoints or ('',))})")
    if but:
        parts.append(f"Endpoint NOT IN ({_gids(but)})")
    if chosen.status_code is not None:
        parts.append(_is_one_of("StatusCode", [str(code) for code in chosen.status_code]))
    if chosen.since is not None:
        parts.append(f'DeadLetteredAt >= "{_moment(chosen.since)}"')
    if chosen.until is not None:
        parts.append(f'DeadLetteredAt < "{_moment(chosen.until)}"')
    return " AND ".join(parts)


async def until_indexed(client: Client, query: str, matched: int) -> bool:
    """Wait for a few seconds until Temporal's index finds as many dead letters as the database: the index lags, and
    a batch reaches only what it finds. False if it still finds fewer."""
    give_up_at = time.monotonic() + INDEX_PATIENCE_S
    while (await client.count_workflows(query)).count < matched:
        if time.monotonic() >= give_up_at:
            return False
        await asyncio.sleep(INDEX_POLL_S)
    return True


def _is_one_of(attribute: str, values: Sequence[str]) -> str:
    """`values` are written as in a query."""
    return f"{attribute} = {values[0]}" if len(values) == 1 else f"{attribute} IN ({', '.join(values)})"


def _gids(gids: Sequence[str]) -> str:
    return ", ".join(f'"{_quoted(gid)}"' for gid in gids)


def _quoted(text: str) -> str:
    """Quote a value. Callers have checked it against a strict pattern; this makes sure of it."""
    if '"' in text or "\\" in text:
        raise ValueError(f"{text!r} cannot be part of a query")
    return text


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
