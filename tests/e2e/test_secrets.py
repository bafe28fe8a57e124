"""Secrets in the whole product: a rotation under load, a client certificate, a lost key, and what is written down."""

import asyncio
import base64
import contextlib
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import standardwebhooks
import svix
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import text

from everhook.signing.schemes import new_secret
from everhook.storage.encryption import ENDPOINT_SECRET
from everhook.storage.keyring import KeyRing, new_master_key
from everhook.temporal.client import connect
from testing.certificates import Authority
from testing.ledgers import Ack, compare
from testing.publisher import Publisher, sample_payload
from testing.receiver import Arrival, Receiver, Response, Step
from testing.stack import API_KEY, MASTER_KEY, QUICK, Stack
from testing.temporal_server import NAMESPACE
from testing.token_server import TokenServer
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER_MASTER_KEY = new_master_key()
UNDER_WAY = 4
PATIENCE_S = 60
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    env = {**QUICK, "EVERHOOK_EGRESS_ALLOW": "127.0.0.0/8,::1/128"}
    async with Stack(tmp_path_factory.mktemp("secrets"), extra_env=env) as stack:
        yield stack


@dataclass
class KnownSecrets:
    """Every secret that this module learned, as bytes that may be found somewhere."""

    needles: dict[bytes, str] = field(default_factory=dict)

    def secret(self, secret: str) -> str:
        """A prefix, and the secret in base64. Only the seed of a private key counts: the rest of it is public."""
        raw = base64.b64decode(secret.rpartition("_")[2])[:32]
        encoded = base64.b64encode(raw[: len(raw) // 3 * 3])
        self.needles |= dict.fromkeys([raw, encoded, encoded.translate(_URL_SAFE), raw.hex().encode()], secret)
        return secret

    def key(self, pem: str) -> str:
        """A private key in PEM."""
        der = base64.b64decode("".join(pem.splitlines()[1:-1]))
        scalar = der[36:68]
        self.needles |= dict.fromkeys([der, scalar, pem.splitlines()[1].encode()], pem)
        return pem

    def text(self, name: str) -> str:
        """A new secret that is text, as it is and in base64."""
        text = f"{name}-{new_secret().removeprefix('whsec_')}"
        self.needles |= dict.fromkeys([text.encode(), base64.b64encode(text.encode())], text)
        return text

    def found_in(self, content: bytes) -> set[str]:
        return {secret for needle, secret in self.needles.items() if needle in content}


@pytest.fixture(scope="module")
def known() -> KnownSecrets:
    return KnownSecrets()


class VerifyingReceiver(Receiver):
    """Knows one secret, as receivers do, and responds with 401 to requests that it did not sign."""

    def __init__(self) -> None:
        super().__init__()
        self.secret = ""
        self.refused: list[Arrival] = []
        self.ids: set[str] = set()

    def _arrive(self, arrival: Arrival) -> Step:
        step = super()._arrive(arrival)
        self.ids.add(arrival.id)
        if not verifies(arrival, self.secret):
            self.refused.append(arrival)
            return Response(401)
        return step


def headers_of(arrival: Arrival) -> dict[str, str]:
    return {name.lower(): value for name, value in arrival.headers}


def verifies(arrival: Arrival, secret: str) -> bool:
    """Verified by two third-party libraries."""
    try:
        standardwebhooks.Webhook(secret).verify(arrival.body, headers_of(arrival), json_parse=False)
        svix.Webhook(secret).verify(arrival.body, headers_of(arrival))
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


def kinds(arrival: Arrival) -> Counter[str]:
    """The number of its signatures of each kind: `{"v1": 2, "v1a": 1}`."""
    return Counter(one.partition(",")[0] for one in headers_of(arrival)["webhook-signature"].split())


def verifies_publicly(arrival: Arrival, public_key: str) -> bool:
    """Whether one of the `v1a` signatures is of this key."""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key.removeprefix("whpk_")))
    headers = headers_of(arrival)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + arrival.body
    for one in headers["webhook-signature"].split():
        with contextlib.suppress(InvalidSignature):
            if one.startswith("v1a,"):
                key.verify(base64.b64decode(one[4:]), signed)
                return True
    return False


class Load:
    """Publishes until the block ends, with a constant number of messages in flight."""

    def __init__(self, publisher: Publisher, channel: str, receiver: VerifyingReceiver) -> None:
        self._publisher = publisher
        self._channel = channel
        self._receiver = receiver
        self._turns = [0] * UNDER_WAY
        self._ended = False

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._publish(number)) for number in range(UNDER_WAY)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._ended = True
        await asyncio.gather(*self._tasks)

    async def _publish(self, number: int) -> None:
        while not self._ended:
            ack = await self._publisher.publish(self._channel, sample_payload(self._turns[number]))
            assert ack is not None
            await assert_eventually(partial(self._arrived, ack), PATIENCE_S, interval=0.05)
            self._turns[number] += 1

    def _arrived(self, ack: Ack) -> None:
        assert ack.message_gid in self._receiver.ids

    async def settled(self) -> None:
        """Wait until all messages in flight have arrived: no attempt is left that began before now."""
        before = list(self._turns)

        def all_arrived() -> None:
            assert all(now > then for now, then in zip(self._turns, before, strict=True))

        await assert_eventually(all_arrived, PATIENCE_S)


async def rotate(stack: Stack, gid: str, known: KnownSecrets, **body: Any) -> dict[str, Any]:
    response = await stack.client.post(f"/v1/endpoints/{gid}/secret/rotate", json=body)
    rotated: dict[str, Any] = response.raise_for_status().json()
    known.secret(rotated["secret"])
    return rotated


async def public_keys(stack: Stack, gid: str) -> list[str]:
    shown = (await stack.client.get(f"/v1/endpoints/{gid}")).raise_for_status().json()["publicKeys"]
    return [key["publicKey"] for key in shown]


async def test_a_rotation_under_load_fails_no_verification_and_no_delivery(stack: Stack, known: KnownSecrets) -> None:
    publisher = stack.publisher()
    await publisher.create_channel("rotating", {"delaysSeconds": [0.5, 0.5]})
    async with VerifyingReceiver() as receiver:
        endpoint = await publisher.create_endpoint(receiver.url_for("/"), "rotating", ed25519=True)
        first = receiver.secret = known.secret(endpoint.secret)
        (first_key,) = await public_keys(stack, endpoint.gid)
        async with Load(publisher, "rotating", receiver) as load:
            await load.settled()
            alone = receiver.arrivals[-1]

            second = (await rotate(stack, endpoint.gid, known))["secret"]
            second_key, _ = await public_keys(stack, endpoint.gid)
            await load.settled()
            overlap = newest(receiver, {"v1": 2, "v1a": 2})
            receiver.secret = second
            await load.settled()

            third = new_secret()
            await rotate(stack, endpoint.gid, known, secret=third)
            await load.settled()
            receiver.secret = third
            await rotate(stack, endpoint.gid, known, secret=third, gracePeriodSeconds=1)
            after = await assert_eventually(lambda: newest(receiver, {"v1": 1, "v1a": 1}), PATIENCE_S)
            third_key = (await public_keys(stack, endpoint.gid))[0]
            await load.settled()
        await stack.drained(of=publisher)

        assert receiver.refused == []
        report = await compare(publisher.ledger, receiver.lines(), stack.engine, endpoints=publisher.endpoints)
        report.assert_nothing_lost()
    for arrival, secrets in ((alone, [first]), (overlap, [first, second]), (after, [third])):
        assert [secret for secret in (first, second, third) if verifies(arrival, secret)] == secrets
    for arrival, keys in ((alone, [first_key]), (overlap, [first_key, second_key]), (after, [third_key])):
        assert [key for key in (first_key, second_key, third_key) if verifies_publicly(arrival, key)] == keys


def newest(receiver: Receiver, signatures: dict[str, int]) -> Arrival:
    """The last arrival, once it has these signatures."""
    assert kinds(receiver.arrivals[-1]) == signatures
    return receiver.arrivals[-1]


async def test_an_endpoint_that_requires_a_client_certificate_gets_it(
    stack: Stack, known: KnownSecrets, tmp_path: Path
) -> None:
    authority, clients = Authority(), Authority("Clients' CA")
    ours, theirs = clients.issue("everhook"), authority.issue("localhost")
    known.key(ours.key)
    publisher = stack.publisher()
    await publisher.create_channel("mutual", {"delaysSeconds": []})
    async with Receiver(ssl_context=theirs.server_context(tmp_path, clients.pem)) as receiver:
        url = f"https://localhost:{receiver.port}/"
        endpoint = await publisher.create_endpoint(url, "mutual", tls={"ca": authority.pem})
        known.secret(endpoint.secret)
        refused = await publisher.publish("mutual", sample_payload(1))
        assert await status_of(stack, refused) == "dead_lettered"
        assert receiver.arrivals == []

        tls = {"ca": authority.pem, "clientCertificate": ours.certificate, "clientKey": ours.key}
        changed = await stack.client.patch(f"/v1/endpoints/{endpoint.gid}", json={"tls": tls})
        assert "PRIVATE" not in changed.raise_for_status().text
        taken = await publisher.publish("mutual", sample_payload(2))
        assert await status_of(stack, taken) == "delivered"
        (arrival,) = receiver.arrivals
    assert verifies(arrival, endpoint.secret)


async def status_of(stack: Stack, ack: Ack | None) -> str:
    """The final status of a message's one delivery."""
    assert ack is not None
    (delivery,) = ack.deliveries

    async def at_rest() -> str:
        shown = (await stack.client.get(f"/v1/deliveries/{delivery.delivery_gid}")).raise_for_status().json()
        status: str = shown["status"]
        assert status in ("delivered", "dead_lettered")
        return status

    return await assert_eventually(at_rest, PATIENCE_S)


async def test_while_a_master_key_is_missing_deliveries_wait_and_are_not_charged(
    stack: Stack, known: KnownSecrets
) -> None:
    """Without the key no attempt could have a receipt, so none is made; the worker logs the reason once."""
    publisher = stack.publisher()
    await publisher.create_channel("waiting", {"delaysSeconds": []})
    async with Receiver() as receiver:
        # With a rate limit a worker makes the first attempt, and not the API, which has the key.
        endpoint = await publisher.create_endpoint(receiver.url_for("/"), "waiting", rateLimit=100)
        known.secret(endpoint.secret)
        await stack.worker.terminate()
        other = await stack.start_worker(extra_env={"EVERHOOK_MASTER_KEYS": OTHER_MASTER_KEY})
        for number in range(3):
            await publisher.publish("waiting", sample_payload(number))

        def is_reported_once() -> None:
            assert other.output().count("the receipt keys cannot be decrypted") == 1
            assert other.output().count('"send_attempt"') == 0

        await assert_eventually(is_reported_once, PATIENCE_S)
        shown = (await stack.client.get(f"/v1/endpoints/{endpoint.gid}")).raise_for_status().json()
        assert (shown["circuit"]["state"], shown["circuit"]["failures"], receiver.arrivals) == ("closed", 0, [])
        await other.terminate()

        await stack.restart_worker()
        await stack.drained(of=publisher)
        report = await compare(publisher.ledger, receiver.lines(), stack.engine, endpoints=publisher.endpoints)
        report.assert_nothing_lost()
        assert len(receiver.arrivals) == 3
        assert other.output().count("the receipt keys cannot be decrypted") == 1


async def test_credentials_of_endpoints_are_sent_only_to_their_receiver(stack: Stack, known: KnownSecrets) -> None:
    publisher = stack.publisher()
    await publisher.create_channel("authorized")
    async with TokenServer() as tokens, Receiver() as receiver:
        oauth2 = tokens.auth(clientSecret=known.text("client-secret"))
        tokens.client = (oauth2["clientId"], oauth2["clientSecret"])
        tokens.rules.token = known.text("access-token")
        auths = {
            "bearer": {"type": "bearer", "token": known.text("token")},
            "basic": {"type": "basic", "username": "everhook", "password": known.text("password")},
            "header": {"type": "header", "name": "X-Api-Key", "value": known.text("value")},
            "oauth2": oauth2,
        }
        headers = {"X-Custom": known.text("custom-header")}
        responses = [
            await stack.client.post(
                "/v1/endpoints",
                json={"url": receiver.url_for(f"/{kind}"), "channel": "authorized", "auth": auth, "headers": headers},
            )
            for kind, auth in auths.items()
        ]
        for response in responses:
            assert response.status_code == 201
            assert known.found_in(response.content) <= {headers["X-Custom"], response.json()["secret"]}
            known.secret(response.json()["secret"])
        published = await stack.client.post("/v1/channels/authorized/messages", json={"type": "a", "payload": 1})
        arrivals = {arrival.path: headers_of(arrival) for arrival in await receiver.wait_for(4)}
    assert {found["x-custom"] for found in arrivals.values()} == set(headers.values())
    assert arrivals["/bearer"]["authorization"] == f"Bearer {auths['bearer']['token']}"
    assert arrivals["/header"]["x-api-key"] == auths["header"]["value"]
    assert arrivals["/oauth2"]["authorization"] == f"Bearer {tokens.rules.token}"
    for delivery in published.json()["deliveries"]:
        path = f"/v1/deliveries/{delivery['deliveryGid']}"

        async def is_delivered(path: str = path) -> None:
            response = await stack.client.get(path)
            assert response.json()["status"] == "delivered"
            assert known.found_in(response.content) == set()

        await assert_eventually(is_delivered, PATIENCE_S)


BAD_SECRET = "whsec_" + base64.b64encode(b"only-twenty-three-bytes").decode()


async def test_responses_to_bad_requests_do_not_repeat_their_secrets(stack: Stack, known: KnownSecrets) -> None:
    url = f"/v1/endpoints/{(await stack.client.get('/v1/endpoints')).json()['data'][0]['endpointGid']}/secret/rotate"
    known.secret(BAD_SECRET)
    key = known.key(Authority().issue("x").key)
    for response in (
        await stack.client.post(url, json={"secret": BAD_SECRET}),
        await stack.client.post(url, content=f'{{"secret": "{BAD_SECRET}"'),
        await stack.client.post(url, json={"secret": [BAD_SECRET]}),
        await stack.client.post("/v1/endpoints", json={"url": "https://127.0.0.1/", "tls": {"clientKey": key}}),
        await stack.client.post("/v1/endpoints", json={"url": "https://127.0.0.1/", "tls": {"ca": key}}),
    ):
        assert response.status_code in (400, 422)
        assert known.found_in(response.content) == set()


async def test_no_secret_is_written_down_anywhere(stack: Stack, known: KnownSecrets) -> None:
    """Last of this module: logs, database, and all that Temporal keeps, after all the tests above."""
    for master_key in (MASTER_KEY, OTHER_MASTER_KEY):
        known.secret(f"_{master_key}")
    known.needles[API_KEY.encode()] = API_KEY
    ring = KeyRing([MASTER_KEY])
    async with stack.engine.connect() as connection:
        rows = await connection.execute(text("SELECT gid, secret FROM endpoint_secret"))
        opened = [known.secret(ENDPOINT_SECRET.decrypt(ring, box, gid)) for gid, box in rows]
    assert {secret.partition("_")[0] for secret in opened} == {"whsec", "whsk"}
    places = {
        "logs": b"".join(log.read_bytes() for log in stack.directory.glob("*.log")),
        "database": dump(stack.directory / "everhook.db"),
        "Temporal's store": b"".join(file.read_bytes() for file in stack.directory.glob("temporal.db*")),
        "histories": await histories(stack),
        "OpenAPI": (await stack.client.get("/openapi.json")).content,
        "audit trail": (await stack.client.get("/v1/audit")).content,
        "endpoints": (await stack.client.get("/v1/endpoints")).content,
    }
    assert all(len(content) > 1000 for content in places.values())
    for name, readable in (("histories", b"dlv_"), ("Temporal's store", b"dlv_"), ("database", b"endpoint_secret")):
        assert readable in places[name]
    assert {name: known.found_in(content) for name, content in places.items()} == {name: set() for name in places}


def dump(file: Path) -> bytes:
    """All of a database as SQL, and its files as they are: deleted rows linger in them."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        statements = "\n".join(connection.iterdump())
    return statements.encode() + b"".join(part.read_bytes() for part in file.parent.glob(f"{file.name}*"))


async def histories(stack: Stack) -> bytes:
    """Every event of the last workflows, as it is sent over the wire."""
    client = await connect(target_host=stack.temporal.address, namespace=NAMESPACE)
    workflows = [workflow async for workflow in client.list_workflows(limit=30)]
    handles = [client.get_workflow_handle(workflow.id, run_id=workflow.run_id) for workflow in workflows]
    found = await asyncio.gather(*(handle.fetch_history() for handle in handles))
    return b"".join(event.SerializeToString() for history in found for event in history.events)
