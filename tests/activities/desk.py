"""Everything that makes attempts, put together as a process does it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.sending import SendingActivities
from everhook.circuit.client import CircuitClient
from everhook.circuit.reporter import OutcomeReporter
from everhook.circuit.states_store import EndpointStates
from everhook.contracts import AttemptInput, AttemptOutcome, HandlerInput, HandlerResult, OutcomeReport
from everhook.delivery.dispatcher import Dispatcher, LaneLimits
from everhook.delivery.fitness import EndpointFitness
from everhook.delivery.handling import Handlers
from everhook.delivery.policy import DeliveryPolicy
from everhook.delivery.recorder_store import Recorder
from everhook.delivery.sender import Sender
from everhook.delivery.starter import Starter, StarterLimits
from everhook.egress import EgressClient
from everhook.endpoints import store as endpoints
from everhook.receipts.keys_store import IssuerCache
from everhook.signing.schemes import DEFAULT_SCHEMES
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import DEFAULT_TENANT_GID, Attempt, Delivery, Endpoint
from testing.receiver import Receiver
from tests.delivery.fakes import FakeTemporal
from tests.stores.factories import ISSUER, KEYRING, Store

PATH = "/hook"
POLICY = DeliveryPolicy(jitter=0)


class FakeCircuits(CircuitClient):
    """Keeps the reports. The next `failing` calls raise ConnectionError."""

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
        circuits: FakeCircuits,
        *,
        slow: timedelta = timedelta(seconds=30),
        recorder: Callable[[Database], Recorder] = Recorder,
        issuers: IssuerCache | None = None,
        keyring: KeyRing = KEYRING,
        handlers: Handlers | None = None,
    ) -> None:
        self.store = store
        self.receiver = receiver
        self.circuits = circuits
        self.reporter = OutcomeReporter(circuits)
        self.secrets: dict[str, str] = {}
        self.egress = egress
        self.fitness = EndpointFitness(slow)
        self.states = EndpointStates(store.database)
        self.recorder = recorder(store.database)
        self.issuers = issuers or IssuerCache(store.database, KEYRING, ISSUER)
        self.sender = Sender(
            store.database,
            self.recorder,
            self.issuers,
            egress,
            self.reporter,
            self.fitness,
            keyring,
            handlers=handlers,
        )
        self.sending = SendingActivities(self.sender, slots=200)

    def with_(self, **changes: Any) -> "Desk":
        """The same with another store, recorder, issuer, key ring, way out or idea of what is slow."""
        options: dict[str, Any] = {"store": self.store, "egress": self.egress}
        return Desk(receiver=self.receiver, circuits=self.circuits, **(options | changes))

    def starter(self, temporal: FakeTemporal, limits: StarterLimits = StarterLimits()) -> Starter:
        return Starter(temporal.client, self.store.database, self.recorder, self.states, limits)

    def dispatcher(self, temporal: FakeTemporal, lane: LaneLimits | None = LaneLimits()) -> Dispatcher:
        return Dispatcher(self.sender, self.starter(temporal), self.states, self.fitness, lane)

    async def endpoint(self, **changes: Any) -> Endpoint:
        """An endpoint at the receiver, with its secret in `secrets`."""
        fields = {
            "tenant_gid": DEFAULT_TENANT_GID,
            "url": self.receiver.url_for(PATH),
            "signatures": [*DEFAULT_SCHEMES],
        }
        endpoint = Endpoint(**(fields | changes))
        async with self.store.database.writing() as session:
            self.secrets[endpoint.gid] = await endpoints.create(session, KEYRING, endpoint) or ""
        return endpoint

    async def delivery(self, endpoint: Endpoint | None = None, **changes: Any) -> Delivery:
        return await self.store.delivery(endpoint or await self.endpoint(), **changes)

    async def send(self, delivery: Delivery, number: int = 1, **changes: Any) -> AttemptOutcome:
        return await ActivityEnvironment().run(self.sending.send_attempt, order_for(delivery, number, **changes))

    async def handle(self, delivery: Delivery, number: int = 1, *, step: int = 0, **changes: Any) -> HandlerResult:
        input = HandlerInput(order_for(delivery, number, **changes), step)
        return await ActivityEnvironment().run(self.sending.run_handler, input)

    async def attempt(self, delivery: Delivery) -> Attempt:
        """The one recorded attempt."""
        [attempt] = await self.store.attempts(delivery)
        return attempt


def order_for(delivery: Delivery, number: int = 1, **changes: Any) -> AttemptInput:
    fields: dict[str, Any] = {
        "delivery_gid": delivery.gid,
        "endpoint_gid": delivery.endpoint_gid,
        "round": delivery.round,
        "number": number,
        "timeout": timedelta(seconds=5),
        "retry": POLICY.plan(number, timedelta(), 0),
    }
    return AttemptInput(**(fields | changes))
