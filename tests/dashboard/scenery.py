"""Sample data: healthy and failing endpoints with a day of history, written into the database."""

import hashlib
import json
import random
from datetime import datetime, timedelta
from typing import Any

from everhook.channels import store as channels
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeadLetterReason, DeliveryStatus, Verdict
from everhook.delivery.body_formats import BodyFormat, Content, render
from everhook.endpoints import store as endpoints
from everhook.endpoints import subscriptions_store as subscriptions
from everhook.ids import Kind, first_gid_at, new_gid
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import (
    Attempt,
    CircuitRow,
    Delivery,
    Endpoint,
    EndpointMinute,
    EndpointMinuteError,
    Message,
    OperationalEvent,
    Subscription,
    now,
)
from everhook.tenants import store as tenants

HOSTILE = """<script>document.title='owned'</script><img src=x onerror="document.title='owned'">"""
BODY = b'{"error":"upstream connect error","retriable":true,"trace":[1,2,3]}'


def _sha256_of_body(message: Message, attempt: Attempt) -> str:
    assert message.payload is not None
    content = Content(
        message.gid, message.channel, message.event_type, message.payload, message.published_at, attempt.number
    )
    return hashlib.sha256(render(BodyFormat.ENVELOPE, content)[1]).hexdigest()


def gid_at(kind: Kind, moment: datetime) -> str:
    """A new gid, of another time."""
    return first_gid_at(kind, moment)[:-12] + new_gid(kind)[-12:]


class Scenery:
    def __init__(self, database: Database, keyring: KeyRing, seed: int = 7) -> None:
        self.database = database
        self.keyring = keyring
        self.random = random.Random(seed)
        self.endpoints: dict[str, Endpoint] = {}

    async def build(self) -> None:
        async with self.database.writing() as session:
            for name, policy in (
                ("orders", None),
                ("invoices", {"preset": "patient"}),
                ("shipments", {"exponential": {"initialSeconds": 2, "factor": 3, "capSeconds": 3600, "attempts": 9}}),
            ):
                await channels.create(session, name, policy)
        await self._endpoint("acme", "https://hooks.acme.example/orders", "Order sync", 0.999)
        await self._endpoint("acme", "https://hooks.acme.example/invoices", "Ledger", 0.97, channel="invoices")
        await self._endpoint(
            "globex", "https://api.globex.example/v2/webhooks/everhook", "", 0.35, state=CircuitState.OPEN
        )
        await self._endpoint("initech", "https://initech.example/in", "TPS reports", 0.9, hold=Hold.PAUSED)
        await self._endpoint("umbrella", "https://events.umbrella.example/", "", 0.99, channel="shipments")
        await self._endpoint(
            "hooli",
            "https://hooks.hooli.example/very/long/path/that/no-one/wanted/but/is/there",
            "",
            0.6,
            state=CircuitState.HALF_OPEN,
        )
        for name, reason, code, count in (
            ("globex", DeadLetterReason.EXHAUSTED, 503, 9),
            ("hooli", DeadLetterReason.CIRCUIT_OPEN, None, 4),
            ("acme", DeadLetterReason.REJECTED, 404, 3),
        ):
            for at in range(count):
                await self._dead(self.of(name), reason, code, now() - timedelta(minutes=7 * at + 3))
        for at in range(40):
            await self._delivered(
                self.of(self.random.choice(["acme", "umbrella", "initech"])), now() - timedelta(seconds=41 * at)
            )
        await self._waiting(self.of("globex"), DeliveryStatus.PARKED, now() - timedelta(minutes=12))
        await self._waiting(self.of("hooli"), DeliveryStatus.RETRYING, now() - timedelta(minutes=3))

    def of(self, tenant: str) -> Endpoint:
        return next(endpoint for key, endpoint in self.endpoints.items() if key.startswith(f"{tenant} "))

    async def _endpoint(
        self, tenant: str, url: str, description: str, success: float, *, channel: str = "orders", **circuit: Any
    ) -> None:
        async with self.database.writing() as session:
            owner = await tenants.ensure_tenant(session, tenant)
            assert owner is not None
            endpoint = Endpoint(
                tenant_gid=owner.gid,
                url=url,
                description=description,
                signatures=["standard", "timestamped"],
                details={"team": "integrations"},
                headers={"x-region": "eu-west-1"},
            )
            await endpoints.create(session, self.keyring, endpoint)
            subscription = Subscription(
                tenant_gid=owner.gid, endpoint_gid=endpoint.gid, channel=channel, events=["order.*", "invoice.paid"]
            )
            await subscriptions.create(session, subscription)
            row = await session.get_one(CircuitRow, endpoint.gid)
            for name, value in circuit.items():
                setattr(row, name, value)
            if circuit:
                row.failures, row.failing_since, row.openings = 14, now() - timedelta(minutes=52), 3
                row.until = now() + timedelta(minutes=4)
            session.add_all(self._history(endpoint, success))
            session.add_all(self._errors(endpoint, success))
            session.add_all(self._events(endpoint, circuit))
        self.endpoints[f"{tenant} {url}"] = endpoint

    def _history(self, endpoint: Endpoint, success: float) -> list[EndpointMinute]:
        rows = []
        newest = now().replace(second=0, microsecond=0)
        for ago in range(24 * 60):
            if ago > 90 and ago % 3:
                continue
            total = self.random.randint(2, 24)
            good = sum(self.random.random() < success for _ in range(total))
            rejected = (total - good) // 4
            quick = int(total * 0.6)
            rows.append(
                EndpointMinute(
                    endpoint_gid=endpoint.gid,
                    minute=newest - timedelta(minutes=ago),
                    tenant_gid=endpoint.tenant_gid,
                    delivered=good,
                    retried=total - good - rejected,
                    rejected=rejected,
                    duration_ms=total * 140,
                    under_100=quick,
                    under_500=(total - quick) // 2,
                    under_2000=(total - quick) // 3,
                    slower=total - quick - (total - quick) // 2 - (total - quick) // 3,
                )
            )
        return rows

    def _errors(self, endpoint: Endpoint, success: float) -> list[EndpointMinuteError]:
        newest = now().replace(second=0, microsecond=0)
        often = 0 if success > 0.98 else 12 if success > 0.8 else 50
        return [
            EndpointMinuteError(
                endpoint_gid=endpoint.gid,
                minute=newest - timedelta(minutes=ago),
                error="http_503" if ago % 3 else "timeout_total",
                count=ago % 4 + 1,
            )
            for ago in range(often)
        ]

    def _events(self, endpoint: Endpoint, circuit: dict[str, Any]) -> list[OperationalEvent]:
        events: list[tuple[float, str]] = [(20, "endpoint.circuit_opened"), (19.2, "endpoint.circuit_closed")]
        if "state" in circuit:
            events.append((0.85, "endpoint.circuit_opened"))
        if "hold" in circuit:
            events.append((2.5, "endpoint.paused"))
        return [
            OperationalEvent(
                gid=gid_at(Kind.EVENT, moment := now() - timedelta(hours=hours)),
                kind=kind,
                data={"failures": 5},
                tenant_gid=endpoint.tenant_gid,
                endpoint_gid=endpoint.gid,
                created_at=moment,
                published_at=moment,
            )
            for hours, kind in events
        ]

    async def _message(self, endpoint: Endpoint, moment: datetime) -> Message:
        payload = {
            "orderId": self.random.randint(1000, 9999),
            "amount": 99.5,
            "note": HOSTILE,
            "lines": [{"sku": "A-1", "n": 2}],
        }
        return Message(
            gid=gid_at(Kind.MESSAGE, moment),
            channel="orders",
            event_type=self.random.choice(["order.created", "order.paid"]),
            payload=json.dumps(payload).encode(),
            body_sha256="0" * 64,
            published_at=moment,
            accepted_at=moment,
        )

    async def _write(self, endpoint: Endpoint, moment: datetime, attempts: list[Attempt], **changes: Any) -> Delivery:
        message = await self._message(endpoint, moment)
        delivery = Delivery(
            **{
                "gid": gid_at(Kind.DELIVERY, moment),
                "tenant_gid": endpoint.tenant_gid,
                "message_gid": message.gid,
                "endpoint_gid": endpoint.gid,
                "channel": message.channel,
                "event_type": message.event_type,
                "accepted_at": moment,
                "dispatched_at": moment,
                "attempts": len(attempts),
                **changes,
            }
        )
        for attempt in attempts:
            attempt.delivery_gid = delivery.gid
            attempt.request_sha256 = _sha256_of_body(message, attempt)
        async with self.database.writing() as session:
            session.add_all([message, delivery, *attempts])
        return delivery

    def _attempt(
        self, endpoint: Endpoint, number: int, moment: datetime, verdict: Verdict, code: int | None
    ) -> Attempt:
        return Attempt(
            delivery_gid="",
            endpoint_gid=endpoint.gid,
            round=1,
            number=number,
            verdict=verdict,
            started_at=moment,
            duration_ms=self.random.randint(20, 900),
            status_code=code,
            error=None if code else "timeout_total",
            error_detail=None if code else "no response within 15 s",
            url=endpoint.url,
            request_headers=[
                ["content-type", "application/json"],
                ["user-agent", "Everhook/0.1"],
                ["x-region", "…"],
                ["webhook-signature", "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="],
            ],
            response_headers=[["content-type", "application/json"], ["server", HOSTILE]] if code else None,
            response_body=(HOSTILE.encode() if number % 2 else BODY) if code else None,
            response_size=68 if code else None,
            peer_address="203.0.113.7",
        )

    async def _dead(self, endpoint: Endpoint, reason: DeadLetterReason, code: int | None, moment: datetime) -> None:
        tries = 1 if reason is DeadLetterReason.REJECTED else 5
        verdict = Verdict.REJECTED if reason is DeadLetterReason.REJECTED else Verdict.RETRY
        attempts = [
            self._attempt(endpoint, number, moment - timedelta(minutes=60 - 11 * number), verdict, code)
            for number in range(1, tries + 1)
        ]
        await self._write(
            endpoint,
            moment - timedelta(minutes=60),
            attempts,
            status=DeliveryStatus.DEAD_LETTERED,
            reason=reason,
            dead_lettered_at=moment,
            last_status_code=code,
            last_error=f"http_{code}" if code else "timeout_total",
            due_at=moment + timedelta(days=30),
        )

    async def _delivered(self, endpoint: Endpoint, moment: datetime) -> None:
        attempt = self._attempt(endpoint, 1, moment, Verdict.DELIVERED, 200)
        await self._write(
            endpoint, moment, [attempt], status=DeliveryStatus.DELIVERED, completed_at=moment, last_status_code=200
        )

    async def _waiting(self, endpoint: Endpoint, status: DeliveryStatus, moment: datetime) -> None:
        attempts = [
            self._attempt(endpoint, number, moment + timedelta(seconds=30 * (number - 1)), Verdict.RETRY, 503)
            for number in (1, 2)
        ]
        attempts[-1].next_attempt_at = now() + timedelta(minutes=4)
        parked_at = now() - timedelta(minutes=11) if status is DeliveryStatus.PARKED else None
        await self._write(
            endpoint,
            moment,
            attempts,
            status=status,
            due_at=now() + timedelta(minutes=4),
            parked_at=parked_at,
            last_status_code=503,
            last_error="http_503",
        )
