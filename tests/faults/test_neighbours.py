"""Slow, limited and hostile endpoints do not affect healthy ones."""

import asyncio

import pytest

from everhook.contracts import FailureCode
from testing.scene import SHARED, Scene, slowly
from testing.script import Fault, Step, redirect

pytestmark = pytest.mark.asyncio(loop_scope="session")

NOISE, QUIET = 80, 6
MAX_GROWTH = 50 * 1024**2


async def test_a_slow_endpoint_with_a_long_queue_does_not_delay_a_quiet_one(postgres: Scene) -> None:
    """Both use the fair queue: the quiet endpoint's second attempts are queued after many of the noisy one's."""
    scene = postgres
    noisy = await scene.endpoint("noisy", events=["noisy"])
    quiet = await scene.endpoint("quiet", events=["quiet"], policy={"delaysSeconds": [0.2, 0.2], "timeoutSeconds": 5})
    await scene.respond(slowly(1.0), name="noisy")
    await scene.respond(302, 200, name="quiet", each_message=True)
    await scene.publish(NOISE, type="noisy")
    await scene.publish(QUIET, type="quiet")
    await scene.has_statuses(quiet, delivered=QUIET)
    served = (await scene.statuses(noisy)).get("delivered", 0)
    assert served < NOISE / 2, f"the quiet endpoint had to wait for {served} of the noisy one's {NOISE}"
    await scene.respond(200, name="noisy")
    report = await scene.finish()
    report.assert_no_duplicates()


async def test_an_endpoint_that_never_responds_leaves_slots_to_others(postgres: Scene) -> None:
    """More of its attempts than a worker has slots come to the fair queue at once: they would hold all slots for their
    whole timeout."""
    scene = postgres
    slots = int(SHARED["EVERHOOK_MAX_CONCURRENT_SENDS"])
    hung = await scene.endpoint("hung", events=["hung"], policy={"delaysSeconds": [2.0], "timeoutSeconds": 5})
    quiet = await scene.endpoint("quiet", events=["quiet"], policy={"delaysSeconds": [0.2], "timeoutSeconds": 5})
    await scene.respond(*[302] * slots * 3, Fault.HANG, name="hung")
    await scene.respond(302, 200, name="quiet", each_message=True)
    await scene.publish(slots * 3, type="hung")
    await scene.arrived(slots * 3 + slots // 4, "hung")
    await scene.publish(1, type="quiet")
    await scene.has_statuses(quiet, delivered=1)
    timed_out = "SELECT 1 FROM attempt WHERE endpoint_gid = :gid AND error = 'timeout_total'"
    assert not await scene.sql(timed_out, gid=hung.gid), "it had to wait until attempts that hang had timed out"
    await scene.circuit_is(hung, "open")
    await scene.respond(200, name="hung")
    await scene.finish(dead_letters_allowed=True)


HOSTILE: dict[str, tuple[Step, str | None]] = {
    "hang": (Fault.HANG, FailureCode.TIMEOUT_TOTAL),
    "drip-headers": (Fault.DRIP_HEADERS, FailureCode.TIMEOUT_TOTAL),
    "drip-body": (Fault.DRIP_BODY, FailureCode.TIMEOUT_TOTAL),
    "reset": (Fault.RESET, FailureCode.RESET),
    "reset-midway": (Fault.RESET_MIDWAY, FailureCode.RESET),
    "close": (Fault.CLOSE, FailureCode.RESET),
    "garbage": (Fault.GARBAGE, FailureCode.PROTOCOL),
    "huge-headers": (Fault.HUGE_HEADERS, FailureCode.PROTOCOL),
    "redirect": (redirect("http://127.0.0.1:1/elsewhere"), "http_302"),
    "huge-body": (Fault.HUGE_BODY, None),
    "close-silently": (Fault.CLOSE_SILENTLY, None),
    "close-on-reuse": (Fault.CLOSE_ON_REUSE, None),
}
"""The behaviour of each, and the error that is recorded: None if the message is delivered."""

TIMEOUT_S = 1.5


async def test_attempts_to_hostile_receivers_end_in_time_with_an_error_and_delay_no_other_endpoint(
    postgres: Scene,
) -> None:
    scene = postgres
    policy = {"delaysSeconds": [0.2], "timeoutSeconds": TIMEOUT_S}
    await scene.endpoint("well")
    await scene.publish(10)
    await scene.arrived(10, "well")
    before = scene.stack.worker.rss_bytes()
    gids = {}
    for name, (step, _) in HOSTILE.items():
        gids[name] = (await scene.endpoint(name, events=["hostile"], policy=policy)).gid
        await scene.respond(step, name=name)
    publishing = asyncio.create_task(scene.publish(2, type="hostile"))
    await scene.publish(20)
    await scene.arrived(32, "well", timeout=10)
    await publishing
    report = await scene.finish(dead_letters_allowed=True)
    report.assert_no_duplicates()
    for name, (_, error) in HOSTILE.items():
        await _assert_errors_recorded(scene, name, gids[name], error)
    growth = scene.stack.worker.rss_bytes() - before
    assert growth < MAX_GROWTH, f"the worker grew by {growth / 1024**2:.0f} MB"


async def _assert_errors_recorded(scene: Scene, name: str, endpoint_gid: str, error: str | None) -> None:
    rows = await scene.sql(
        "SELECT error, duration_ms, redialed, response_body FROM attempt WHERE endpoint_gid = :gid", gid=endpoint_gid
    )
    assert {row.error for row in rows} == {error}, name
    assert len(rows) == (2 if error is None else 4), name
    # A kept connection that dies before a byte of a response has come is dialled once more.
    assert len(scene.arrivals(name)) <= len(rows) + sum(row.redialed for row in rows), name
    assert max(row.duration_ms for row in rows) < (TIMEOUT_S + 1) * 1000, name
    assert all(len(row.response_body or b"") <= 16 * 1024 for row in rows), name
