"""Bulk operations reach what Temporal's index finds, so they wait for it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from temporalio.client import Client

from everhook.contracts import DeadLetterReason
from everhook.dead_letters import visibility
from everhook.dead_letters.store import DeadLetterFilter


class Index:
    """Finds more workflows each time it is asked."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)
        self.asked = 0

    async def count_workflows(self, query: str) -> Any:
        assert query == "query"
        self.asked += 1
        return SimpleNamespace(count=self.counts.pop(0) if len(self.counts) > 1 else self.counts[0])


async def until_indexed(index: Index, matched: int) -> bool:
    return await visibility.until_indexed(cast(Client, index), "query", matched)


async def test_an_index_that_lags_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "INDEX_POLL_S", 0)
    index = Index(814, 990, 1_000)
    assert await until_indexed(index, 1_000)
    assert index.asked == 3


async def test_the_wait_for_an_index_that_never_agrees_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visibility, "INDEX_POLL_S", 0.01)
    monkeypatch.setattr(visibility, "INDEX_PATIENCE_S", 0.05)
    assert not await until_indexed(Index(87), 90)


def test_a_query_names_each_value_and_the_endpoints_that_are_left_out() -> None:
    chosen = DeadLetterFilter(
        channel=("a",), reason=(DeadLetterReason.REJECTED, DeadLetterReason.EXHAUSTED), status_code=(401, 403)
    )
    assert visibility.visibility_query(chosen, but=["ep_1", "ep_2"]).split(" AND ")[3:] == [
        'Channel = "a"',
        'DeadLetterReason IN ("rejected", "exhausted")',
        'Endpoint NOT IN ("ep_1", "ep_2")',
        "StatusCode IN (401, 403)",
    ]


def test_the_query_of_a_tenant_without_endpoints_selects_nothing() -> None:
    assert 'Endpoint IN ("")' in visibility.visibility_query(DeadLetterFilter(tenant_gid=("ten_1",)), [])
