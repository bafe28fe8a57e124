"""`everhook simulate`: publish messages, receive them, follow their deliveries, and show the results."""

import asyncio
import contextlib
import functools
import itertools
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rich.live import Live

from cli.api_client.client import Api
from cli.api_client.errors import ApiError, Unavailable
from cli.command import Session
from cli.commands.receive import create_endpoint_for_receiver
from cli.receiver import Arrival, Receiver, ResponsePlan
from cli.simulation_stats import SimulationStats, line, picture
from everhook.serving.server import bound_socket, serving
from everhook_client import calls

PUBLISHERS = 16
POLL_EVERY_S = 1.0
DRAW_EVERY_S = 0.25
CLEAR_S = 30
MOST_READ, MOST_NUDGED = 5_000, 500

FOR_GOOD = (401, 403, 404, 422)
"""Statuses of refusals that the next message would get as well."""

EVENT_TYPES = ("order.created", "order.paid", "order.shipped")
"""Those of sample messages where the catalogue has no event type with an example."""

MOST_EXAMPLES = 20
REASON = "end of a simulation"
PARKED = (
    "Parked: failures in a row, with no success between them, opened an endpoint's circuit (5, unless configured "
    "otherwise). At a lower --rate retries succeed in between."
)


@dataclass(frozen=True)
class Plan:
    """Rate, number and channel of the messages, and the receiver's responses."""

    rate: float
    count: int | None
    seconds: float | None
    drain_s: float
    tenant: str | None
    channel: str | None
    statuses: Sequence[int]
    delay_s: float


class Simulation:
    """One run. `stats` are its results."""

    def __init__(self, session: Session, plan: Plan, pool: ThreadPoolExecutor) -> None:
        self.stats = SimulationStats(receives=plan.channel is None)
        self.interrupted = False
        self._stopped = asyncio.Event()
        self._session = session
        self._api = Api(session.target)  # without a spinner: its calls are frequent
        self._plan = plan
        self._pool = pool
        self._examples: dict[str, bytes] = {}

    def close(self) -> None:
        self._api.close()

    async def run(self) -> None:
        """Run until all is published and delivered, or `drain_s` has passed. Ctrl-C ends it early and cleanly, and so
        does a message that is refused for good."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        async with self._receiving_channel() as channel, self._progress():
            follower = asyncio.create_task(self._follow(channel))
            try:
                await self._publish_all(channel)
                await self._drain()
            finally:
                follower.cancel()
                await asyncio.wait([follower])
            await self._refresh(channel)

    def _interrupt(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        self.interrupted = True
        self._stopped.set()

    @contextlib.asynccontextmanager
    async def _receiving_channel(self) -> AsyncIterator[str]:
        """The channel to publish to: that of the plan, or a temporary one with an endpoint and a receiver."""
        if self._plan.channel is not None:
            yield self._plan.channel
            return
        channel = f"simulation-{secrets.token_hex(4)}"
        receiver = Receiver(ResponsePlan(self._plan.statuses, self._plan.delay_s), [], self._arrived)
        socket = bound_socket("127.0.0.1", 0, "the receiver's port")
        url = f"http://127.0.0.1:{socket.getsockname()[1]}/"
        async with serving(receiver, socket):
            await self._call(self._api.call, calls.create_channel({"name": channel}))
            try:
                endpoint = await self._call(
                    create_endpoint_for_receiver, self._api, url, channel, [], "everhook simulate"
                )
                receiver.secrets.append(endpoint["secret"] or "")
                try:
                    yield channel
                finally:
                    await self._clear(endpoint["endpointGid"])
            finally:
                with contextlib.suppress(ApiError):
                    await self._call(self._api.call, calls.delete_channel(channel))

    async def _publish_all(self, channel: str) -> None:
        """Publish at the plan's rate, or more slowly if the API is slower."""
        publishing: set[asyncio.Task[None]] = set()
        self._examples = await self._call(self._read_examples)
        types = tuple(self._examples) or EVENT_TYPES
        for number, event_type in zip(itertools.count(), itertools.cycle(types), strict=False):
            if await self._is_enough(number):
                break
            if len(publishing) >= 2 * PUBLISHERS:
                await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._publish(channel, event_type, number))
            publishing.add(task)
            task.add_done_callback(publishing.discard)
        if publishing:
            await asyncio.wait(publishing)
        self.stats.ended = time.monotonic()

    def _read_examples(self) -> dict[str, bytes]:
        """Payloads of the catalogue, by event type. None without access to it: a key may only publish."""
        examples: dict[str, bytes] = {}
        with contextlib.suppress(ApiError):
            for listed in self._api.items(calls.list_event_types(archived=False), MOST_EXAMPLES):
                example = self._api.call(calls.get_event_type(listed["name"]))["example"]
                if example is not None and not listed["deprecated"]:
                    examples[listed["name"]] = json.dumps(example).encode()
        return examples

    async def _is_enough(self, number: int) -> bool:
        """Whether to stop after `number` messages; if not, wait until the next is due."""
        plan = self._plan
        due = self.stats.began + number / plan.rate
        if plan.count is not None and number >= plan.count:
            return True
        if plan.seconds is not None and due - self.stats.began >= plan.seconds:
            return True
        await self._pause(due - time.monotonic())
        return self._stopped.is_set()

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until the run is stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()

    async def _publish(self, channel: str, event_type: str, number: int) -> None:
        payload = self._examples.get(event_type) or _sample(number)
        key, began = f"simulation-{secrets.token_hex(8)}", time.monotonic()
        try:
            accepted = await self._call(
                self._api.publish, channel, payload, type=event_type, idempotency_key=key, tenant=self._plan.tenant
            )
        except (Unavailable, ApiError) as error:
            self.stats.refused[str(error)] += 1
            if isinstance(error, ApiError) and error.status_code in FOR_GOOD:
                self._stopped.set()
            return
        self.stats.published += 1
        self.stats.published_at[accepted["messageGid"]] = began
        for delivery in accepted["deliveries"]:
            self.stats.statuses.setdefault(delivery["deliveryGid"], delivery["status"])

    def _arrived(self, arrival: Arrival) -> None:
        self.stats.requests += 1
        self.stats.arrived_at.setdefault(arrival.message_gid, time.monotonic())
        if arrival.verification is not None and not arrival.verification.is_genuine:
            self.stats.forged += 1

    async def _drain(self) -> None:
        until = time.monotonic() + self._plan.drain_s
        while self.stats.open and not self._stopped.is_set() and time.monotonic() < until:
            await self._pause(DRAW_EVERY_S)

    async def _follow(self, channel: str) -> None:
        while True:
            await asyncio.sleep(POLL_EVERY_S)
            await self._refresh(channel)

    async def _refresh(self, channel: str) -> None:
        """Read the statuses of deliveries, back to the oldest open one of this run."""
        with contextlib.suppress(Unavailable, ApiError):
            found = await self._call(self._newest, channel, min(self.stats.open, default=None))
            self.stats.statuses.update({gid: status for gid, status in found.items() if gid in self.stats.statuses})

    def _newest(self, channel: str, oldest: str | None) -> dict[str, str]:
        found: dict[str, str] = {}
        if oldest is None:
            return found
        for delivery in self._api.items(calls.list_deliveries(channel=channel), MOST_READ):
            if delivery["deliveryGid"] < oldest:
                break
            found[delivery["deliveryGid"]] = delivery["status"]
        return found

    async def _clear(self, endpoint_gid: str) -> None:
        """Delete the endpoint of this run, and discard its dead letters."""
        await self._call(self._api.call, calls.delete_endpoint(endpoint_gid))
        if not self.stats.open and not self.stats.outcomes["dead_lettered"]:
            return
        with self._session.out.busy("cleaning up …"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_S):
                await self._nudge()
                await self._purge(endpoint_gid)
                return
        purge = f"everhook dead-letters purge --endpoint {endpoint_gid}"
        self._session.out.note(f"some deliveries are still under way and become dead letters: {purge}", "yellow")

    async def _nudge(self) -> None:
        """Make waiting deliveries attempt now: the attempt finds that the endpoint was deleted."""
        for gid in self.stats.open[:MOST_NUDGED]:
            with contextlib.suppress(ApiError, Unavailable):
                await self._call(self._api.call, calls.attempt_now(gid))

    async def _purge(self, endpoint_gid: str) -> None:
        """Purge until none is left. Temporal's index is updated with a delay, and one batch runs at a time."""
        purge = functools.partial(calls.purge, endpoint_gid=endpoint_gid, reason=REASON)
        while True:
            with contextlib.suppress(Unavailable):
                result = await self._call(self._api.call, purge())
                opened = [one async for one in self._unfinished(endpoint_gid)]
                if not result["matched"] and not opened:
                    return
            await asyncio.sleep(POLL_EVERY_S)

    async def _unfinished(self, endpoint_gid: str) -> AsyncIterator[str]:
        for status in ("accepted", "sending", "retrying", "parked"):
            listing = calls.list_deliveries(status=status, endpoint_gid=endpoint_gid)
            listed = await self._call(self._api.call, listing.page(None, 1))
            for delivery in listed["data"]:
                yield delivery["deliveryGid"]

    async def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run a blocking call of the client in a thread."""
        call = functools.partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    @contextlib.asynccontextmanager
    async def _progress(self) -> AsyncIterator[None]:
        """Show progress: redrawn on a terminal, otherwise a line every second."""
        out = self._session.out
        draws = out.console.is_terminal and not out.as_json
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(Live(console=out.console, transient=True)) if draws else None
            task = asyncio.create_task(self._show_progress(live))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def _show_progress(self, live: Live | None) -> None:
        while True:
            await asyncio.sleep(DRAW_EVERY_S if live is not None else POLL_EVERY_S)
            if live is not None:
                live.update(picture(self.stats))
            else:
                self._session.out.show(self.stats.document(ended=False), lambda _: line(self.stats))


def _sample(number: int) -> bytes:
    return json.dumps({"orderId": 1_000 + number, "amount": 10 + number % 90, "currency": "EUR"}).encode()


async def run(session: Session, plan: Plan) -> tuple[SimulationStats, bool]:
    """Run a simulation; returns its results, and whether it was interrupted."""
    with ThreadPoolExecutor(PUBLISHERS, "publisher") as pool:
        simulation = Simulation(session, plan, pool)
        await simulation.run()
        simulation.close()
    session.out.show(simulation.stats.document(ended=True), lambda _: picture(simulation.stats))
    if simulation.stats.outcomes["parked"]:
        session.out.note(PARKED, "yellow")
    return simulation.stats, simulation.interrupted
