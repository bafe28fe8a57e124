"""Consumers in tests: they take deliveries by a stream or by polls, and survive the death of any process."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx

from testing.scene import Scene
from testing.stack import API_KEY
from testing.waiting import assert_eventually

PAUSE_S = 0.2
"""Before a consumer connects again: it is less patient than `retry` asks for."""


@dataclass(frozen=True)
class Taken:
    """An item that arrived. `number` counts the leases of its delivery."""

    lease: str
    delivery: str
    number: tuple[int, int]
    until: datetime
    n: int

    @classmethod
    def of(cls, item: Any) -> "Taken":
        _, round, number = item["lease"].rsplit(".", 2)
        until = datetime.fromisoformat(item["leaseUntil"])
        return cls(item["lease"], item["deliveryGid"], (int(round), int(number)), until, item["payload"]["n"])


async def pulled_endpoint(scene: Scene, **more: Any) -> str:
    gid: str = (await scene.post("/v1/endpoints", {"mode": "stream", **more}))["endpointGid"]
    scene.publisher.endpoints[gid] = f"everhook:{gid}"
    return gid


@dataclass
class Streaming:
    """A stream over a raw socket, opened again whenever it ends. `connections`: what arrived on each of them."""

    port: int
    gid: str
    prefetch: int
    lease: timedelta
    is_open: bool = False
    connections: list[list[Taken]] = field(default_factory=list)
    arrived: asyncio.Queue[Taken] = field(default_factory=asyncio.Queue)
    last_event_id: str = ""

    @property
    def taken(self) -> list[Taken]:
        return [each for connection in self.connections for each in connection]

    async def run(self) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._read()
            self.is_open = False
            await asyncio.sleep(PAUSE_S)

    async def _read(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            query = f"prefetch={self.prefetch}&leaseSeconds={self.lease.total_seconds():.0f}"
            lines = [
                f"GET /v1/endpoints/{self.gid}/stream?{query} HTTP/1.1",
                "host: localhost",
                f"authorization: Bearer {API_KEY}",
                *([f"last-event-id: {self.last_event_id}"] if self.last_event_id else []),
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            status = await reader.readline()
            if not status.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(status)
            fields: dict[str, str] = {}
            while line := (await reader.readline()).decode():
                name, _, value = line.rstrip("\n").partition(": ")
                if value:  # the lines between chunks of the response have none; no event spans two chunks
                    fields[name] = value
                elif line == "\n" and "event" in fields:
                    self._dispatch(**fields)
                    fields = {}
        finally:
            writer.close()

    def _dispatch(self, event: str, data: str, id: str | None = None, **_: str) -> None:
        self.last_event_id = id or self.last_event_id
        if event == "hello":
            self.is_open = True
            self.connections.append([])
        elif event == "message":
            item = Taken.of(json.loads(data))
            self.connections[-1].append(item)
            self.arrived.put_nowait(item)


@dataclass
class Polling:
    """Polls. The next one follows when all items of the last one are done (`arrived.task_done`)."""

    http: httpx.AsyncClient
    gid: str
    limit: int
    lease: timedelta
    taken: list[Taken] = field(default_factory=list)
    arrived: asyncio.Queue[Taken] = field(default_factory=asyncio.Queue)

    async def run(self) -> None:
        query = {"limit": self.limit, "waitSeconds": 2, "leaseSeconds": round(self.lease.total_seconds())}
        while True:
            response = await persistent(self.http, "GET", f"/v1/endpoints/{self.gid}/poll", params=query)
            items = [Taken.of(item) for item in response.json()["data"]]
            self.taken += items
            for item in items:
                self.arrived.put_nowait(item)
            await self.arrived.join()


async def acknowledge(http: httpx.AsyncClient, gid: str, items: Iterable[Taken]) -> None:
    """Acknowledge items. Repeat that until there is a response: nothing counts twice."""
    acks = [{"lease": item.lease} for item in items]
    response = await persistent(http, "POST", f"/v1/endpoints/{gid}/acks", json={"acks": acks})
    assert [line["status"] for line in response.json()["data"]] == ["acked"] * len(acks)


async def persistent(http: httpx.AsyncClient, method: str, path: str, **more: Any) -> httpx.Response:
    """Make a request until it is neither refused for an outage nor lost."""

    async def responded() -> httpx.Response:
        try:
            response = await http.request(method, path, **more)
        except httpx.TransportError as error:
            raise AssertionError("no response") from error
        assert response.status_code < 500, response.text
        return response.raise_for_status()

    return await assert_eventually(responded, 60, interval=0.1)


def assert_no_lease_began_before_the_last_one_ended(taken: Iterable[Taken], lease: timedelta) -> None:
    """No lease is handed out twice, and those of one delivery follow each other."""
    by_delivery: dict[str, list[Taken]] = defaultdict(list)
    for each in taken:
        by_delivery[each.delivery].append(each)
    for leases in by_delivery.values():
        for earlier, later in pairwise(sorted(leases, key=lambda each: each.number)):
            assert earlier.number < later.number, f"{earlier.lease} was handed out twice"
            assert later.until - lease >= earlier.until, f"{later.lease} began before the end of {earlier.lease}"
