"""Endpoints with `auth`: what their requests carry, and access tokens from a real token endpoint, well and hostile."""

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col
from structlog.testing import capture_logs

from everhook.contracts import DeadLetterReason, FailureCode, Verdict
from everhook.credentials import tokens as module
from everhook.credentials.auth import parse_auth
from everhook.credentials.tokens import MARGIN_S, MAX_LIFETIME_S, TokenClient, TokenSource, TokenUnavailable
from everhook.egress import EgressClient, EgressRules
from everhook.endpoints import store as endpoints
from everhook.storage.tables import Delivery, Endpoint
from testing.certificates import Authority
from testing.receiver import Fault, Response, Step, redirect
from testing.token_server import CLIENT_ID, CLIENT_SECRET, TOKEN_PATH, GuardedReceiver, TokenServer
from tests.activities.desk import Desk, FakeCircuits
from tests.stores.factories import KEYRING, Store

SECRET = "t0p-secret-of-the-endpoint"
MANY = 100
PATIENCE = timedelta(seconds=5)


@pytest.fixture
async def tokens() -> AsyncIterator[TokenServer]:
    async with TokenServer() as server:
        yield server


@pytest.fixture
async def guarded(tokens: TokenServer, store: Store, egress: EgressClient) -> AsyncIterator[Desk]:
    """A desk whose receiver wants tokens of the server."""
    async with GuardedReceiver(tokens) as receiver:
        desk = Desk(store, receiver, egress, FakeCircuits())
        yield desk
        await desk.reporter.close()


async def endpoint_with(desk: Desk, auth: Mapping[str, str], **changes: Any) -> Endpoint:
    endpoint = await desk.endpoint(**changes)
    async with desk.store.database.writing() as session:
        columns = endpoints.auth_columns(KEYRING, endpoint.gid, parse_auth(auth))
        await endpoints.change(session, await session.get_one(Endpoint, endpoint.gid), columns)
    return endpoint


async def statuses(desk: Desk, deliveries: list[Delivery], **changes: Any) -> list[Verdict]:
    outcomes = await asyncio.gather(*(desk.send(delivery, **changes) for delivery in deliveries))
    return [outcome.verdict for outcome in outcomes]


# Secrets that are sent as they are


@pytest.mark.parametrize(
    ("auth", "name", "value"),
    [
        ({"type": "bearer", "token": SECRET}, "authorization", f"Bearer {SECRET}"),
        (
            {"type": "basic", "username": "üser", "password": f"{SECRET}:ß"},
            "authorization",
            "Basic " + base64.b64encode(f"üser:{SECRET}:ß".encode()).decode(),
        ),
        ({"type": "header", "name": "X-Api-Key", "value": SECRET}, "X-Api-Key", SECRET),
        ({"type": "header", "name": "Authorization", "value": f"Key {SECRET}"}, "Authorization", f"Key {SECRET}"),
    ],
)
async def test_a_request_carries_the_secret_and_no_record_does(
    desk: Desk, auth: dict[str, str], name: str, value: str
) -> None:
    delivery = await desk.delivery(await endpoint_with(desk, auth, headers={"X-Team": "orders"}))
    with capture_logs() as logs:
        assert (await desk.send(delivery)).verdict is Verdict.DELIVERED
    [arrival] = desk.receiver.arrivals
    assert [pair for pair in arrival.headers if pair[0].lower() == name.lower()] == [(name, value)]
    assert arrival.header("x-team") == "orders"
    attempt = await desk.attempt(delivery)
    assert (attempt.request_headers or [])[-2:] == [["X-Team", "(kept secret)"], [name, "(kept secret)"]]
    assert value not in str(logs) and SECRET not in str(logs)


async def test_a_secret_that_cannot_be_decrypted_is_an_error_of_everhook(desk: Desk) -> None:
    endpoint = await endpoint_with(desk, {"type": "bearer", "token": SECRET})
    async with desk.store.database.writing() as session:
        broken = update(Endpoint).where(col(Endpoint.gid) == endpoint.gid).values(auth_secret="v1.00000000.AAAA")
        await session.execute(broken)
    outcome = await desk.send(await desk.delivery(endpoint))
    assert (outcome.reason, desk.receiver.count) == (DeadLetterReason.UNSENDABLE, 0)


# Access tokens


async def test_a_token_is_fetched_once_and_used_until_it_is_about_to_expire(guarded: Desk, tokens: TokenServer) -> None:
    auth = tokens.auth(scope="hooks:write hooks:read", audience="https://api.example.com/")
    endpoint = await endpoint_with(guarded, auth)
    with capture_logs() as logs:
        for _ in range(3):
            delivery = await guarded.delivery(endpoint)
            assert (await guarded.send(delivery)).verdict is Verdict.DELIVERED
    assert [arrival.header("authorization") for arrival in guarded.receiver.arrivals] == ["Bearer token-1"] * 3
    [issued] = tokens.issued
    assert issued.form == {"grant_type": "client_credentials", "scope": auth["scope"], "audience": auth["audience"]}
    assert not issued.in_body
    assert ["authorization", "(kept secret)"] in (await guarded.attempt(delivery)).request_headers  # type: ignore[operator]
    assert CLIENT_SECRET not in str(logs) and "token-1" not in str(logs)


class Clock:
    """Stands for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


async def test_a_token_is_renewed_shortly_before_it_expires(
    monkeypatch: pytest.MonkeyPatch, egress: EgressClient, tokens: TokenServer
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    source, client = TokenSource(egress), TokenClient("ten_1", tokens.token_url, CLIENT_ID, CLIENT_SECRET)

    async def after(seconds: float) -> str:
        clock.now += seconds
        return (await source.get(client, PATIENCE)).value

    assert [await after(0), await after(3600 - MARGIN_S - 1), await after(2)] == ["token-1", "token-1", "token-2"]
    tokens.rules.expires_in = 0
    assert [await after(3600), await after(0), await after(0)] == ["token-3", "token-4", "token-5"]


@pytest.mark.parametrize(
    ("expires_in", "used_for"),
    [
        (3600, 3570), (3600.5, 3570.5), ("3600", 3570), (60, 54), (1, 0.9), (0, 0), (-5, 0),
        (None, 270), (True, 270), ("soon", 270), ("-1", 270), ([], 270), ("9" * 5_000, 270),
        (1e300, MAX_LIFETIME_S - MARGIN_S), (10**18, MAX_LIFETIME_S - MARGIN_S),
    ],
)  # fmt: skip
def test_absurd_lifetimes_are_bounded(expires_in: object, used_for: float) -> None:
    assert module._good_for(expires_in) == pytest.approx(used_for)


async def test_a_hundred_concurrent_attempts_share_one_request_for_a_token(guarded: Desk, tokens: TokenServer) -> None:
    tokens.rules.delay = 0.1
    endpoint = await endpoint_with(guarded, tokens.auth())
    assert await statuses(guarded, await guarded.store.deliveries(MANY, endpoint)) == [Verdict.DELIVERED] * MANY
    assert len(tokens.issued) == 1

    tokens.revoke()
    assert await statuses(guarded, await guarded.store.deliveries(MANY, endpoint)) == [Verdict.DELIVERED] * MANY
    assert len(tokens.issued) == 2


async def test_endpoints_of_one_client_share_a_token_and_others_do_not(guarded: Desk, tokens: TokenServer) -> None:
    auths = [tokens.auth(), tokens.auth(), tokens.auth(scope="a")]
    for endpoint in [await endpoint_with(guarded, auth) for auth in auths]:
        assert (await guarded.send(await guarded.delivery(endpoint))).verdict is Verdict.DELIVERED
    assert len(tokens.issued) == 2


async def test_a_401_for_a_cached_token_renews_it_once_within_the_attempt(guarded: Desk, tokens: TokenServer) -> None:
    endpoint = await endpoint_with(guarded, tokens.auth())
    await guarded.send(await guarded.delivery(endpoint))
    tokens.revoke()
    delivery = await guarded.delivery(endpoint)

    assert (await guarded.send(delivery)).verdict is Verdict.DELIVERED

    [_, refused, renewed] = guarded.receiver.arrivals
    assert (refused.header("authorization"), renewed.header("authorization")) == ("Bearer token-1", "Bearer token-2")
    assert refused.header("x-everhook-attempt") == renewed.header("x-everhook-attempt")
    attempt = await guarded.attempt(delivery)
    assert (attempt.status_code, attempt.error_detail) == (200, "HTTP 200 OK, with a new token after HTTP 401")


async def test_a_receiver_that_refuses_new_tokens_gets_its_401_recorded(guarded: Desk, tokens: TokenServer) -> None:
    tokens.rules.expires_in = -1  # the receiver takes none of them
    endpoint = await endpoint_with(guarded, tokens.auth())
    outcome = await guarded.send(await guarded.delivery(endpoint))
    assert (outcome.reason, outcome.status_code) == (DeadLetterReason.REJECTED, 401)
    assert (guarded.receiver.count, len(tokens.issued)) == (1, 1)

    tokens.rules.expires_in = 3600
    assert (await guarded.send(await guarded.delivery(endpoint))).verdict is Verdict.DELIVERED
    tokens.rules.expires_in = -1
    tokens.revoke()
    outcome = await guarded.send(await guarded.delivery(endpoint))
    assert (outcome.reason, outcome.status_code) == (DeadLetterReason.REJECTED, 401)
    assert (guarded.receiver.count, len(tokens.issued)) == (4, 3)


async def test_a_renewal_that_fails_is_retried_and_no_dead_letter(guarded: Desk, tokens: TokenServer) -> None:
    endpoint = await endpoint_with(guarded, tokens.auth())
    await guarded.send(await guarded.delivery(endpoint))
    tokens.revoke()
    tokens.misbehave(503)
    outcome = await guarded.send(await guarded.delivery(endpoint))
    assert (outcome.verdict, outcome.error) == (Verdict.RETRY, FailureCode.AUTH)


async def test_a_server_that_wants_the_secret_in_the_body_gets_it_there(guarded: Desk, tokens: TokenServer) -> None:
    tokens.rules.takes_header = False
    endpoint = await endpoint_with(guarded, tokens.auth())
    assert (await guarded.send(await guarded.delivery(endpoint))).verdict is Verdict.DELIVERED
    assert tokens.count == 2
    tokens.revoke()
    assert (await guarded.send(await guarded.delivery(endpoint))).verdict is Verdict.DELIVERED
    assert (tokens.count, [each.in_body for each in tokens.issued]) == (3, [True, True])


# Token endpoints that fail


def issuing(**fields: Any) -> Response:
    document = {"access_token": "token-1", "token_type": "Bearer", "expires_in": 60} | fields
    content = b"".join(
        [b"{", b", ".join(b'"%b": %b' % (name.encode(), _json(value)) for name, value in document.items()), b"}"]
    )
    return Response(200, content)


def _json(value: Any) -> bytes:
    return b"null" if value is None else b'"%b"' % str(value).encode() if isinstance(value, str) else b"%d" % value


HOSTILE: dict[str, tuple[Step, str]] = {
    "hangs": (Fault.HANG, "did not respond in time"),
    "drips": (Fault.DRIP_BODY, "did not respond in time"),
    "drips its headers": (Fault.DRIP_HEADERS, "did not respond in time"),
    "resets": (Fault.RESET, "connection reset"),
    "speaks no HTTP": (Fault.GARBAGE, "not HTTP"),
    "is huge": (Fault.HUGE_BODY, "more than 16 KiB"),
    "has huge headers": (Fault.HUGE_HEADERS, "KiB of headers"),
    "redirects": (redirect("http://127.0.0.1:9/elsewhere"), "redirects are not followed"),
    "fails": (Response(500, b'{"error": "server_error"}'), "HTTP 500"),
    "refuses the client": (Response(401, b'{"error": "invalid_client"}'), "HTTP 401 Unauthorized (invalid_client)"),
    "says things": (Response(400, b'{"error": "' + CLIENT_SECRET.encode() + b'"}'), "HTTP 400"),
    "is not JSON": (Response(200, b"<html>token</html>"), "not a JSON object"),
    "is no object": (Response(200, b'["token"]'), "not a JSON object"),
    "is empty": (Response(204), "HTTP 204"),
    "has no token": (issuing(access_token=None), "no usable `access_token`"),
    "has an empty token": (issuing(access_token=""), "no usable `access_token`"),
    "has a number for a token": (issuing(access_token=7), "no usable `access_token`"),
    "splits headers": (issuing(access_token="a\\r\\nx-evil: 1"), "no usable `access_token`"),
    "has a token outside ASCII": (issuing(access_token="t\\u00f6ken"), "no usable `access_token`"),
    "has another type": (issuing(token_type="mac"), "`token_type` other than Bearer"),
}


@pytest.mark.parametrize(("step", "detail"), HOSTILE.values(), ids=HOSTILE)
async def test_a_token_endpoint_that_fails_is_a_failure_of_the_endpoint(
    guarded: Desk, tokens: TokenServer, step: Step, detail: str
) -> None:
    """Nothing is sent; it is retried, counted by the circuit, and over once the token endpoint works."""
    tokens.misbehave(step)
    endpoint = await endpoint_with(guarded, tokens.auth())
    delivery = await guarded.delivery(endpoint)
    with capture_logs() as logs:
        outcome = await guarded.send(delivery, timeout=timedelta(seconds=0.8))
    assert (outcome.verdict, outcome.reason, outcome.error) == (Verdict.RETRY, None, FailureCode.AUTH)
    assert guarded.receiver.count == 0
    attempt = await guarded.attempt(delivery)
    assert (attempt.error, attempt.status_code, attempt.response_body) == (FailureCode.AUTH, None, None)
    assert detail in (attempt.error_detail or "")
    assert CLIENT_SECRET not in f"{attempt.error_detail}{logs}"
    await guarded.reporter.close()
    assert [gid for gid, report in guarded.circuits.reports if report.failures] == [endpoint.gid]


async def test_attempts_continue_once_the_token_endpoint_works(guarded: Desk, tokens: TokenServer) -> None:
    tokens.misbehave(500)
    delivery = await guarded.delivery(await endpoint_with(guarded, tokens.auth()))
    assert (await guarded.send(delivery)).error == FailureCode.AUTH
    tokens.behave()
    assert (await guarded.send(delivery, 2)).verdict is Verdict.DELIVERED


@pytest.mark.parametrize("url", ["http://10.0.0.1/token", "http://169.254.169.254/token", "http://0.0.0.0:80/"])
async def test_a_token_url_is_checked_when_it_is_dialled(guarded: Desk, tokens: TokenServer, url: str) -> None:
    """It may have been public when it was stored."""
    delivery = await guarded.delivery(await endpoint_with(guarded, {**tokens.auth(), "tokenUrl": url}))
    outcome = await guarded.send(delivery)
    assert (outcome.verdict, outcome.error) == (Verdict.RETRY, FailureCode.AUTH)
    assert (await guarded.attempt(delivery)).error_detail is not None


async def test_a_slow_token_endpoint_leaves_time_for_the_request_and_serves_later_attempts(
    guarded: Desk, tokens: TokenServer
) -> None:
    """An attempt waits for half of its timeout; the request for the token continues."""
    tokens.rules.delay = 0.5
    endpoint = await endpoint_with(guarded, tokens.auth())
    first, second = await guarded.store.deliveries(2, endpoint)
    assert (await guarded.send(first, timeout=timedelta(seconds=0.2))).error == FailureCode.AUTH
    assert (await guarded.send(second)).verdict is Verdict.DELIVERED
    assert len(tokens.issued) == 1


async def test_authorities_of_the_endpoint_are_trusted_at_its_token_endpoint(tmp_path: Path) -> None:
    authority = Authority()
    egress = EgressClient(EgressRules((ip_network("127.0.0.0/8"), ip_network("::1/128"))))
    context = authority.issue("localhost").server_context(tmp_path)
    async with TokenServer(ssl_context=context) as server:
        url = f"https://localhost:{server.port}{TOKEN_PATH}"
        trusting = TokenClient("ten_1", url, CLIENT_ID, CLIENT_SECRET, ca=authority.pem)
        assert (await TokenSource(egress).get(trusting, PATIENCE)).value == "token-1"
        with pytest.raises(TokenUnavailable, match="certificate"):
            await TokenSource(egress).get(replace(trusting, ca=None), PATIENCE)
    await egress.aclose()
