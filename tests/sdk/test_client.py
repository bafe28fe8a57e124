"""Both clients against the real API: publish, wait, lists, errors, and calls that are repeated."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from everhook_client import ApiError, AsyncClient, Client, ConnectionFailed, EverhookError, RawJson, Retries, calls
from everhook_client.errors import AuthenticationFailed, Conflict, InvalidRequest, NotFound, RateLimited, ServerError
from everhook_client.models import NewMessage
from testing.api import ON_SHARED, ok
from testing.processes import free_port
from tests.sdk.conftest import QUICK, Server, cutting, in_thread, responding

pytestmark = ON_SHARED

Publish = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def publisher(server: Server, kind: str) -> AsyncIterator[Publish]:
    """`publish` of the blocking client, or of the asynchronous one."""
    async with server.async_client() as client:
        with server.client() as blocking:
            if kind == "async":
                yield client.publish
            else:
                yield lambda *args, **options: in_thread(blocking.publish, *args, **options)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "fault", [responding(503, {"retry-after": "0"}, after=True), responding(500, after=True), cutting()]
)
async def test_a_publish_that_is_repeated_does_not_publish_twice(server: Server, kind: str, fault: Any) -> None:
    channel, _ = await server.endpoint()
    server.proxy.fail("/messages", fault, fault)
    async with publisher(server, kind) as publish:
        published = await publish(channel, {"n": 1}, type="order.created")
    assert published["duplicate"] is True  # the first request was committed, and its response was lost
    assert server.proxy.requests == ["POST messages"] * 3
    listed = ok(await server.api.get("/v1/messages", channel=channel))["data"]
    assert [each["messageGid"] for each in listed] == [published["messageGid"]]


async def test_a_request_that_cannot_succeed_is_not_retried_and_the_error_names_the_field(server: Server) -> None:
    channel, _ = await server.endpoint()
    async with server.async_client() as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.publish(channel, {}, type="order created")
        assert (caught.value.status, caught.value.slug) == (422, "invalid-request")
        assert list(caught.value.errors_by_field) == ["type"]
        assert caught.value.title and caught.value.detail in str(caught.value)
        with pytest.raises(NotFound):
            await client.publish("nowhere", {}, type="t")
        await client.publish(channel, {"n": 1}, type="t", idempotency_key="k")
        with pytest.raises(Conflict) as conflict:
            await client.publish(channel, {"n": 2}, type="t", idempotency_key="k")
        assert conflict.value.slug == "idempotency-key-reused"
    async with server.async_client("ek_wrong") as unauthenticated:
        with pytest.raises(AuthenticationFailed):
            await unauthenticated.publish(channel, {})
    assert server.proxy.requests == ["POST messages"] * 5


pauses: list[float] = []


class Hurried(Retries):
    """Records each pause, and does not wait."""

    def pause(self, failures: int, error: EverhookError, *, is_repeatable: bool) -> float | None:
        pause = super().pause(failures, error, is_repeatable=is_repeatable)
        if pause is not None:
            pauses.append(pause)
        return 0 if pause is not None else None


async def test_repeating_is_bounded_and_honours_retry_after(server: Server) -> None:
    channel, _ = await server.endpoint()
    pauses.clear()
    async with server.async_client(retries=Hurried(limit=3)) as client:
        server.proxy.fail("/messages", responding(429, {"retry-after": "7"}), *[responding(502)] * 3)
        with pytest.raises(ServerError) as caught:
            await client.publish(channel, {})
        assert (caught.value.status, caught.value.is_problem) == (502, False)
        assert 7 <= pauses[0] <= 7.25
        assert 0.25 <= pauses[1] <= 0.5 <= pauses[2] <= 1
        server.proxy.fail("/messages", responding(429, {"retry-after": "3600"}))
        with pytest.raises(RateLimited) as limited:
            await client.publish(channel, {})
        assert limited.value.retry_after == 3600
    assert len(pauses) == 3


async def test_a_call_with_an_effect_is_repeated_only_with_a_key(server: Server) -> None:
    channel, gid = await server.endpoint()
    async with server.async_client() as client:
        server.proxy.fail("/endpoints", cutting())
        made = await client.endpoints.create({"mode": "poll", "channel": channel})
        listed = [each["endpointGid"] async for each in client.endpoints.list()]
        assert listed.count(made["endpointGid"]) == 1 and listed.index(made["endpointGid"]) == 0
        assert listed.index(gid) == 1  # it was created once
        server.proxy.fail(f"/{channel}", cutting())
        with pytest.raises(ConnectionFailed):
            await client.channels.delete(channel)


async def test_a_refused_connection_has_its_own_error() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Client(url, "key", retries=QUICK) as client, pytest.raises(ConnectionFailed) as caught:
        await in_thread(client.publish, "orders", {})
    assert caught.value.was_sent is False


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_waiting_returns_the_outcome_and_the_response_of_the_receiver(server: Server, kind: str) -> None:
    channel, gid = await server.endpoint(mode="poll")
    async with server.async_client() as client, AsyncExitStack() as opened:
        blocking = opened.enter_context(server.client())
        published = await client.publish(channel, {"orderId": 1042}, type="order.created")
        assert (await client.wait_for(published, timeout=0.05))["state"] == "pending"
        waiting = asyncio.create_task(
            client.wait_for(published) if kind == "async" else in_thread(blocking.wait_for, published["messageGid"])
        )
        (item,) = ok(await server.api.get(f"/v1/endpoints/{gid}/poll"))["data"]
        lines = {"acks": [{"lease": item["lease"], "result": {"invoice": "2026-0042"}}]}
        ok(await server.api.post(f"/v1/endpoints/{gid}/acks", lines))
        result = await waiting
        assert (result["state"], result["outcome"]) == ("settled", "delivered")
        assert result["deliveries"][0]["result"] == {"invoice": "2026-0042"}
        events = [event["kind"] async for event in client.messages.events(published["messageGid"])]
        assert (events[0], events[-1]) == ("message.accepted", "message.settled")


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_lists_are_read_page_by_page(server: Server, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, gid = await server.endpoint()
    async with server.async_client() as client:
        sent = [(await client.publish(channel, n, type="t"))["messageGid"] for n in range(5)]
        page = calls.Listing.page
        monkeypatch.setattr(calls.Listing, "page", lambda self, cursor: page(self, cursor, 2))
        server.proxy.requests.clear()
        if kind == "async":
            found = [each["messageGid"] async for each in client.messages.list(channel=[channel, "other"])]
        else:
            with server.client() as blocking:
                listed = await in_thread(lambda: list(blocking.messages.list(channel=channel)))
            found = [each["messageGid"] for each in listed]
        assert found == sent[::-1]
        assert server.proxy.requests == ["GET messages"] * 3
        assert [d["status"] async for d in client.deliveries.list(endpoint_gid=gid)] == ["available"] * 5
        assert [d async for d in client.dead_letters.list(endpoint_gid=gid, last_status_code=[401, 403])] == []


async def test_a_batch_is_published_once_and_each_message_has_its_result(server: Server) -> None:
    channel, gid = await server.endpoint()
    plain: NewMessage = {"type": "a", "payload": RawJson(b'{"price":  1.10}')}
    keyed: NewMessage = {"type": "b", "payload": None, "idempotencyKey": "own"}
    async with server.async_client() as client:
        first = await client.publish_batch(channel, [plain, keyed], idempotency_key="k")
        changed: NewMessage = {"type": "b", "payload": 2, "idempotencyKey": "own"}
        with server.client() as blocking:
            again = await in_thread(blocking.publish_batch, channel, [plain, changed], idempotency_key="k")
        assert [each.get("messageGid") for each in again["data"]] == [first["data"][0].get("messageGid"), None]
        assert again["data"][1]["type"] == "/problems/idempotency-key-reused"
    items = (await server.api.http.get(f"/v1/endpoints/{gid}/poll")).content
    assert items.count(b'"lease"') == 2 and b'"payload":{"price":  1.10}' in items


async def test_an_invalid_message_refuses_its_batch(server: Server) -> None:
    channel, _ = await server.endpoint()
    async with server.async_client() as client:
        with pytest.raises(InvalidRequest) as caught:
            await client.publish_batch(channel, [{"type": "a", "payload": 1}, {"type": "not a type", "payload": 1}])
        assert list(caught.value.errors_by_field) == ["messages[1].type"]
        assert [each async for each in client.messages.list(channel=channel)] == []


async def test_the_audit_trail_is_listed(server: Server) -> None:
    _, gid = await server.endpoint()
    async with server.async_client() as client:
        entries = [each async for each in client.audit.list(subject=gid)]
    assert [each["action"] for each in entries] == ["endpoint.created"]


async def test_a_payload_is_sent_byte_for_byte(server: Server) -> None:
    channel, gid = await server.endpoint()
    async with server.async_client() as client:
        await client.publish(channel, RawJson(b'{"price":  1.10, "n": 12345678901234567890.5}'), type="t")
        (item,) = (await server.api.http.get(f"/v1/endpoints/{gid}/poll")).content.split(b'"data":[')[1:]
        assert b'"payload":{"price":  1.10, "n": 12345678901234567890.5}' in item
        with pytest.raises(ValueError, match="JSON"):
            await client.publish(channel, float("nan"))


async def test_a_name_cannot_change_the_path(server: Server) -> None:
    async with server.async_client() as client:
        for name in ("", "..", "a/b"):
            with pytest.raises(ValueError, match="neither a gid nor a name"):
                await client.channels.get(name)


async def test_a_response_that_is_not_json_is_an_error(server: Server) -> None:
    server.proxy.fail("/channels", responding(200, body=b"<html>"))
    with pytest.raises(ApiError, match="not JSON"):
        async with server.async_client() as client:
            [_ async for _ in client.channels.list()]


async def test_the_key_is_not_in_the_attributes_of_a_client() -> None:
    for client in (Client("http://x", "ek_secret"), AsyncClient("http://x", "ek_secret")):
        assert "ek_secret" not in repr(vars(client))


async def test_both_clients_have_the_same_calls() -> None:
    """Blocking, awaited and iterated return types differ; parameters do not."""
    groups = {name: value for name, value in vars(Client("http://x", None)).items() if name[0] != "_"}
    others = vars(AsyncClient("http://x", None))
    assert len(groups) == 10
    for name, group in groups.items():
        assert _methods(type(group)) == _methods(type(others[name]))
    of_async = _methods(AsyncClient)
    of_async["close"] = of_async["aclose"]
    assert {name: of_async[name] for name in _methods(Client)} == _methods(Client)


def _methods(kind: type[Any]) -> dict[str, list[str]]:
    found = {name: value for name, value in vars(kind).items() if name[0] != "_"}
    return {name: list(inspect.signature(method, follow_wrapped=True).parameters) for name, method in found.items()}


async def test_methods_keep_the_signature_and_the_description_of_the_call() -> None:
    assert Client.publish.__doc__ == calls.publish.__doc__
    assert inspect.signature(Client.publish, follow_wrapped=True) == inspect.signature(calls.publish)
