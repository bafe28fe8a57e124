"""Operational events, metrics, Prometheus and the board, on a real stack: a healthy endpoint, a broken one, and one
that takes events and is dead."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from testing.processes import REPOSITORY, Process, free_port
from testing.prometheus import PrometheusServer, tool
from testing.publisher import CreatedEndpoint, Publisher
from testing.stack import QUICK, Stack
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOARD = json.loads((REPOSITORY / "deploy/grafana/everhook.json").read_text())
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in BOARD["panels"]
    for target in panel.get("targets", [])
]
ONCE: dict[str, Any] = {"delaysSeconds": []}
PATIENCE_S = 60
"""A notification takes several passes of a second each; a busy machine delays them, and no test here measures time."""
EVENTS = "everhook.events"


@dataclass
class Watched:
    stack: Stack
    publisher: Publisher
    api_metrics: int
    worker_metrics: int
    alerts: CreatedEndpoint
    dead_alerts: CreatedEndpoint
    broken: CreatedEndpoint

    async def scrape(self, port: int) -> dict[str, Any]:
        """Metric families by name."""
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            response = await client.get(f"http://127.0.0.1:{port}/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        return {family.name: family for family in text_string_to_metric_families(response.text)}

    async def events(self) -> list[dict[str, Any]]:
        """The events that were delivered."""
        chosen: dict[str, str | int] = {"endpointGid": self.alerts.gid, "status": "delivered", "limit": 500}
        deliveries = (await self.stack.client.get("/v1/deliveries", params=chosen)).json()["data"]
        paths = [f"/v1/messages/{delivery['messageGid']}" for delivery in deliveries]
        return [(await self.stack.client.get(path)).json()["payload"] for path in paths]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A stack with messages delivered, one rejected, a circuit opened, and notifications of all of it."""
    api_metrics, worker_metrics = free_port(), free_port()
    extra = {
        **QUICK,
        "EVERHOOK_METRICS_PORT": str(api_metrics),
        "EVERHOOK_EVENTS_EVERY_SECONDS": "1",
        "EVERHOOK_ALERT_DEAD_LETTERS": "1",
        "EVERHOOK_CIRCUIT_COOLDOWN_SECONDS": "600",
        "EVERHOOK_CIRCUIT_COOLDOWN_MAX_SECONDS": "600",
    }
    stack = Stack(tmp_path_factory.mktemp("watched"), workers=0, extra_env=extra)
    async with stack:
        await stack.start_worker(extra_env={"EVERHOOK_METRICS_PORT": str(worker_metrics)})
        publisher = stack.publisher()
        await stack.client.patch(f"/v1/channels/{EVENTS}", json={"policy": ONCE})
        for name in ("orders", "refused", "broken"):
            await publisher.create_channel(name, ONCE)
        ends = {
            name: await publisher.create_endpoint(stack.receiver.url_for(f"/{name}"), channel)
            for name, channel in (
                ("alerts", EVENTS), ("dead", EVENTS), ("orders", "orders"), ("refused", "refused"), ("broken", "broken")
            )
        }  # fmt: skip
        await stack.receiver.respond(500, path="/dead")
        await stack.receiver.respond(404, path="/refused")
        await stack.receiver.respond(500, path="/broken")
        await publisher.publish_many("orders", 20)
        await publisher.publish_many("refused", 1)
        await publisher.publish_many("broken", 6)
        yield Watched(stack, publisher, api_metrics, worker_metrics, ends["alerts"], ends["dead"], ends["broken"])


async def test_operators_are_notified_of_dead_letters_circuits_and_thresholds(watched: Watched) -> None:
    async def all_of_it() -> None:
        events = await watched.events()
        rejected = [event["data"] for event in events if event["kind"] == "delivery.dead_lettered"]
        assert ("rejected", 404) in {(data["reason"], data["statusCode"]) for data in rejected}
        assert (watched.broken.gid, "endpoint.circuit_opened") in {(one["endpointGid"], one["kind"]) for one in events}
        assert [event["data"]["state"] for event in events if event["kind"] == "dead_letters.threshold"] == ["raised"]

    await assert_eventually(all_of_it, PATIENCE_S, interval=0.2)


async def test_a_dead_endpoint_for_events_causes_no_events_about_itself(watched: Watched) -> None:
    """Each event fails there, its deliveries are dead-lettered, its circuit opens: the other one gets one event."""

    async def its_circuit_is_reported() -> None:
        assert await about_it() == ["endpoint.circuit_opened"]

    async def what_comes_later_is_parked() -> None:
        rows = await watched.stack.client.get("/v1/deliveries", params={"endpointGid": watched.dead_alerts.gid})
        assert {row["status"] for row in rows.json()["data"]} == {"dead_lettered", "parked"}

    async def about_it() -> list[str]:
        return [event["kind"] for event in await watched.events() if event["endpointGid"] == watched.dead_alerts.gid]

    await assert_eventually(its_circuit_is_reported, PATIENCE_S, interval=0.2)
    await watched.publisher.publish_many("refused", 1)  # a dead letter, and so an event
    await assert_eventually(what_comes_later_is_parked, PATIENCE_S, interval=0.2)
    steps = await _steps(watched)
    await assert_eventually(lambda: _more_steps(watched, steps + 3 * STEPS_OF_A_PASS), PATIENCE_S, interval=0.2)
    assert await about_it() == ["endpoint.circuit_opened"]
    assert EVENTS not in {event["data"].get("channelName") for event in await watched.events()}


STEPS_OF_A_PASS = 6
"""Entries in the history of the workflow that publishes events: a timer, and the task that makes the pass."""


async def _steps(watched: Watched) -> int:
    client = await watched.stack.temporal.client()
    loops = client.list_workflows('WorkflowType="EventsLoop"')
    return sum([(await client.get_workflow_handle(each.id).describe()).history_length async for each in loops])


async def _more_steps(watched: Watched, wanted: int) -> None:
    assert await _steps(watched) >= wanted


async def test_the_api_offers_its_metrics_on_a_port_of_their_own(watched: Watched) -> None:
    found = await watched.scrape(watched.api_metrics)
    assert _value(found, "everhook_messages_accepted") in (27, 28)
    assert _value(found, "everhook_attempts", verdict="delivered") >= 20, "the API makes first attempts"
    assert _value(found, "everhook_attempts", verdict="rejected") in (1, 2)
    # The worker may open the circuit of the broken endpoint before all six were attempted.
    assert 1 <= (failed := _value(found, "everhook_attempts", verdict="retry")) <= 6
    assert _sample(found, "everhook_attempt_seconds", "_count") >= 21 + failed
    assert _sample(found, "everhook_delivery_seconds", "_count") >= 20
    assert 0 < _sample(found, "everhook_delivery_seconds", "_sum") < 20 * 30
    assert _value(found, "everhook_history_skipped") == 0
    assert (await watched.stack.client.get("/metrics")).status_code == 404
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        assert (await client.get(f"http://127.0.0.1:{watched.api_metrics}/v1/channels")).status_code == 404


async def test_each_listener_is_one_line_of_the_log_that_says_what_it_is(watched: Watched) -> None:
    def started(process: Process) -> dict[str, list[str]]:
        lines = [json.loads(line) for line in process.output().splitlines() if line.startswith("{")]
        assert not {line["event"] for line in lines} & {
            "Application startup complete.",
            "Waiting for application startup.",
        }
        return {
            event: [str(line.get("address") or line["addresses"]) for line in lines if line["event"] == event]
            for event in ("serving the API", "serving metrics")
        }

    address = watched.stack.client.base_url
    assert started(watched.stack.api) == {
        "serving the API": [f"['http://{address.host}:{address.port}']"],
        "serving metrics": [f"127.0.0.1:{watched.api_metrics}"],
    }
    assert started(watched.stack.worker) == {
        "serving the API": [],
        "serving metrics": [f"127.0.0.1:{watched.worker_metrics}"],
    }


async def test_a_worker_serves_metrics_of_its_work_and_its_backlog(watched: Watched) -> None:
    found = await watched.scrape(watched.worker_metrics)
    assert _value(found, "everhook_attempts", verdict="delivered") >= 1, "it publishes operational events"
    assert _value(found, "everhook_undispatched") == _value(found, "everhook_oldest_undispatched_seconds") == 0
    assert _value(found, "everhook_circuits", state="open") >= 1
    assert _value(found, "everhook_circuits", state="paused") == 0
    assert _value(found, "everhook_dead_letters") >= 1
    assert "everhook_parked" in found and "process_resident_memory_bytes" in found


async def test_the_metrics_of_temporals_sdk_are_included(watched: Watched) -> None:
    worker, api = await watched.scrape(watched.worker_metrics), await watched.scrape(watched.api_metrics)
    assert {"temporal_request", "temporal_workflow_completed", "temporal_num_pollers"} <= set(worker)
    assert "temporal_request" in api and "temporal_num_pollers" not in api


async def test_no_label_names_a_tenant_or_an_endpoint(watched: Watched) -> None:
    for port in (watched.api_metrics, watched.worker_metrics):
        for family in (await watched.scrape(port)).values():
            for sample in family.samples:
                assert not {"tenant", "endpoint", "endpoint_gid", "tenant_gid"} & set(sample.labels), sample
                assert not any(value.startswith(("ep_", "ten_")) for value in sample.labels.values()), sample


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PrometheusServer]:
    """It has scraped some traffic."""
    tool("prometheus")
    jobs = {
        "everhook-api": f"127.0.0.1:{watched.api_metrics}",
        "everhook-worker": f"127.0.0.1:{watched.worker_metrics}",
    }
    async with PrometheusServer(tmp_path_factory.mktemp("prometheus"), jobs) as server:

        async def scraped() -> None:
            await watched.publisher.publish_many("orders", 1)
            assert min(await server.query("count_over_time(up[1m])"), default=0) >= 4

        await assert_eventually(scraped, 30, interval=0.4)
        yield server


@pytest.mark.parametrize("query", QUERIES)
async def test_every_query_of_the_board_has_a_result(prometheus: PrometheusServer, query: str) -> None:
    asked = query.replace("$__rate_interval", "10s")
    assert "$" not in asked

    async def has_result() -> None:
        values = await prometheus.query(asked)
        assert values and not all(value != value for value in values), f"{asked}: {values}"

    await assert_eventually(has_result, interval=0.5)


async def test_every_rule_is_evaluated_and_alerts_show_the_failures_of_the_stack(prometheus: PrometheusServer) -> None:
    async def evaluated() -> None:
        rules = await prometheus.rules()
        assert {rule["health"] for rule in rules} == {"ok"}, rules
        states = {rule["name"]: rule["state"] for rule in rules if rule["type"] == "alerting"}
        assert {name for name, state in states.items() if state != "inactive"} == {"EverhookCircuitOpen"}

    await assert_eventually(evaluated, interval=0.5)


def _value(found: dict[str, Any], name: str, **labels: str) -> float:
    (value,) = [
        sample.value
        for sample in found[name].samples
        if labels.items() <= sample.labels.items() and not sample.name.endswith("_created")
    ]
    return float(value)


def _sample(found: dict[str, Any], name: str, suffix: str) -> float:
    (value,) = [sample.value for sample in found[name].samples if sample.name == name + suffix]
    return float(value)
