"""One trace spans a publish, its workflow, its attempts, and the `traceparent` that the receiver gets."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from everhook.observability.trace_context import TraceParent, parse
from testing.collector import Collector
from testing.stack import QUICK, Stack
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLER = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    extra = {
        **QUICK,
        "EVERHOOK_OTEL": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    async with Stack(tmp_path_factory.mktemp("traced"), extra_env=extra) as running:
        await running.publisher().create_channel("orders", {"delaysSeconds": [0.1]})
        await running.publisher().create_endpoint(running.receiver.url_for("/orders"), "orders")
        yield running


async def publish(stack: Stack, traceparent: str | None = None) -> dict[str, Any]:
    """Publish one message; return its delivery, once that is over."""
    headers = {"traceparent": traceparent} if traceparent is not None else {}
    body = {"type": "order.created", "payload": 1}
    response = await stack.client.post("/v1/channels/orders/messages", json=body, headers=headers)
    gid = response.json()["deliveries"][0]["deliveryGid"]

    async def over() -> dict[str, Any]:
        delivery: dict[str, Any] = (await stack.client.get(f"/v1/deliveries/{gid}")).json()
        assert delivery["status"] == "delivered"
        return delivery

    return await assert_eventually(over, 30, interval=0.1)


def received_contexts(delivery: dict[str, Any]) -> list[TraceParent]:
    """The trace context that the receiver got, at each attempt."""
    headers = [dict(attempt["requestHeaders"]) for attempt in delivery["attempts"]]
    found = [parse(one["traceparent"]) for one in headers]
    return [one for one in found if one is not None]


async def test_the_callers_trace_is_passed_through_workflow_and_attempts_to_the_receiver(
    stack: Stack, collector: Collector
) -> None:
    await stack.receiver.respond(500, 200, path="/orders")
    delivery = await publish(stack, str(CALLER))
    first, second = received_contexts(delivery)
    assert first.trace_id == second.trace_id == CALLER.trace_id

    def the_whole_trace() -> None:
        spans = {span.span_id: span for span in collector.of(CALLER.trace_id)}
        assert {first.span_id, second.span_id} <= spans.keys()
        published = next(span for span in spans.values() if span.name == "publish")
        assert (published.service, published.parent_id) == ("everhook-api", CALLER.span_id)
        attempts = [spans[one.span_id] for one in (first, second)]
        assert [(span.name, span.service, span.failed) for span in attempts] == [
            ("attempt", "everhook-api", True),
            ("attempt", "everhook-worker", False),
        ]
        assert [span.attributes["everhook.number"] for span in attempts] == [1, 2]
        for attempt in attempts:
            line = [attempt]
            while line[-1].parent_id in spans:
                line.append(spans[line[-1].parent_id])
            names = [span.name for span in line]
            if attempt is attempts[0]:
                assert names == ["attempt", "publish"]
            else:
                assert names[0] == "attempt" and names[-2:] == ["StartWorkflow:Delivery", "publish"], names
                assert "RunActivity:send_attempt" in names

    await assert_eventually(the_whole_trace, interval=0.1)


async def test_without_a_trace_of_the_caller_a_trace_begins_at_the_publish(stack: Stack, collector: Collector) -> None:
    await stack.receiver.respond(200, path="/orders")
    (seen,) = received_contexts(await publish(stack))

    def it_begins_there() -> None:
        names = {span.name: span for span in collector.of(seen.trace_id)}
        assert {"publish", "StartWorkflow:Delivery", "attempt"} <= set(names)
        assert names["publish"].parent_id == ""

    await assert_eventually(it_begins_there, interval=0.1)


async def test_an_attempt_after_the_workflow_was_lost_has_the_same_trace(stack: Stack, collector: Collector) -> None:
    """A workflow that the reconciler starts has no trace of the publish; it reads the trace from the message."""
    await stack.receiver.respond(500, 200, path="/orders")
    await stack.temporal.stop()
    body = {"type": "order.created", "payload": 2}
    response = await stack.client.post("/v1/channels/orders/messages", json=body, headers={"traceparent": str(CALLER)})
    path = f"/v1/deliveries/{response.json()['deliveries'][0]['deliveryGid']}"

    async def has(status: str, attempts: int) -> dict[str, Any]:
        delivery: dict[str, Any] = (await stack.client.get(path)).json()
        assert (delivery["status"], len(delivery["attempts"])) == (status, attempts)
        return delivery

    await assert_eventually(lambda: has("retrying", 1))
    await stack.api.kill9()
    await asyncio.gather(stack.temporal.start(), stack.start_api(ready=False))
    await stack.api.wait_ready(url=f"{stack.url}/livez")
    contexts = received_contexts(await assert_eventually(lambda: has("delivered", 2), 60))
    assert [one.trace_id for one in contexts] == [CALLER.trace_id] * 2

    def the_worker_made_the_second() -> None:
        services = {span.span_id: span.service for span in collector.of(CALLER.trace_id)}
        assert services.get(contexts[1].span_id) == "everhook-worker"

    await assert_eventually(the_worker_made_the_second)
