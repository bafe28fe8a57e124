"""What `everhook simulate` does: publishes, receives, follows what became of it all, and draws that."""

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

from cli.api_client.client import Api, path
from cli.api_client.errors import ApiError, Unavailable
from cli.command import Session
from cli.commands.receive import make_endpoint
from cli.receiver import Answers, Arrival, Receiver
from cli.simulation_stats import SimulationStats, line, picture
from everhook.serving.server import bound_socket, serving

PUBLISHERS = 16
LOOK_EVERY_S = 1.0
DRAW_EVERY_S = 0.25
CLEAR_S = 30
MOST_LOOKED_AT, MOST_NUDGED = 5_000, 500

EVENT_TYPES = ("order.created", "order.paid", "order.shipped")
REASON = "end of a simulation"
PARKED = (
    "Parked: failures in a row, with no success between them, opened an endpoint's circuit (5, unless configured "
    "otherwise). At a lower --rate retries succeed in between."
)


@dataclass(frozen=True)
class Plan:
    """How much is published, for how long, where, and how the receiver answers."""

    rate: float
    count: int | None
    seconds: float | None
    settle_s: float
    tenant: str | None
    channel: str | None
    statuses: Sequence[int]
    delay_s: float


class Simulation:
    """One run. `tally` is what there is to see of it."""

    def __init__(self, session: Session, plan: Plan, pool: ThreadPoolExecutor) -> None:
        self.tally = SimulationStats(receives=plan.channel is None)
        self.interrupted = asyncio.Event()
        self._session = session
        self._api = Api(session.target)  # its calls come by the dozen, and show in the picture
        self._plan = plan
        self._pool = pool

    def close(self) -> None:
        self._api.close()

    async def run(self) -> None:
        """Until all is published and at rest, or patience is at an end. One Ctrl-C ends it early, in good order."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        async with self._place() as channel, self._shown():
            follower = asyncio.create_task(self._follow(channel))
            try:
                await self._publish_all(channel)
                await self._settle()
            finally:
                follower.cancel()
                await asyncio.wait([follower])
            await self._look(channel)

    def _interrupt(self) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)
        self.interrupted.set()

    @contextlib.asynccontextmanager
    async def _place(self) -> AsyncIterator[str]:
        """The channel that is published to; with a receiver at the end of it, unless the plan names one."""
        if self._plan.channel is not None:
            yield self._plan.channel
            return
        channel = f"simulation-{secrets.token_hex(4)}"
        receiver = Receiver(Answers(self._plan.statuses, self._plan.delay_s), [], self._arrived)
        socket = bound_socket("127.0.0.1", 0, "the receiver's port")
        url = f"http://127.0.0.1:{socket.getsockname()[1]}/"
        async with serving(receiver, socket):
            await self._call(self._api.post, path("channels"), {"name": channel})
            try:
                endpoint = await self._call(make_endpoint, self._api, url, channel, [], "everhook simulate")
                receiver.secrets.append(endpoint["secret"])
                try:
                    yield channel
                finally:
                    await self._clear(endpoint["endpointGid"])
            finally:
                with contextlib.suppress(ApiError):
                    await self._call(self._api.delete, path("channels", channel))

    async def _publish_all(self, channel: str) -> None:
        """At the plan's rate, or as fast as the API takes it where that is slower."""
        publishing: set[asyncio.Task[None]] = set()
        for number, event_type in zip(itertools.count(), itertools.cycle(EVENT_TYPES), strict=False):
            if await self._is_enough(number):
                break
            if len(publishing) >= 2 * PUBLISHERS:
                await asyncio.wait(publishing, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._publish(channel, event_type, number))
            publishing.add(task)
            task.add_done_callback(publishing.discard)
        if publishing:
            await asyncio.wait(publishing)
        self.tally.ended = time.monotonic()

    async def _is_enough(self, number: int) -> bool:
        """Whether `number` messages will do; if not, after waiting until the next is due."""
        plan = self._plan
        due = self.tally.began + number / plan.rate
        if plan.count is not None and number >= plan.count:
            return True
        if plan.seconds is not None and due - self.tally.began >= plan.seconds:
            return True
        await self._pause(due - time.monotonic())
        return self.interrupted.is_set()

    async def _pause(self, seconds: float) -> None:
        """For so long, or until somebody has had enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.interrupted.wait()

    async def _publish(self, channel: str, event_type: str, number: int) -> None:
        payload = json.dumps({"orderId": 1_000 + number, "amount": 10 + number % 90, "currency": "EUR"}).encode()
        key, began = f"simulation-{secrets.token_hex(8)}", time.monotonic()
        try:
            accepted = await self._call(
                self._api.publish, channel, payload, type=event_type, idempotencyKey=key, tenant=self._plan.tenant
            )
        except (Unavailable, ApiError) as error:
            self.tally.refused[str(error)] += 1
            return
        self.tally.published += 1
        self.tally.published_at[accepted["messageGid"]] = began
        for delivery in accepted["deliveries"]:
            self.tally.statuses.setdefault(delivery["deliveryGid"], delivery["status"])

    def _arrived(self, arrival: Arrival) -> None:
        self.tally.requests += 1
        self.tally.arrived_at.setdefault(arrival.message_gid, time.monotonic())
        if arrival.verification is not None and not arrival.verification.is_genuine:
            self.tally.forged += 1

    async def _settle(self) -> None:
        until = time.monotonic() + self._plan.settle_s
        while self.tally.open and not self.interrupted.is_set() and time.monotonic() < until:
            await self._pause(DRAW_EVERY_S)

    async def _follow(self, channel: str) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._look(channel)

    async def _look(self, channel: str) -> None:
        """Ask for the newest deliveries, as far back as one of ours was open."""
        with contextlib.suppress(Unavailable, ApiError):
            found = await self._call(self._newest, channel, min(self.tally.open, default=None))
            self.tally.statuses.update({gid: status for gid, status in found.items() if gid in self.tally.statuses})

    def _newest(self, channel: str, oldest: str | None) -> dict[str, str]:
        found: dict[str, str] = {}
        if oldest is None:
            return found
        for delivery in self._api.deliveries(MOST_LOOKED_AT, channel=channel):
            if delivery["deliveryGid"] < oldest:
                break
            found[delivery["deliveryGid"]] = delivery["status"]
        return found

    async def _clear(self, endpoint_gid: str) -> None:
        """Delete our endpoint, and discard what it leaves behind: nobody shall have to wonder about it."""
        await self._call(self._api.delete, path("endpoints", endpoint_gid))
        if not self.tally.open and not self.tally.outcomes["dead_lettered"]:
            return
        with self._session.out.busy("clearing up …"), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLEAR_S):
                await self._nudge()
                await self._purge(endpoint_gid)
                return
        purge = f"everhook dead-letters purge --endpoint {endpoint_gid}"
        self._session.out.note(f"some of it is still under way and ends as dead letters: {purge}", "yellow")

    async def _nudge(self) -> None:
        """A delivery that waits for its next attempt finds out at that attempt that its endpoint is gone."""
        for gid in self.tally.open[:MOST_NUDGED]:
            with contextlib.suppress(ApiError, Unavailable):
                await self._call(self._api.post, path("deliveries", gid, "attempt-now"))

    async def _purge(self, endpoint_gid: str) -> None:
        """Until none is left. Temporal's index follows a moment behind, and runs one batch at a time."""
        request = {"endpointGid": endpoint_gid, "reason": REASON}
        while True:
            with contextlib.suppress(Unavailable):
                answer = await self._call(self._api.post, path("dead-letters", "purge"), request)
                opened = [one async for one in self._unfinished(endpoint_gid)]
                if not answer["matched"] and not opened:
                    return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _unfinished(self, endpoint_gid: str) -> AsyncIterator[str]:
        for status in ("accepted", "sending", "retrying", "parked"):
            listed = await self._call(
                self._api.get, path("deliveries"), status=status, endpointGid=endpoint_gid, limit=1
            )
            for delivery in listed["data"]:
                yield delivery["deliveryGid"]

    async def _call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """The client blocks: it has threads of its own."""
        call = functools.partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    @contextlib.asynccontextmanager
    async def _shown(self) -> AsyncIterator[None]:
        """What happens, as it happens: drawn anew on a terminal, else a line every second."""
        out = self._session.out
        draws = out.console.is_terminal and not out.as_json
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(Live(console=out.console, transient=True)) if draws else None
            task = asyncio.create_task(self._show_for_ever(live))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def _show_for_ever(self, live: Live | None) -> None:
        while True:
            await asyncio.sleep(DRAW_EVERY_S if live is not None else LOOK_EVERY_S)
            if live is not None:
                live.update(picture(self.tally))
            else:
                self._session.out.show(self.tally.document(ended=False), lambda _: line(self.tally))


async def run(session: Session, plan: Plan) -> tuple[SimulationStats, bool]:
    """What came of it, and whether it was interrupted."""
    with ThreadPoolExecutor(PUBLISHERS, "publisher") as pool:
        simulation = Simulation(session, plan, pool)
        await simulation.run()
        simulation.close()
    session.out.show(simulation.tally.document(ended=True), lambda _: picture(simulation.tally))
    if simulation.tally.outcomes["parked"]:
        session.out.note(PARKED, "yellow")
    return simulation.tally, simulation.interrupted.is_set()
