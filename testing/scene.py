"""One test's part of a stack that several tests share: with its own channel, endpoints and ledgers."""

import asyncio
import itertools
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
from sqlalchemy import text

from testing.arrivals import ArrivalLine, place_of
from testing.ledgers import Ack, Report
from testing.publisher import CreatedEndpoint
from testing.script import Response, Step
from testing.stack import QUICK, Process, Stack
from testing.waiting import assert_eventually

# A parked delivery that checks its circuit by itself would hide a release that does not come. Each run of a schedule is
# a workflow, and several stacks run at once: with all schedules every second or two an idle stack takes 14 % of a core,
# with these 3 %. A test that needs a schedule sooner triggers it. The limits are low, so that few messages reach them.
SHARED = {
    **QUICK,
    "EVERHOOK_RECONCILE_EVERY_SECONDS": "3",
    "EVERHOOK_OVERDUE_GRACE_SECONDS": "2",
    "EVERHOOK_FIRST_ATTEMPT_GRACE_SECONDS": "1",
    "EVERHOOK_SEAL_RECEIPTS_EVERY_SECONDS": "60",
    "EVERHOOK_PARK_CHECK_SECONDS": "60",
    "EVERHOOK_MAX_CONCURRENT_SENDS": "12",
    "EVERHOOK_EXPRESS_IN_FLIGHT": "4",
    "EVERHOOK_DISPATCH_CONCURRENCY": "16",
    "EVERHOOK_RELEASE_RATE": "2",
    "EVERHOOK_EVENTS_EVERY_SECONDS": "60",
    "EVERHOOK_ERASURE_SETTLE_SECONDS": "1",
    "EVERHOOK_REPLAY_RATE": "4",
    "EVERHOOK_MAX_CONNECTIONS_PER_ADDRESS": "2000",
}
PATIENT = {"delaysSeconds": [0.3, 0.5, *[1] * 20], "timeoutSeconds": 3}
PATIENCE_S = 120.0
"""How long a test waits for what has no limit: these tests run next to others on few cores."""
JUST_BEFORE_S = 3.0
"""A request that arrived this long before a kill may not have been recorded by then, on a busy machine."""

_numbers = itertools.count(1)


class Scene:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.receiver = stack.receiver
        self.publisher = stack.publisher()
        self.channel = f"scene-{next(_numbers)}-{uuid.uuid4().hex[:6]}"
        self.kills: list[float] = []

    async def open(self, policy: Mapping[str, Any] = PATIENT) -> None:
        """Make the channel. Before that, start again what an earlier test left stopped."""
        await revive(self.stack)
        await self.publisher.create_channel(self.channel, policy)

    def path(self, name: str = "") -> str:
        return f"/{self.channel}/{name}"

    async def endpoint(self, name: str = "", **more: Any) -> CreatedEndpoint:
        """An endpoint of the scene's channel, at its own path; `more` as the API names it."""
        return await self.publisher.create_endpoint(
            self.receiver.url_for(self.path(name)), more.pop("channel", self.channel), **more
        )

    async def respond(self, *steps: Step, name: str = "", each_message: bool = False) -> None:
        await self.receiver.respond(*steps, path=self.path(name), each_message=each_message)

    async def publish(
        self, n: int, *, rate: float | None = None, type: str | None = None, channel: str | None = None
    ) -> list[Ack]:
        return await self.publisher.publish_many(channel or self.channel, n, rate=rate, type=type)

    async def arrived(self, n: int, name: str = "", timeout: float = PATIENCE_S) -> None:
        """Wait until `n` requests have come to an endpoint since the receiver was started."""
        await self.receiver.wait_for(n, timeout, path=self.path(name))

    def arrivals(self, name: str = "") -> list[ArrivalLine]:
        return [line for line in self.receiver.arrivals() if line.path == self.path(name)]

    async def kill_in_mid_request(self, *processes: Process) -> None:
        """SIGKILL at a moment when a request is at the receiver and has no response yet."""
        await self.in_flight()
        for process in processes:
            process.kill_now()
        self.kills.append(time.monotonic())
        for process in processes:
            await process.wait(10)

    async def in_flight(self) -> None:
        """Wait for a moment when a request is at the receiver and has no response yet."""

        async def some_are() -> None:
            assert (await self.receiver.status())["inFlight"] > 0

        await assert_eventually(some_are, 30, interval=0.01)

    def in_flight_at_a_kill(self) -> set[str]:
        """Messages that may rightly arrive twice."""
        return {
            line.id
            for line in self.receiver.arrivals()
            if any(kill - JUST_BEFORE_S <= line.monotonic <= kill + 0.1 for kill in self.kills)
        }

    async def finish(self, timeout: float = PATIENCE_S, *, dead_letters_allowed: bool = False) -> Report:
        """Wait for the drain, compare the three ledgers, print what they say; nothing may be lost."""
        await self.stack.drained(timeout, of=self.publisher)
        report = await self.stack.compare(self.publisher, dead_letters_allowed=dead_letters_allowed, shared=True)
        sys.stdout.write(f"{_test_name()}: {report}\n")
        report.assert_nothing_lost()
        return report

    async def assert_recorded_requests_are_not_repeated(self) -> None:
        """The last request of each delivery belongs to its last recorded attempt: none is repeated after its record."""
        rows = await self.sql(
            "SELECT d.message_gid, d.endpoint_gid, a.started_at, a.duration_ms FROM attempt a "
            "JOIN delivery d ON d.gid = a.delivery_gid"
        )
        ended: dict[tuple[str, str], float] = {}
        for row in rows:
            if row.endpoint_gid in self.publisher.endpoints:
                pair = (row.message_gid, place_of(self.publisher.endpoints[row.endpoint_gid]))
                ended[pair] = max(ended.get(pair, 0.0), _timestamp(row.started_at) + row.duration_ms / 1000)
        repeated = [
            line.id for line in self.receiver.arrivals() if line.at > ended.get((line.id, line.place), line.at) + 0.1
        ]
        assert not repeated, f"sent again though recorded: {repeated}"

    async def statuses(self, endpoint: CreatedEndpoint) -> dict[str, int]:
        """How many deliveries of an endpoint have which status."""
        rows = await self.sql(
            "SELECT status, count(*) FROM delivery WHERE endpoint_gid = :gid GROUP BY status", gid=endpoint.gid
        )
        return {str(status): int(count) for status, count in rows}

    async def has_statuses(self, endpoint: CreatedEndpoint, timeout: float = PATIENCE_S, **expected: int) -> None:
        """Wait until an endpoint's deliveries have exactly these statuses."""

        async def as_expected() -> None:
            found = await self.statuses(endpoint)
            assert found == expected, f"{found} and not {expected}"

        await assert_eventually(as_expected, timeout, interval=0.25)

    async def circuit_is(self, endpoint: CreatedEndpoint, state: str, timeout: float = 30.0) -> None:
        async def as_expected() -> None:
            assert (await self.get(f"/v1/endpoints/{endpoint.gid}"))["circuit"]["state"] == state

        await assert_eventually(as_expected, timeout, interval=0.1)

    async def sql(self, statement: str, **parameters: Any) -> Sequence[Any]:
        async with self.stack.engine.begin() as connection:
            result = await connection.execute(text(statement), parameters)
            return result.all() if result.returns_rows else ()

    async def get(self, path: str, **query: Any) -> Any:
        return _ok(await self.stack.client.get(path, params=query))

    async def post(self, path: str, body: Any = None) -> Any:
        return _ok(await self.stack.client.post(path, json=body))

    async def replay_all(self, **chosen: Any) -> int:
        """Bulk replay by the API, asked again while the server still runs another batch; how many were matched."""

        async def begun() -> int:
            response = await self.stack.client.post("/v1/dead-letters/replay", json=chosen)
            assert response.status_code == 202, response.text
            return int(response.json()["matched"])

        return await assert_eventually(begun, 30, interval=0.2)

    async def findable(self, query: str, n: int, timeout: float = PATIENCE_S) -> None:
        """Wait until Temporal's visibility store, which lags, finds `n` workflows."""
        client = await self.stack.temporal.client()

        async def found() -> None:
            count = (await client.count_workflows(query)).count
            assert count == n, f"{count} of {n} are visible to {query}"

        await assert_eventually(found, timeout, interval=0.25)


async def revive(stack: Stack) -> None:
    """Start again what is down: Temporal, PostgreSQL, the API, one worker (and no more)."""
    for extra in stack.workers[1:]:
        await extra.kill9()
    del stack.workers[1:]
    if stack.temporal.process.running:
        stack.temporal.resume()
    else:
        await stack.temporal.start()
    if stack.postgres is not None and not stack.postgres.process.running:
        await stack.postgres.start()
    if not stack.api.running:
        await stack.start_api()
    if not stack.worker.running:
        await stack.restart_worker()


@asynccontextmanager
async def post_without_reading(stack: Stack, path: str, body: bytes, headers: Mapping[str, str]) -> AsyncIterator[None]:
    """A POST whose response is not read: what a publisher sees when the API dies after its commit."""
    _, writer = await asyncio.open_connection("127.0.0.1", stack.api_port)
    request = httpx.Request("POST", stack.url + path, content=body, headers={**stack.client.headers, **headers})
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()
    try:
        yield
    finally:
        writer.transport.abort()


def _timestamp(stored: datetime | str) -> float:
    """SQLite keeps text, without a zone."""
    moment = stored if isinstance(stored, datetime) else datetime.fromisoformat(stored)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def slowly(seconds: float, status: int = 200) -> Response:
    return Response(status, delay=seconds)


def _ok(response: httpx.Response) -> Any:
    assert response.is_success, f"{response.request.method} {response.request.url}: {response.text}"
    return response.json()


def _test_name() -> str:
    return os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].rpartition("::")[2]
