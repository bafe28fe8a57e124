"""Fresh deliveries next to a replay of very many messages."""

import os
from datetime import UTC, datetime, timedelta

from bench.flow import arrived, latencies, latency_row
from bench.stack import EmbeddedStack, embedded_stack
from bench.tables import Progress, Table, percentile, target
from testing.publisher import create_channel, create_endpoint

REPLAYED = int(os.environ.get("EVERHOOK_BENCH_REPLAYED", "100000"))
"""Messages that are replayed. The measurement ends before the replay does."""

FRESH_RATE, FRESH_S = 20.0, 30.0
PATIENCE_S = 60.0
OLD = "replayed"
MOST_RATIO = 1.5


async def fresh(progress: Progress) -> Table:
    """The latency of fresh messages alone, and while another endpoint gets the messages from before it existed."""
    async with embedded_stack() as stack:
        await stack.endpoint("warm-up")
        await stack.driver.publish("warm-up", 100)
        progress(f"publishing the {REPLAYED:,} messages to be replayed")
        await create_channel(stack.client, OLD)
        await stack.driver.publish_batches(OLD, REPLAYED)
        await stack.drained()
        progress("fresh messages alone")
        alone = await latencies(stack, "alone", FRESH_RATE, FRESH_S)
        await stack.drained()
        progress("fresh messages next to the replay")
        gid = await _replay(stack)
        fresh = await stack.endpoint("during")
        published = await stack.driver.publish_at(fresh.channel, FRESH_RATE, int(FRESH_RATE * FRESH_S))
        batch = (await stack.client.get(f"/v1/batches/{gid}")).raise_for_status().json()
        during = await arrived(stack, fresh.path, published, PATIENCE_S)
        await stack.client.post(f"/v1/batches/{gid}/cancel")
    ratio = percentile(during, 0.95) / percentile(alone, 0.95)
    return Table(
        f"Fresh messages next to a replay of {REPLAYED:,} messages",
        ("fresh messages", "p50", "p95", "p99"),
        [latency_row("alone", alone), latency_row("next to it", during)],
        [
            target("p95 next to it / alone", ratio, ratio <= MOST_RATIO, f"at most {MOST_RATIO}"),
            f"{batch['started']:,} deliveries were replayed meanwhile, in {FRESH_S:.0f} s.",
        ],
    )


async def _replay(stack: EmbeddedStack) -> str:
    new = await create_endpoint(stack.client, stack.receiver.url_for(f"/{OLD}"), OLD)
    since = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    body = {"since": since, "mode": "missing", "endpointGid": new.gid, "reason": "bench"}
    started = (await stack.client.post(f"/v1/channels/{OLD}/replay", json=body)).raise_for_status()
    gid: str = started.json()["batchGid"]
    return gid
