"""The published client `axme`, unmodified, against `/axme` on a real socket.

It blocks, so each call runs in a thread.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from axme import AxmeClient, AxmeClientConfig  # type: ignore[import-untyped]

from api.main import end_streams
from everhook.settings import Settings
from testing.api import API_KEY, JSON, Api, created, on_a_port, running_api

AGENT = "agent://default/production/fulfillment-service"
ORDER: JSON = {"intent_type": "order.fulfillment.v1", "to_agent": AGENT, "payload": {"order_id": "ord_123"}}

Result = TypeVar("Result")


async def called(function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    return await asyncio.wait_for(asyncio.to_thread(function, *args, **kwargs), 20)


async def listen(agent: AxmeClient, address: str, count: int = 1, since: int = 0) -> list[JSON]:
    """Listen until this many intents came, then disconnect."""

    def take() -> list[JSON]:
        deliveries: Iterator[JSON] = agent.listen(address, since=since, wait_seconds=5, timeout_seconds=15)
        found = [next(deliveries) for _ in range(count)]
        deliveries.close()  # type: ignore[attr-defined]
        return found

    return await called(take)


@dataclass
class Served:
    """The API with `/axme`, and the client of an administrator. Nothing but base URL and key are set on clients."""

    api: Api
    port: int
    axme: AxmeClient
    closing: ExitStack

    def client(self, key: str, **config: Any) -> AxmeClient:
        return self.closing.enter_context(client(self.port, key, **config))

    async def key(self, *scopes: str, tenant: str | None = None, name: str = "alice") -> AxmeClient:
        body = {"name": name, "scopes": scopes, "tenant": tenant}
        made = created(await self.api.post("/v1/api-keys", body))
        return self.client(made["key"], max_retries=0)

    async def send(
        self, agent: str = AGENT, *, correlation_id: str | None = None, key: str | None = None, **more: Any
    ) -> str:
        intent = {**ORDER, "to_agent": agent, **more}
        return await called(self.axme.send_intent, intent, correlation_id=correlation_id, idempotency_key=key)

    async def get(self, intent_id: str) -> JSON:
        intent: JSON = (await called(self.axme.get_intent, intent_id))["intent"]
        return intent

    async def events(self, intent_id: str, since: int | None = None) -> list[JSON]:
        events: list[JSON] = (await called(self.axme.list_intent_events, intent_id, since=since))["events"]
        return events

    async def resume(self, intent_id: str, **body: Any) -> JSON:
        return await called(self.axme.resume_intent, intent_id, body)

    async def resolve(self, intent_id: str, **body: Any) -> JSON:
        return await called(self.axme.resolve_intent, intent_id, body)

    async def listen(self, agent: str = AGENT, count: int = 1, since: int = 0) -> list[JSON]:
        return await listen(self.axme, agent, count, since)

    async def endpoint(self, agent: str = AGENT) -> str:
        return str((await called(self.axme.get_agent, agent))["agent"]["service_account_id"])


def client(port: int, key: str, **config: Any) -> AxmeClient:
    return AxmeClient(AxmeClientConfig(base_url=f"http://127.0.0.1:{port}/axme", api_key=key, **config))


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[Served]:
    """A separate API. Temporal is stopped."""
    async with running_api(settings.model_copy(update={"axme": True})) as api:
        with ExitStack() as closing:
            async with on_a_port(api.app, lambda: end_streams(api.app)) as port:
                yield Served(api, port, closing.enter_context(client(port, API_KEY)), closing)
