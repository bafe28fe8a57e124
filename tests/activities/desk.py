"""Everything that `send_attempt` needs, put together as the worker does it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from activities.express import ExpressLane
from temporalio.testing import ActivityEnvironment

from activities.circuits import OutcomeReporter
from activities.sending import Sending
from everhook.contracts import AttemptOrder, AttemptOutcome, OutcomeReport
from everhook.egress import EgressClient
from everhook.entities import EndpointEntities
from everhook.policy import DeliveryPolicy
from everhook.signing import ALL_SCHEMES
from everhook.storage import endpoints
from everhook.storage.attempts import Recorder
from everhook.storage.engine import Database
from everhook.storage.receipt_keys import IssuerCache
from everhook.storage.tables import DEFAULT_TENANT_GID, Attempt, Delivery, Endpoint
from tests.everhook.storage.factories import ISSUER, KEYRING, Store
from tests.support.receiver import Receiver

PATH = "/hook"
POLICY = DeliveryPolicy(jitter=0)


class FakeEntities(EndpointEntities):
    """Keeps the reports; fails as often as it is told to."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, OutcomeReport]] = []
        self.tries = 0
        self.failing = 0

    async def report(self, endpoint_gid: str, tenant: str, report: OutcomeReport) -> None:
        self.tries += 1
        if self.failing:
            self.failing -= 1
            raise ConnectionError("temporal is away")
        self.reports.append((endpoint_gid, report))


class Desk:
    def __init__(
        self,
        store: Store,
        receiver: Receiver,
        egress: EgressClient,
        entities: FakeEntities,
        *,
        in_flight: int,
        slow: timedelta,
        recorder: Callable[[Database], Recorder] = Recorder,
        issuers: IssuerCache | None = None,
    ) -> None:
        self.store = store
        self.receiver = receiver
        self.entities = entities
        self.reporter = OutcomeReporter(entities)
        self.secrets: dict[str, str] = {}
        self.egress = egress
        lane = ExpressLane(in_flight, slow)
        self.recorder = recorder(store.database)
        self.issuers = issuers or IssuerCache(store.database, KEYRING, ISSUER)
        self.sending = Sending(store.database, self.recorder, self.issuers, egress, self.reporter, lane, KEYRING)

    def with_(self, **changes: Any) -> "Desk":
        """The same with another store, recorder, issuer or express lane."""
        options: dict[str, Any] = {"store": self.store, "in_flight": 50, "slow": timedelta(seconds=30)}
        return Desk(receiver=self.receiver, egress=self.egress, entities=self.entities, **(options | changes))

    async def endpoint(self, **changes: Any) -> Endpoint:
        """An endpoint at the receiver, with its secret in `secrets`."""
        fields = {"tenant_gid": DEFAULT_TENANT_GID, "url": self.receiver.url_for(PATH), "signatures": [*ALL_SCHEMES]}
        endpoint = Endpoint(**(fields | changes))
        async with self.store.database.writing() as session:
            self.secrets[endpoint.gid] = await endpoints.create(session, KEYRING, endpoint)
        return endpoint

    async def delivery(self, endpoint: Endpoint | None = None, **changes: Any) -> Delivery:
        return await self.store.delivery(endpoint or await self.endpoint(), **changes)

    async def send(self, delivery: Delivery, number: int = 1, **changes: Any) -> AttemptOutcome:
        return await ActivityEnvironment().run(self.sending.send_attempt, order_for(delivery, number, **changes))

    async def attempt(self, delivery: Delivery) -> Attempt:
        """The one attempt that is on record."""
        [attempt] = await self.store.attempts(delivery)
        return attempt


def order_for(delivery: Delivery, number: int = 1, **changes: Any) -> AttemptOrder:
    fields: dict[str, Any] = {
        "delivery_gid": delivery.gid,
        "endpoint_gid": delivery.endpoint_gid,
        "round": delivery.round,
        "number": number,
        "timeout": timedelta(seconds=5),
        "retry": POLICY.plan(number, timedelta(), 0),
    }
    return AttemptOrder(**(fields | changes))
