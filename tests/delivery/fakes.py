"""A client of Temporal that records starts or fails as scripted, and a dispatcher that sends nothing."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from everhook.contracts import DeliveryInput
from everhook.delivery.dispatcher import Dispatcher
from everhook.delivery.inputs import NewDelivery
from everhook.delivery.traffic import Traffic
from everhook.ids import delivery_workflow_id
from everhook.storage.engine import Database


def refusal(status: RPCStatusCode) -> RPCError:
    return RPCError(f"temporal says {status.name}", status, b"")


AWAY = refusal(RPCStatusCode.UNAVAILABLE)
OVERLOADED = refusal(RPCStatusCode.RESOURCE_EXHAUSTED)
INVALID = refusal(RPCStatusCode.INVALID_ARGUMENT)


@dataclass(frozen=True)
class Start:
    """A start that Temporal accepted, with its options."""

    input: DeliveryInput
    options: dict[str, Any]


class FakeQueues:
    """A server whose queues have no configuration."""

    async def describe_task_queue(self, _: DescribeTaskQueueRequest, **options: Any) -> DescribeTaskQueueResponse:
        return DescribeTaskQueueResponse()


class FakeTemporal:
    """A client that records the starts of deliveries.

    `error` is raised for every start, `refused` for starts of that delivery. Starts wait until `gate` is set.
    `running` are the gids of deliveries whose workflows run, apart from those that were started here.
    """

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.tried: list[str] = []
        self.error: Exception | None = None
        self.refused: dict[str, Exception] = {}
        self.running: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0
        self.namespace = "everhook"
        self.workflow_service = FakeQueues()

    @property
    def client(self) -> Client:
        return cast(Client, self)

    @property
    def inputs(self) -> list[DeliveryInput]:
        return [start.input for start in self.starts]

    @property
    def started(self) -> list[str]:
        return [input.delivery_gid for input in self.inputs]

    async def start_workflow(self, workflow: str, input: DeliveryInput, **options: Any) -> None:
        self.tried.append(input.delivery_gid)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        if (error := self.error or self.refused.get(input.delivery_gid)) is not None:
            raise error
        self.starts.append(Start(input, options))

    async def list_workflows(self, query: str, **_: Any) -> AsyncIterator[SimpleNamespace]:
        """Those of a query for workflows by their ids."""
        if self.error is not None:
            raise self.error
        asked = re.findall(r"'(delivery/\w+)'", query)
        running = {delivery_workflow_id(gid) for gid in self.running.union(self.started)}
        for id in running.intersection(asked):
            yield SimpleNamespace(id=id)


class HeldDatabase(Database):
    """Writes wait until `gate` is set; `cancelled` counts those that were cancelled meanwhile."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.gate = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0

    @asynccontextmanager
    async def write_connection(self) -> AsyncIterator[AsyncConnection]:
        self.waiting += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        async with super().write_connection() as connection:
            yield connection


class Collected(Dispatcher):
    """Records what is dispatched."""

    def __init__(self) -> None:
        self.deliveries: list[NewDelivery] = []
        self.traffic = Traffic(is_starting=lambda: False)

    def dispatch(self, deliveries: Iterable[NewDelivery]) -> None:
        self.deliveries += deliveries
