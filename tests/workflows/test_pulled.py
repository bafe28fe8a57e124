"""The workflow that guards a delivery which consumers pull: it asks the database, and does what follows."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from everhook.contracts import (
    DeadLetterReason,
    DeliveryMode,
    DeliveryResult,
    DeliveryStatus,
    OperatorAction,
    PulledState,
    ReleaseInput,
)
from everhook.temporal import search_attributes as sa
from tests.workflows.engine import DELIVERED, LONG_AGO, DeliveryHandle, Engine, Script, attribute

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR = timedelta(hours=1)


async def guarded(engine: Engine, *states: PulledState) -> DeliveryHandle:
    """The workflow of a delivery that is found in these states, after it has found the first one."""
    engine.fakes.pulls = Script(*states)
    handle = await engine.start(engine.input(mode=DeliveryMode.POLL))
    await engine.until_queryable(handle)
    return handle


async def waiting(engine: Engine) -> PulledState:
    return PulledState(DeliveryStatus.AVAILABLE, check_at=await engine.now() + HOUR)


def over(status: DeliveryStatus, reason: DeadLetterReason | None = None) -> PulledState:
    return PulledState(status, attempts=2, reason=reason, last=DELIVERED)


async def test_an_acknowledgement_ends_it_at_once(engine: Engine) -> None:
    handle = await guarded(engine, await waiting(engine), over(DeliveryStatus.DELIVERED))
    assert await attribute(handle, sa.DELIVERY_STATUS) == "available"
    await handle.signal("settled")
    assert await engine.result_without_skipping(handle) == DeliveryResult(
        DeliveryStatus.DELIVERED, 1, 2, status_code=DELIVERED.status_code
    )
    assert engine.fakes.of("send_attempt") == engine.fakes.of("dead_letter") == []


async def test_the_workflow_checks_the_round_again_when_it_may_have_ended(engine: Engine) -> None:
    began = await engine.now()
    handle = await guarded(engine, await waiting(engine), over(DeliveryStatus.DELIVERED))
    await engine.result(handle)
    first, second = engine.fakes.of("check_pulled")
    assert HOUR <= second.at - began < 2 * HOUR
    assert first.argument == second.argument


async def test_a_dead_letter_waits_for_an_operator_and_a_replay_guards_the_next_round(engine: Engine) -> None:
    dead = replace(over(DeliveryStatus.DEAD_LETTERED, DeadLetterReason.EXHAUSTED), dead_lettered_at=LONG_AGO)
    handle = await guarded(engine, dead, over(DeliveryStatus.DELIVERED))
    state = await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    assert state.dead_letter_reason is DeadLetterReason.EXHAUSTED
    assert datetime.fromisoformat(await attribute(handle, sa.DEAD_LETTERED_AT)) == LONG_AGO
    assert engine.fakes.of("dead_letter") == []  # the check has recorded it
    await handle.signal("replay", OperatorAction("ann"))
    result = await engine.result_without_skipping(handle)
    assert (result.status, result.round) == (DeliveryStatus.DELIVERED, 2)
    assert [check.round for check in engine.fakes.arguments("check_pulled")] == [1, 2]


async def test_a_replay_that_comes_before_the_workflow_knows_of_the_dead_letter_is_not_lost(engine: Engine) -> None:
    """The database has the dead letter first, and operators see it there."""
    dead = over(DeliveryStatus.DEAD_LETTERED, DeadLetterReason.EXHAUSTED)
    gate = engine.fakes.hold("check_pulled")
    engine.fakes.pulls = Script(dead, over(DeliveryStatus.DELIVERED))
    handle = await engine.start(engine.input(mode=DeliveryMode.POLL))
    await gate.entered.wait()
    await handle.signal("replay", OperatorAction("ann"))
    gate.open()
    result = await engine.result_without_skipping(handle)
    assert (result.status, result.round) == (DeliveryStatus.DELIVERED, 2)


async def test_a_replay_of_a_delivery_in_progress_is_ignored(engine: Engine) -> None:
    gate = engine.fakes.hold("check_pulled")
    dead = over(DeliveryStatus.DEAD_LETTERED, DeadLetterReason.EXHAUSTED)
    engine.fakes.pulls = Script(await waiting(engine), dead)
    handle = await engine.start(engine.input(mode=DeliveryMode.POLL))
    await gate.entered.wait()
    await handle.signal("replay", OperatorAction("ann"))
    gate.open()
    await engine.until(handle, DeliveryStatus.AVAILABLE)
    await handle.signal("settled")
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    assert engine.fakes.of("open_round") == []


async def test_an_endpoint_that_is_given_up_gives_up_its_queue(engine: Engine) -> None:
    dead = over(DeliveryStatus.DEAD_LETTERED, DeadLetterReason.ENDPOINT_DELETED)
    handle = await guarded(engine, await waiting(engine), dead)
    await handle.signal("release", ReleaseInput(dead_letter=DeadLetterReason.ENDPOINT_DELETED))
    await engine.until(handle, DeliveryStatus.DEAD_LETTERED)
    assert engine.fakes.arguments("check_pulled")[1].give_up is DeadLetterReason.ENDPOINT_DELETED


async def test_a_discard_ends_the_wait_for_a_consumer(engine: Engine) -> None:
    handle = await guarded(engine, await waiting(engine))
    await handle.signal("discard", OperatorAction("ann"))
    assert (await engine.result_without_skipping(handle)).status is DeliveryStatus.DISCARDED
    assert len(engine.fakes.of("discard")) == 1


async def test_an_acknowledgement_during_a_check_is_not_lost(engine: Engine) -> None:
    gate = engine.fakes.hold("check_pulled")
    engine.fakes.pulls = Script(await waiting(engine), over(DeliveryStatus.DELIVERED))
    handle = await engine.start(engine.input(mode=DeliveryMode.POLL))
    await gate.entered.wait()
    await handle.signal("settled")
    gate.open()
    assert (await engine.result_without_skipping(handle)).status is DeliveryStatus.DELIVERED
