"""A receiver goes down and comes back: parked meanwhile, probed, released at a ramp, and parked again on a relapse."""

import asyncio

import pytest

from testing.arrivals import ArrivalLine
from testing.scene import Scene

pytestmark = pytest.mark.asyncio(loop_scope="session")

MESSAGES = 24
RAMP = (2, 4, 8, 16)
"""Released in each second after the closing."""

FIRST = 10
"""Enough to open the circuit. Others follow when it is open: a burst may outrun it."""

LANE = 4
"""Requests of one endpoint that may be under way when its circuit opens."""


async def test_a_receiver_that_comes_back_gets_its_backlog_at_a_ramp_oldest_first_until_it_relapses(
    postgres: Scene,
) -> None:
    scene = postgres
    endpoint = await scene.endpoint()
    await scene.respond(500)
    await scene.publish(FIRST)
    await scene.circuit_is(endpoint, "open")
    await scene.publish(MESSAGES - FIRST)
    await scene.has_statuses(endpoint, parked=MESSAGES)
    await _assert_quiet(scene)
    down = scene.arrivals()

    await scene.respond(200)
    await scene.arrived(len(down) + 1 + RAMP[0])
    await scene.respond(500)
    await scene.circuit_is(endpoint, "open")
    await _assert_quiet(scene)
    relapsed = scene.arrivals()
    assert len(relapsed) - len(down) <= 1 + sum(RAMP[:3]) + LANE, "the relapse did not stop the release"

    await scene.respond(200)
    await scene.has_statuses(endpoint, delivered=MESSAGES)
    report = await scene.finish()
    report.assert_no_duplicates()
    released = [line for line in scene.arrivals()[len(relapsed) :] if line.accepted]
    _assert_ramp(released)
    _assert_oldest_first(released)


async def _assert_quiet(scene: Scene) -> None:
    """Only probes arrive, one for each cooldown of a second or two."""
    before = len(scene.arrivals())
    await asyncio.sleep(1.5)
    assert len(scene.arrivals()) - before <= 3, "the circuit did not stop the requests"


def _assert_ramp(released: list[ArrivalLine]) -> None:
    """The first is the probe. Within so many seconds no more arrive than the ramp releases and one step."""
    begin = released[1].monotonic
    for seconds in (1, 2, 3):
        come = sum(line.monotonic < begin + seconds - 0.1 for line in released[1:])
        assert come <= sum(RAMP[: seconds + 1]), f"{come} arrived within {seconds} s of the release"


def _assert_oldest_first(released: list[ArrivalLine]) -> None:
    """Message ids sort by time. Deliveries of a step arrive in any order, and may overlap with the next step."""
    ids = [line.id for line in released[1:]]
    age = {id: place for place, id in enumerate(sorted(ids))}
    for step in range(len(RAMP) - 1):
        come = ids[sum(RAMP[:step]) : sum(RAMP[: step + 1])]
        assert all(age[id] < sum(RAMP[: step + 2]) for id in come), f"step {step} did not release the oldest"
