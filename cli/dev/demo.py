"""The demo of `everhook dev`: a channel, messages, and what receives them: a receiver with three endpoints of different
behaviour, a consumer of a stream, and an inbox whose people approve a large order.

It uses the API like any service, so it can be read as an example. Endpoints are created once: their
secrets, which the API shows once, are kept in the data directory, so that the receiver can check signatures.
"""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cli.dev.checks import write_private
from everhook.serving.server import bound_socket, serving
from everhook.signing.verify import verify
from everhook_client import AsyncClient, EverhookError, Message, Observer, models
from everhook_client.errors import Conflict, NotFound
from everhook_client.observing import Transport

CHANNEL = "orders"
EVERY_S = 15.0
STATE_FILE = "demo.json"
MARK = "everhookDemo"
"""The metadata key by which the demo recognizes its endpoints."""

REMEMBERED = 1_000

log = structlog.get_logger()


@dataclass(frozen=True)
class DemoEndpoint:
    """One endpoint of the demo: its name, which is its path at the receiver, its name in the terminal, and its event
    types. One without event types is not subscribed."""

    name: str
    description: str
    events: tuple[str, ...] = ()
    mode: models.EndpointMode = "http"
    options: models.EndpointOptions | None = None


RELIABLE = DemoEndpoint("reliable", "demo: always well", ("order.*",))
FLAKY = DemoEndpoint("flaky", "demo: fails at first", ("order.paid",))
STRICT = DemoEndpoint("strict", "demo: says no", ("order.cancelled",))
WORKER = DemoEndpoint("worker", "demo: streams", ("order.created",), mode="stream")
MANAGERS = DemoEndpoint("managers", "demo: people decide", mode="inbox", options={"name": "Managers"})
PARTS = (RELIABLE, FLAKY, STRICT, WORKER, MANAGERS)

EVENT_TYPES = ("order.created", "order.paid", "order.cancelled")


class DemoReceiver:
    """The receiver of the demo's customers: verifies each signature, and responds as its path requires."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self._seen: Counter[str] = Counter()
        self.app = Starlette(
            routes=[
                Route(f"/{RELIABLE.name}", self.reliable, methods=["POST"]),
                Route(f"/{FLAKY.name}", self.flaky, methods=["POST"]),
                Route(f"/{STRICT.name}", self.strict, methods=["POST"]),
            ]
        )

    async def reliable(self, request: Request) -> Response:
        if not await self._is_genuine(request, RELIABLE):
            return PlainTextResponse("bad signature", 401)
        return PlainTextResponse("thank you")

    async def flaky(self, request: Request) -> Response:
        """Fails the first request of each message, and of every other message the second as well."""
        if not await self._is_genuine(request, FLAKY):
            return PlainTextResponse("bad signature", 401)
        message = request.headers["webhook-id"]
        if message not in self._seen and len(self._seen) >= REMEMBERED:
            self._seen.clear()
        failures = self._seen.setdefault(message, 1 + len(self._seen) % 2)
        if failures == 0:
            return PlainTextResponse("got it now")
        self._seen[message] = failures - 1
        return PlainTextResponse("I am not quite awake", 500)

    async def strict(self, request: Request) -> Response:
        if not await self._is_genuine(request, STRICT):
            return PlainTextResponse("bad signature", 401)
        return PlainTextResponse("cancellations are not our business", 400)

    async def _is_genuine(self, request: Request, part: DemoEndpoint) -> bool:
        """Whether a request has a valid and recent signature by the part's secret."""
        return verify(request.headers, await request.body(), [self.secrets[part.name]]).is_genuine


class Demo:
    """Sets itself up through the API at `url`, then publishes until cancelled."""

    def __init__(self, url: str, api_key: str, data_dir: Path) -> None:
        self._client = AsyncClient(url, api_key, timeout=10, http_options={"trust_env": False})
        self._state_file = data_dir / STATE_FILE
        self._receiver = DemoReceiver()
        self._gids: dict[str, str] = {}

    @contextlib.asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Run the receiver, set up the endpoints, and consume the stream, until the block ends."""
        socket = bound_socket("127.0.0.1", 0, "the demo's receiver")
        async with self._client, serving(self._receiver.app, socket):
            await self._set_up(f"http://127.0.0.1:{socket.getsockname()[1]}")
            async with self._consuming():
                yield

    @contextlib.asynccontextmanager
    async def _consuming(self) -> AsyncIterator[None]:
        consumer = self._client.consumer(self._gids[WORKER.name], _pack, name="demo", observer=Quiet())
        running = asyncio.create_task(consumer.run())
        try:
            yield
        finally:
            consumer.stop()
            with contextlib.suppress(EverhookError):  # the next start continues
                await running

    async def publish_forever(self) -> None:
        """Publish one message of each type and one that has to be approved, then one every `EVERY_S` seconds."""
        try:
            await self._ask()
        except EverhookError as error:
            log.warning("the demo could not ask for an approval", error=repr(error))
        numbers = itertools.count(int(time.time()) % 1_000_000)
        for index, (number, event_type) in enumerate(zip(numbers, itertools.cycle(EVENT_TYPES), strict=False)):
            if index >= len(EVENT_TYPES):
                await asyncio.sleep(EVERY_S)
            try:
                await self._publish(event_type, number)
            except EverhookError as error:
                log.warning("the demo could not publish", error=repr(error))

    async def _publish(self, event_type: str, number: int) -> None:
        order = {"orderId": number, "amount": 10 + number % 90, "currency": "EUR"}
        await self._client.publish(CHANNEL, order, type=event_type)

    async def _ask(self) -> None:
        """Publish a large order, which waits until someone approves it in the dashboard, unless one waits already."""
        inbox = self._gids[MANAGERS.name]
        async for _ in self._client.tasks.list(state="open", inbox=inbox):
            return
        order = {"orderId": int(time.time()) % 1_000_000, "amount": 5_000, "currency": "EUR"}
        task = {"title": f"Order {order['orderId']} of 5,000 EUR: deliver it?"}
        await self._client.publish(CHANNEL, order, type="order.large", gates=[{"inbox": inbox, "task": task}])

    async def _set_up(self, receiver_url: str) -> None:
        await self._ensure_channel()
        known = self._known()
        await self._remove_unknown({endpoint["gid"] for endpoint in known.values()})
        for part in PARTS:
            url = f"{receiver_url}/{part.name}" if part.mode == "http" else None
            if part.name not in known or not await self._updated(known[part.name]["gid"], part, url):
                known[part.name] = await self._create(part, url)
                write_private(self._state_file, json.dumps(known))
            self._gids[part.name] = known[part.name]["gid"]
            self._receiver.secrets[part.name] = known[part.name]["secret"]

    async def _ensure_channel(self) -> None:
        with contextlib.suppress(Conflict):  # it exists
            await self._client.channels.create({"name": CHANNEL})

    def _known(self) -> dict[str, dict[str, str]]:
        """Gid and secret of each part from an earlier start; empty if the file is missing or invalid."""
        try:
            known: dict[str, dict[str, str]] = json.loads(self._state_file.read_text())
            return {part.name: known[part.name] for part in PARTS if {"gid", "secret"} == set(known.get(part.name, {}))}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    async def _remove_unknown(self, known: set[str]) -> None:
        """Delete endpoints of an earlier demo whose secrets are lost."""
        async for endpoint in self._client.endpoints.list():
            if MARK in endpoint["metadata"] and endpoint["endpointGid"] not in known:
                await self._client.endpoints.delete(endpoint["endpointGid"])

    async def _updated(self, gid: str, part: DemoEndpoint, url: str | None) -> bool:
        """Update the URL of an endpoint, because the receiver's port changes. False if the endpoint does not exist."""
        try:
            await self._client.endpoints.update(gid, {"url": url} if url else {"description": part.description})
        except NotFound:
            return False
        return True

    async def _create(self, part: DemoEndpoint, url: str | None) -> dict[str, str]:
        wanted: models.EndpointIn = {
            "mode": part.mode,
            "description": part.description,
            "metadata": {MARK: part.name},
        }
        if url is not None:
            # Quick retries: the documented schedule waits half a minute after a second failure.
            wanted |= {"url": url, "policy": {"preset": "brisk"}}
        if part.options is not None:
            wanted["options"] = part.options
        if part.events:
            wanted |= {"channel": CHANNEL, "events": list(part.events)}
        created = await self._client.endpoints.create(wanted)
        return {"gid": created["endpointGid"], "secret": created["secret"] or ""}


class Quiet(Observer):
    """The terminal shows the deliveries already."""

    def connected(self, transport: Transport) -> None: ...


async def _pack(message: Message) -> dict[str, str]:
    """What a consumer does with a message: users publish any payload. Its result is for the publisher."""
    return {"packed": message.gid}
