"""Groups keep their order while the receiver fails and processes are killed."""

import asyncio
from collections.abc import Sequence

import pytest

from testing.ledgers import Ack
from testing.scene import Scene, slowly

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

GROUPS, EACH = 10, 10
FAILING = [*[slowly(0.05)] * 6, slowly(0.05, 503)]


async def publish(scene: Scene, group: int) -> list[Ack]:
    """One after the other: the order that the publisher knows."""
    acks = []
    for number in range(EACH):
        payload = f'{{"group": {group}, "number": {number}}}'.encode()
        ack = await scene.publisher.publish(scene.channel, payload, type="step", group=f"group-{group}")
        assert ack is not None
        acks.append(ack)
    return acks


def assert_in_order(scene: Scene, groups: Sequence[Sequence[Ack]], name: str = "") -> None:
    first: dict[str, float] = {}
    for line in scene.arrivals(name):
        first.setdefault(line.id, line.monotonic)
    for acks in groups:
        arrived = [first[ack.message_gid] for ack in acks]
        assert arrived == sorted(arrived)


async def test_groups_keep_their_order_while_api_and_worker_are_killed(postgres: Scene) -> None:
    scene = postgres
    await scene.endpoint()
    await scene.respond(*FAILING * (GROUPS * EACH // len(FAILING)), slowly(0.05))
    publishing = asyncio.gather(*(publish(scene, group) for group in range(GROUPS)))
    await scene.arrived(GROUPS * 3)
    await scene.kill_in_mid_request(scene.stack.api)
    await scene.stack.start_api()
    await scene.arrived(GROUPS * 7)
    await scene.stack.worker.kill9()
    await scene.stack.restart_worker()
    groups = await publishing
    await scene.finish()
    assert_in_order(scene, groups)
    assert await scene.sql("SELECT count(*) FROM grouped_delivery g JOIN delivery d ON d.gid = g.delivery_gid") == [
        (0,)
    ]
