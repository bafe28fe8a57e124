"""Everhook in this process: a real Temporal, the engine, its workers, a receiver, and the API over ASGI."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client

from everhook.engine import delivery_engine
from everhook.settings import Settings
from everhook.storage.engine import Database
from everhook.temporal.client import connect
from everhook.temporal.provisioning import setup
from testing.api import Api, running_api
from testing.receiver import Receiver
from testing.temporal_server import NAMESPACE, TemporalServer
from worker import running_workers


@dataclass(frozen=True)
class InProcess:
    api: Api
    receiver: Receiver
    temporal: Client
    temporal_address: str


@asynccontextmanager
async def running_in_process(settings: Settings, directory: Path) -> AsyncIterator[InProcess]:
    """All of it on a migrated database. Temporal keeps its store in `directory`."""
    async with AsyncExitStack() as opened:
        server = await opened.enter_async_context(TemporalServer(directory))
        client = await connect(target_host=server.address, namespace=NAMESPACE)
        await setup(client, settings)
        receiver = await opened.enter_async_context(Receiver())
        database = Database(settings.database_url)
        opened.push_async_callback(database.close)
        engine = await opened.enter_async_context(delivery_engine(client, database, settings))
        await opened.enter_async_context(running_workers(engine))
        api = await opened.enter_async_context(running_api(settings, client))
        yield InProcess(api, receiver, client, server.address)
