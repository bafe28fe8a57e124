"""The API with a real Temporal, real workers and a receiver. One stack serves all tests of this package, since it takes
two seconds of CPU time to start one."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio
from pydantic import SecretStr
from temporalio.client import Client

from testing.api import JSON, Api, ok
from testing.in_process import running_in_process
from testing.receiver import Receiver
from testing.smtp_server import SmtpServer
from testing.waiting import assert_eventually
from tests.api.conftest import copied

ON_STACK = pytest.mark.asyncio(loop_scope="package")
"""For the tests of this package: they run in the event loop of the stack."""


@dataclass
class Live:
    """Everything real, in one process. Each test takes a path of the receiver, and names for its channel and tenant, of
    its own."""

    api: Api
    receiver: Receiver
    temporal: Client
    mails: SmtpServer = field(default_factory=SmtpServer)
    name: str = field(default_factory=lambda: f"t{uuid4().hex[:12]}")

    @property
    def path(self) -> str:
        return f"/{self.name}"

    @property
    def url(self) -> str:
        return self.receiver.url_for(self.path)

    async def wait_for_status(self, delivery_gid: str, status: str) -> JSON:
        async def has_it() -> JSON:
            delivery = ok(await self.api.get(f"/v1/deliveries/{delivery_gid}"))
            assert delivery["status"] == status
            return delivery

        return await assert_eventually(has_it)

    async def dead_letter(self, channel: str = "orders", **body: object) -> str:
        """Publish one message and have it dead-lettered; the receiver must refuse it. Returns the delivery's gid."""
        message = await self.api.publish({"secret": "payload"}, channel, **body)
        (delivery,) = message["deliveries"]
        gid: str = delivery["deliveryGid"]
        await self.wait_for_status(gid, "dead_lettered")
        return gid


@pytest_asyncio.fixture(loop_scope="package", scope="package")
async def stack(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Live]:
    directory = tmp_path_factory.mktemp("live")
    async with SmtpServer() as mails:
        of_mails = {"smtp_url": SecretStr(mails.url), "smtp_from": "hooks@acme.example"}
        settings = copied(migrated_file, directory).model_copy(update={"events_every_seconds": 1, **of_mails})
        async with running_in_process(settings, directory) as running:
            yield Live(running.api, running.receiver, running.temporal, mails)


@pytest.fixture
def live(stack: Live) -> Live:
    return Live(stack.api, stack.receiver, stack.temporal, stack.mails)
