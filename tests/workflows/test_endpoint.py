"""The entity of one endpoint: its circuit, its parked deliveries, its operators, on a server that skips time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment

from everhook.circuit.machine import BY_OPERATOR, Circuit, CircuitPolicy, CircuitState, Hold
from everhook.contracts import DeadLetterReason, ReleaseParkedInput, TaskQueue
from everhook.temporal import search_attributes as sa
from everhook.temporal.client import PLUGIN
from testing.waiting import assert_eventually
from tests.workflows.engine import (
    BINARIES,
    PATIENCE_S,
    WORKFLOWS,
    Endpoint,
    Engine,
    attribute,
    count_events,
    details,
    register_search_attributes,
    run_id,
    running_engine,
    time_skipping_server,
)
from tests.workflows.released import ReleasedEndpointWorkflow

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND, MINUTE, HOUR = (timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours"))
POLICY = CircuitPolicy(jitter=0)
CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
MOMENT = 3 * SECOND
"""Past the edge: the time-skipping server loses a workflow task that cancels a timer just as it fires."""


async def opened(engine: Engine, policy: CircuitPolicy = POLICY) -> Endpoint:
    """An endpoint whose circuit has just opened."""
    endpoint = engine.endpoint(policy)
    await endpoint.report(failures=policy.failure_threshold)
    await endpoint.until_projected(state=OPEN)
    return endpoint


async def half_open(engine: Engine, policy: CircuitPolicy = POLICY) -> Endpoint:
    """An endpoint whose cooldown is over, with a probe under way where anything was parked."""
    endpoint = await opened(engine, policy)
    await engine.skip(policy.cooldown + MOMENT)
    await endpoint.until_projected(state=HALF_OPEN)
    await endpoint.until_released(1)
    return endpoint


async def idle(engine: Engine) -> Endpoint:
    """An endpoint with a closed circuit, whose entity has found no parked deliveries."""
    endpoint = engine.endpoint()
    await endpoint.report()
    await endpoint.until_released(1)
    await engine.skip(MOMENT)
    return endpoint


def cooldowns(engine: Engine, endpoint: Endpoint) -> list[timedelta]:
    """How long each opening was to last."""
    calls = [c for c in engine.fakes.of("project_circuit") if c.argument.endpoint_gid == endpoint.gid]
    written = [(call.at, call.argument.circuit) for call in calls]
    return [rounded(circuit.until - at) for at, circuit in written if circuit.state is OPEN]


def rounded(duration: timedelta) -> timedelta:
    """To the second: real time passes too."""
    return timedelta(seconds=round(duration.total_seconds()))


def release_times(engine: Engine) -> list[datetime]:
    return [call.at for call in engine.fakes.of("release_parked")]


# --- opening


async def test_failures_in_a_row_open_the_circuit_at_the_threshold_and_not_before(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.report(failures=4)
    await endpoint.until_projected(state=CLOSED, failures=4)
    await endpoint.report(failures=1)
    circuit = await endpoint.until_projected(state=OPEN, failures=5)
    assert circuit.until is not None
    assert rounded(circuit.until - await engine.now()) == POLICY.cooldown
    assert circuit == await endpoint.state()
    assert await attribute(endpoint.handle, sa.CIRCUIT_STATE) == OPEN
    assert await attribute(endpoint.handle, sa.ENDPOINT) == endpoint.gid


async def test_a_success_ends_the_streak(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.report(failures=4)
    await endpoint.report(succeeded=True)
    await endpoint.until_projected(state=CLOSED, failures=0)
    await endpoint.report(failures=4)
    await endpoint.until_projected(state=CLOSED, failures=4)


async def test_a_report_has_a_success_before_its_failures(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.report(failures=4)
    await endpoint.report(succeeded=True, failures=4)
    circuit = await endpoint.until_projected(failures=4)
    await endpoint.until(state=CLOSED, version=circuit.version)


async def test_the_write_of_the_projection_is_retried_until_it_succeeds(engine: Engine) -> None:
    engine.fakes.fail("project_circuit", times=3)
    endpoint = engine.endpoint()
    await endpoint.report(failures=5)
    await engine.skip(10 * SECOND)
    await endpoint.until_projected(state=OPEN)
    assert engine.fakes.finished == ["project_circuit"]


# --- half-open


async def test_after_the_cooldown_exactly_one_parked_delivery_is_released_as_a_probe(engine: Engine) -> None:
    engine.fakes.parked = 3
    endpoint = await opened(engine)
    await engine.skip(POLICY.cooldown - 2 * SECOND)
    assert endpoint.releases() == []
    await engine.skip(2 * SECOND + MOMENT)
    await endpoint.until_released(1)
    await endpoint.until_projected(state=HALF_OPEN)
    await engine.skip(POLICY.probe_timeout - 3 * MOMENT)
    assert endpoint.releases() == [ReleaseParkedInput(endpoint.gid, 1)]
    assert await attribute(endpoint.handle, sa.CIRCUIT_STATE) == HALF_OPEN


async def test_senders_know_of_the_half_open_circuit_before_the_probe_is_released(engine: Engine) -> None:
    engine.fakes.parked = 1
    await half_open(engine)
    states = [call.argument.circuit.state for call in engine.fakes.of("project_circuit")]
    names = [call.name for call in engine.fakes.calls]
    assert states == [OPEN, HALF_OPEN]
    assert names[-2:] == ["project_circuit", "release_parked"]


async def test_a_probe_that_never_reports_makes_room_for_another(engine: Engine) -> None:
    engine.fakes.parked = 3
    endpoint = await half_open(engine)
    await engine.skip(POLICY.probe_timeout)
    assert await endpoint.until_released(2) == [ReleaseParkedInput(endpoint.gid, 1)] * 2
    first, second = release_times(engine)
    assert rounded(second - first) == POLICY.probe_timeout
    await endpoint.until(state=HALF_OPEN)


async def test_half_open_with_nothing_parked_waits_for_traffic(engine: Engine) -> None:
    endpoint = await half_open(engine)
    await engine.skip(POLICY.cooldown_max - 10 * SECOND)
    assert len(endpoint.releases()) == 1
    await endpoint.until(state=HALF_OPEN)
    await engine.skip(20 * SECOND)
    await endpoint.until_released(2)


async def test_a_relapse_doubles_the_cooldown_up_to_its_cap(engine: Engine) -> None:
    engine.fakes.parked = 100
    endpoint = await half_open(engine)
    for n in range(2, 8):
        await endpoint.report(failures=1)
        await endpoint.until_projected(state=OPEN, openings=n)
        await engine.skip(POLICY.cooldown_max + MOMENT)
        await endpoint.until_projected(state=HALF_OPEN)
    assert [cooldown.seconds for cooldown in cooldowns(engine, endpoint)] == [30, 60, 120, 240, 480, 600, 600]


async def test_cooldowns_are_jittered_by_up_to_a_tenth(engine: Engine) -> None:
    drawn = []
    for _ in range(5):
        endpoint = await opened(engine, CircuitPolicy(cooldown=100 * SECOND))
        drawn += cooldowns(engine, endpoint)
    assert all(100 * SECOND <= cooldown <= 110 * SECOND for cooldown in drawn)
    assert len(set(drawn)) > 1


async def test_late_failures_do_not_lengthen_the_cooldown(engine: Engine) -> None:
    engine.fakes.parked = 1
    endpoint = await opened(engine)
    until = (await endpoint.state()).until
    await engine.skip(20 * SECOND)
    await endpoint.report(failures=7)
    circuit = await endpoint.until_projected(failures=12)
    assert (circuit.state, circuit.until) == (OPEN, until)


# --- closing


async def test_closing_releases_the_parked_at_a_ramp_up_to_the_fastest_rate(engine: Engine) -> None:
    engine.fakes.parked = 1 + 400
    endpoint = await half_open(engine)
    await endpoint.report(succeeded=True)
    await endpoint.until_projected(state=CLOSED)
    await engine.skip(10 * SECOND)
    await endpoint.until_released(9)
    probe, *ramp = (input.limit for input in endpoint.releases())
    assert probe == 1
    assert ramp == [5, 10, 20, 40, 80, 100, 100, 100]
    times = release_times(engine)[1:]
    late = SECOND / 2  # of the first
    assert all(at - times[0] > number * SECOND - late for number, at in enumerate(times))
    assert engine.fakes.parked == 0
    await engine.skip(MINUTE)
    assert len(endpoint.releases()) == 9


async def test_senders_know_of_the_closed_circuit_before_anything_is_released(engine: Engine) -> None:
    engine.fakes.parked = 10
    endpoint = await half_open(engine)
    gate = engine.fakes.hold("project_circuit")
    await endpoint.report(succeeded=True)
    await gate.entered.wait()
    await endpoint.until(state=CLOSED)
    assert len(endpoint.releases()) == 1
    gate.open()
    await endpoint.until_released(2)


async def test_a_relapse_stops_the_release_and_the_next_closing_begins_slowly(engine: Engine) -> None:
    engine.fakes.parked = 1_000
    endpoint = await half_open(engine)
    await endpoint.report(succeeded=True)
    await engine.skip(2500 * timedelta(milliseconds=1))
    await endpoint.until_released(3)
    await endpoint.report(failures=5)
    await endpoint.until_projected(state=OPEN)
    released = len(endpoint.releases())
    await engine.skip(POLICY.cooldown - MOMENT)
    assert len(endpoint.releases()) == released
    await engine.skip(2 * MOMENT)
    await endpoint.until_released(released + 1)
    await endpoint.report(succeeded=True)
    await endpoint.until_released(released + 2)
    assert [input.limit for input in endpoint.releases()[released : released + 2]] == [1, 5]


async def test_failures_short_of_an_opening_slow_the_release_down(engine: Engine) -> None:
    engine.fakes.parked = 1_000
    endpoint = await half_open(engine)
    await endpoint.report(succeeded=True)
    await engine.skip(3500 * timedelta(milliseconds=1))
    before = len(await endpoint.until_released(5))
    assert endpoint.releases()[-1].limit > POLICY.release_rate
    await endpoint.report(failures=1)
    await endpoint.until_projected(state=CLOSED, failures=1)
    await engine.skip(SECOND)
    assert (await endpoint.until_released(before + 1))[before].limit == POLICY.release_rate


async def test_a_pause_stops_the_release_and_the_resuming_takes_it_up(engine: Engine) -> None:
    engine.fakes.parked = 1_000
    endpoint = await half_open(engine)
    await endpoint.report(succeeded=True)
    await endpoint.until_released(2)
    await endpoint.command("pause")
    released = len(endpoint.releases())
    await engine.skip(MINUTE)
    assert len(endpoint.releases()) == released
    await endpoint.command("resume")
    assert (await endpoint.until_released(released + 1))[released].limit == POLICY.release_rate


async def test_deliveries_that_are_stranded_under_a_closed_circuit_are_released(engine: Engine) -> None:
    endpoint = await idle(engine)
    engine.fakes.parked = 12
    await endpoint.report(stranded=True)
    await engine.skip(2 * SECOND)
    assert [input.limit for input in (await endpoint.until_released(3))[1:]] == [5, 10]
    assert engine.fakes.parked == 0
    assert endpoint.projections() == []


async def test_a_report_of_stranded_deliveries_does_not_restart_a_release(engine: Engine) -> None:
    endpoint = await idle(engine)
    engine.fakes.parked = 100
    for seconds in (0, 1.2, 1.2):
        await engine.skip(timedelta(seconds=seconds))
        await endpoint.report(stranded=True)
        await endpoint.state()
    await engine.skip(1.2 * SECOND)
    assert [input.limit for input in (await endpoint.until_released(5))[1:]] == [5, 10, 20, 40]


@pytest.mark.parametrize("command", ["trip", "pause", "disable"])
async def test_a_report_of_stranded_deliveries_releases_none_while_the_circuit_does_not_send(
    engine: Engine, command: str
) -> None:
    endpoint = await idle(engine)
    await endpoint.command(command)
    engine.fakes.parked = 3
    await endpoint.report(stranded=True)
    await engine.skip(POLICY.cooldown - MOMENT)
    await endpoint.state()
    assert len(endpoint.releases()) == 1


# --- counting what is parked


async def test_while_deliveries_do_not_flow_the_parked_ones_are_counted_less_and_less_often(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.command("pause")
    engine.fakes.parked = 1_234
    began = await engine.now()
    await engine.skip(MINUTE - MOMENT)
    assert engine.fakes.of("count_parked") == []
    await engine.skip(2 * MOMENT)
    assert [call.argument for call in await engine.until_called("count_parked", 1)] == [endpoint.gid]
    await until_shown(endpoint, "paused, 1,234 deliveries parked.")
    await engine.skip(5 * HOUR)
    times = [began] + [call.at for call in await engine.until_called("count_parked", 9)]
    waits = [(later - earlier) / MINUTE for earlier, later in pairwise(times)]
    assert [round(wait) for wait in waits] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_nothing_is_counted_once_deliveries_flow_again(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.command("pause")
    engine.fakes.parked = 3
    await engine.skip(MINUTE + MOMENT)
    await until_shown(endpoint, "3 deliveries parked")
    await endpoint.command("resume")
    assert "parked" not in await details(endpoint.handle)
    await engine.skip(5 * HOUR)
    assert len(engine.fakes.of("count_parked")) == 1


async def test_a_failed_count_is_skipped_and_blocks_nothing(engine: Engine) -> None:
    engine.fakes.fail("count_parked", times=1)
    endpoint = engine.endpoint()
    await endpoint.command("pause")
    engine.fakes.parked = 3
    await engine.skip(MINUTE + 10 * SECOND)
    assert len(await engine.until_called("count_parked", 1)) == 1
    assert "paused" in await details(endpoint.handle)
    await engine.skip(2 * MINUTE)
    await until_shown(endpoint, "3 deliveries parked")
    await endpoint.command("resume")


async def until_shown(endpoint: Endpoint, words: str) -> None:
    async def shown() -> None:
        assert words in await details(endpoint.handle)

    await assert_eventually(shown)


# --- operators


@pytest.mark.parametrize(
    ("before", "update", "wanted", "projections"),
    [
        ([], "pause", {"hold": Hold.PAUSED, "state": CLOSED}, 1),
        (["pause"], "pause", {"hold": Hold.PAUSED}, 1),
        (["pause"], "resume", {"hold": None}, 2),
        ([], "resume", {"hold": None, "version": 0}, 0),
        ([], "trip", {"state": OPEN, "openings": 1}, 1),
        (["trip"], "reset", {"state": CLOSED, "openings": 0, "until": None}, 2),
        ([], "disable", {"hold": Hold.DISABLED, "hold_reason": BY_OPERATOR}, 1),
        (["disable"], "disable", {"hold": Hold.DISABLED}, 1),
        (["disable"], "enable", {"hold": None, "state": CLOSED}, 2),
        (["pause"], "enable", {"hold": Hold.PAUSED}, 1),
        (["disable"], "resume", {"hold": Hold.DISABLED}, 1),
        (["disable"], "pause", {"hold": Hold.DISABLED}, 1),
        (["trip", "disable"], "enable", {"hold": None, "state": CLOSED}, 3),
    ],
    ids=lambda value: (
        "-".join(value) or "fresh" if isinstance(value, list) else value if isinstance(value, str) else ""
    ),
)
async def test_a_command_returns_the_state_that_senders_read(
    engine: Engine, before: list[str], update: str, wanted: dict[str, Any], projections: int
) -> None:
    endpoint = engine.endpoint()
    for name in before:
        await endpoint.command(name)
    state = await endpoint.command(update)
    assert {name: getattr(state, name) for name in wanted} == wanted
    assert state == await endpoint.state()
    assert len(endpoint.projections()) == projections
    if projections:
        assert endpoint.projections()[-1] == state


async def test_the_circuits_state_is_searchable_and_a_hold_takes_precedence(engine: Engine) -> None:
    endpoint = engine.endpoint()
    for update, shown in [("trip", "open"), ("pause", "paused"), ("resume", "open"), ("disable", "disabled")]:
        await endpoint.command(update)
        await assert_eventually(lambda shown=shown: assert_shown(endpoint, shown))  # type: ignore[misc]


async def assert_shown(endpoint: Endpoint, shown: str) -> None:
    assert await attribute(endpoint.handle, sa.CIRCUIT_STATE) == shown


async def test_a_command_returns_only_when_senders_can_read_it(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.command("resume")
    gate = engine.fakes.hold("project_circuit")
    pausing = asyncio.create_task(endpoint.command("pause"))
    await gate.entered.wait()
    assert (await endpoint.state()).hold is Hold.PAUSED
    again = asyncio.create_task(endpoint.command("pause"))
    await endpoint.until(hold=Hold.PAUSED)
    assert not pausing.done()
    assert not again.done()
    gate.open()
    assert await pausing == await again
    assert engine.fakes.finished == ["project_circuit"]


async def test_a_pause_stops_the_timers_and_resuming_runs_them(engine: Engine) -> None:
    engine.fakes.parked = 5
    endpoint = await opened(engine)
    await endpoint.command("pause")
    await engine.skip(HOUR)
    assert (await endpoint.state()).state is OPEN
    assert endpoint.releases() == []
    await endpoint.command("resume")
    await endpoint.until_released(1)
    await endpoint.until(state=HALF_OPEN)


async def test_an_operators_reset_releases_what_is_parked(engine: Engine) -> None:
    engine.fakes.parked = 3
    endpoint = await opened(engine)
    await endpoint.command("reset")
    assert (await endpoint.until_released(1))[0] == ReleaseParkedInput(endpoint.gid, 5)


async def test_an_endpoint_that_an_operator_disabled_keeps_its_parked_deliveries(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.command("disable")
    looked = len(endpoint.releases())
    engine.fakes.parked = 3
    await engine.skip(HOUR)
    assert len(endpoint.releases()) == looked
    await endpoint.command("enable")
    assert (await endpoint.until_released(looked + 1))[looked] == ReleaseParkedInput(endpoint.gid, 5)


# --- the end of an endpoint


async def test_an_endpoint_that_says_gone_is_disabled_and_its_parked_deliveries_are_given_up(engine: Engine) -> None:
    engine.fakes.parked = 1_200
    endpoint = engine.endpoint()
    await endpoint.report(succeeded=True, gone=True)
    circuit = await endpoint.until_projected(hold=Hold.DISABLED)
    assert "410" in circuit.hold_reason
    given_up = ReleaseParkedInput(endpoint.gid, 500, DeadLetterReason.ENDPOINT_DISABLED)
    assert await endpoint.until_released(3) == [given_up] * 3
    assert engine.fakes.parked == 0
    assert (await endpoint.handle.describe()).status is WorkflowExecutionStatus.RUNNING


async def test_an_endpoint_that_is_enabled_during_the_giving_up_gives_up_no_more(engine: Engine) -> None:
    engine.fakes.parked = 1_200
    gate = engine.fakes.hold("release_parked")
    endpoint = engine.endpoint()
    await endpoint.report(gone=True)
    await gate.entered.wait()
    enabling = asyncio.create_task(endpoint.command("enable"))
    await endpoint.until(hold=None)
    gate.open()
    assert (await enabling).hold is None
    given_up = ReleaseParkedInput(endpoint.gid, 500, DeadLetterReason.ENDPOINT_DISABLED)
    assert await endpoint.until_released(2) == [given_up, ReleaseParkedInput(endpoint.gid, 5)]


async def test_an_endpoint_that_fails_for_long_enough_is_disabled(engine: Engine) -> None:
    policy = replace(POLICY, disable_after=HOUR)
    engine.fakes.parked = 5
    endpoint = await half_open(engine, policy)
    for _ in range(5):
        await endpoint.report(failures=1)
        await endpoint.until_projected(state=OPEN, hold=None)
        await engine.skip(policy.cooldown_max + MOMENT)
        await endpoint.until_projected(state=HALF_OPEN)
    await engine.skip(HOUR)
    await endpoint.report(failures=1)
    circuit = await endpoint.until_projected(hold=Hold.DISABLED)
    assert circuit.hold_reason.startswith("no success since")
    await assert_eventually(lambda: assert_given_up(endpoint, DeadLetterReason.ENDPOINT_DISABLED))


def assert_given_up(endpoint: Endpoint, reason: DeadLetterReason) -> None:
    assert endpoint.releases()[-1] == ReleaseParkedInput(endpoint.gid, 500, reason)


async def test_one_success_starts_the_time_to_disabling_afresh(engine: Engine) -> None:
    policy = replace(POLICY, disable_after=HOUR)
    endpoint = await opened(engine, policy)
    await engine.skip(2 * HOUR)
    await endpoint.report(succeeded=True)
    await endpoint.until_projected(state=CLOSED, failing_since=None)
    await endpoint.report(failures=1)
    await endpoint.until_projected(failures=1, hold=None)


async def test_a_deleted_endpoint_gives_up_what_is_parked_and_its_entity_ends(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.command("pause")
    looked = len(endpoint.releases())
    engine.fakes.parked = 700
    assert (await endpoint.command("delete")).hold is not None
    await engine.result(endpoint.handle)
    assert (
        endpoint.releases()[looked:] == [ReleaseParkedInput(endpoint.gid, 500, DeadLetterReason.ENDPOINT_DELETED)] * 2
    )
    assert engine.fakes.parked == 0


async def test_an_endpoint_that_is_disabled_can_be_deleted(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.command("disable")
    engine.fakes.parked = 1
    await endpoint.command("delete")
    await engine.result(endpoint.handle)
    assert endpoint.releases()[-1] == ReleaseParkedInput(endpoint.gid, 500, DeadLetterReason.ENDPOINT_DELETED)
    assert engine.fakes.parked == 0


async def test_the_entity_of_an_endpoint_that_the_database_does_not_know_gives_up_and_ends(engine: Engine) -> None:
    engine.fakes.circuit, engine.fakes.parked = None, 2
    endpoint = engine.endpoint()
    await endpoint.report(failures=1)
    await engine.result(endpoint.handle)
    assert endpoint.releases() == [ReleaseParkedInput(endpoint.gid, 500, DeadLetterReason.ENDPOINT_DELETED)]


# --- surviving


async def test_a_pause_survives_the_loss_of_temporals_store(engine: Engine) -> None:
    engine.fakes.circuit = Circuit(hold=Hold.PAUSED, version=12)
    endpoint = engine.endpoint()
    await endpoint.report()
    await endpoint.until(hold=Hold.PAUSED, version=12)
    assert await attribute(endpoint.handle, sa.CIRCUIT_STATE) == "paused"
    engine.fakes.parked = 9
    await engine.skip(MINUTE + MOMENT)
    await until_shown(endpoint, "paused, 9 deliveries parked")
    await endpoint.report(failures=1)
    await endpoint.until_projected(hold=Hold.PAUSED, failures=1, version=13)


async def test_an_open_circuit_survives_the_loss_of_temporals_store(engine: Engine) -> None:
    engine.fakes.parked = 2
    engine.fakes.circuit = Circuit(
        state=OPEN, failures=9, failing_since=await engine.now(), openings=2, until=await engine.now(), version=7
    )
    endpoint = engine.endpoint()
    await endpoint.report()
    await endpoint.until_projected(state=HALF_OPEN, version=8)
    assert await endpoint.until_released(1) == [ReleaseParkedInput(endpoint.gid, 1)]
    await endpoint.report(failures=1)
    await endpoint.until_projected(state=OPEN, openings=3)
    assert cooldowns(engine, endpoint) == [2 * MINUTE]


async def test_a_probe_survives_the_loss_of_temporals_store(engine: Engine) -> None:
    engine.fakes.parked = 2
    engine.fakes.circuit = Circuit(state=HALF_OPEN, failures=5, until=await engine.now() + HOUR, version=7)
    endpoint = engine.endpoint()
    await endpoint.report()
    assert await endpoint.until_released(1) == [ReleaseParkedInput(endpoint.gid, 1)]


async def test_a_release_survives_the_loss_of_temporals_store(engine: Engine) -> None:
    engine.fakes.parked = 8
    engine.fakes.circuit = Circuit(version=3)
    endpoint = engine.endpoint()
    await endpoint.report()
    await engine.skip(2 * SECOND)
    assert [input.limit for input in await endpoint.until_released(2)] == [5, 10]


async def test_reports_that_arrive_while_the_circuit_is_being_loaded_count(engine: Engine) -> None:
    engine.fakes.circuit = Circuit(failures=4, failing_since=await engine.now(), version=4)
    gate = engine.fakes.hold("load_endpoint")
    endpoint = engine.endpoint()
    await endpoint.report(failures=1)
    await gate.entered.wait()
    pausing = asyncio.create_task(endpoint.command("pause"))
    gate.open()
    assert (await pausing).hold is Hold.PAUSED
    await endpoint.until_projected(state=OPEN, failures=5, hold=Hold.PAUSED)


async def test_concurrent_reports_and_commands_are_all_handled(engine: Engine) -> None:
    policy = replace(POLICY, failure_threshold=1_000)
    endpoint = engine.endpoint(policy)
    # Start the entity first: where signal-with-start and update-with-start race for the same new workflow, the
    # time-skipping server refuses some as "already started". A real server does not.
    await endpoint.report(failures=1)
    await endpoint.until_projected(failures=1)

    async def command(name: str) -> None:
        state = await endpoint.command(name)
        assert state.version <= endpoint.projections()[-1].version

    await asyncio.gather(
        *(endpoint.report(failures=1) for _ in range(60)),
        *(command(name) for name in ("pause", "resume", "trip", "reset") * 2),
        *(endpoint.report(failures=1) for _ in range(60)),
    )
    await endpoint.command("reset")
    await asyncio.gather(*(endpoint.report(failures=1) for _ in range(40)))
    await endpoint.until_projected(failures=40, state=CLOSED)
    versions = [circuit.version for circuit in endpoint.projections()]
    assert versions == sorted(set(versions))


async def test_a_command_counts_after_the_reports_that_came_before_it(engine: Engine) -> None:
    """Reports queue up while the entity runs an activity; a reset must clear those as well."""
    endpoint = engine.endpoint()
    gate = engine.fakes.hold("project_circuit")
    await endpoint.report(failures=1)
    await gate.entered.wait()
    await endpoint.report(failures=3)
    resetting = asyncio.create_task(endpoint.command("reset"))
    await endpoint.until(failures=0)
    gate.open()
    assert (await resetting).failures == 0
    await engine.skip(MOMENT)
    assert (await endpoint.state()).failures == 0
    assert endpoint.projections()[-1].failures == 0


async def test_a_run_that_took_many_updates_continues_as_new_with_the_same_state(engine: Engine) -> None:
    """A run takes 2,000 updates at most: Temporal refuses more, those of an operator who wants to resume included."""
    endpoint = engine.endpoint()
    paused = await endpoint.command("pause")
    first_run = await run_id(endpoint.handle)
    slots = asyncio.Semaphore(10)

    async def command() -> None:
        async with slots:
            assert await endpoint.handle.execute_update("pause", result_type=Circuit) == paused

    await asyncio.gather(*(command() for _ in range(1_010)))
    await endpoint.until(hold=Hold.PAUSED, version=paused.version)
    assert await run_id(endpoint.handle) != first_run
    assert "paused" in await details(endpoint.handle)
    engine.fakes.parked = 7
    await engine.skip(MINUTE + MOMENT)
    await until_shown(endpoint, "7 deliveries parked")
    assert (await endpoint.command("resume")).version == paused.version + 1
    assert len(engine.fakes.of("load_endpoint")) == 1


# --- changed settings


async def test_changed_settings_apply_to_the_next_report(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.report(failures=3)
    await endpoint.until_projected(state=CLOSED, failures=3)
    await endpoint.settings_changed(replace(POLICY, failure_threshold=4, cooldown=HOUR, cooldown_max=HOUR))
    await endpoint.report(failures=1)
    await endpoint.until_projected(state=OPEN, failures=4)
    assert cooldowns(engine, endpoint) == [HOUR]
    assert len(engine.fakes.of("load_circuit_policy")) == 1


async def test_a_shorter_cooldown_applies_to_a_circuit_that_is_open(engine: Engine) -> None:
    endpoint = await opened(engine, replace(POLICY, cooldown=HOUR, cooldown_max=HOUR))
    await endpoint.settings_changed(POLICY)
    circuit = await endpoint.until_projected(version=2)
    assert circuit.until is not None and circuit.until - await engine.now() <= POLICY.cooldown
    await engine.skip(POLICY.cooldown + MOMENT)
    await endpoint.until_projected(state=HALF_OPEN)


async def test_a_lower_release_rate_applies_to_a_release_that_is_under_way(engine: Engine) -> None:
    engine.fakes.parked = 1_000
    endpoint = engine.endpoint(replace(POLICY, release_rate=100))
    await endpoint.report()
    await endpoint.until_released(1)
    await endpoint.settings_changed(replace(POLICY, release_rate=1, release_rate_max=3))
    await engine.until_called("load_circuit_policy", 1)
    await engine.skip(3 * SECOND)
    await endpoint.until_released(3)
    assert [each.limit for each in endpoint.releases()[:3]] == [100, 3, 3]


async def test_settings_that_were_not_announced_apply_after_the_next_projection(engine: Engine) -> None:
    """The process that changed them died before the signal."""
    endpoint = engine.endpoint()
    await endpoint.report(failures=1)
    await endpoint.until_projected(failures=1)
    engine.fakes.policies[endpoint.gid] = replace(POLICY, failure_threshold=3)
    await endpoint.report(failures=1)
    await endpoint.until_projected(state=CLOSED, failures=2)
    await endpoint.report(failures=1)
    await endpoint.until_projected(state=OPEN, failures=3)


async def test_settings_of_an_endpoint_without_a_workflow_are_not_announced(engine: Engine) -> None:
    endpoint = engine.endpoint()
    await endpoint.settings_changed(replace(POLICY, failure_threshold=2))
    await endpoint.report(failures=2)
    await endpoint.until_projected(state=OPEN)
    assert len(engine.fakes.of("load_circuit_policy")) == 0


async def test_a_circuit_that_released_code_began_takes_changed_settings_too() -> None:
    async with time_skipping_server() as env:
        async with running_engine(env, endpoint=ReleasedEndpointWorkflow) as old:
            endpoint = old.endpoint()
            await endpoint.report(failures=1)
            await endpoint.until_projected(failures=1)
            await endpoint.settings_changed(replace(POLICY, failure_threshold=2))  # released code ignores it
            await old.keep()
        async with running_engine(env) as engine:
            again = engine.endpoint(POLICY, endpoint.gid)
            await again.settings_changed(replace(POLICY, failure_threshold=3))
            await again.report(failures=2)
            await again.until_projected(state=OPEN, failures=3)
            assert len(engine.fakes.of("load_circuit_policy")) == 1


# --- a new run, on a server that suggests it early


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def forgetful_env() -> AsyncIterator[WorkflowEnvironment]:
    """A real Temporal that suggests to continue as new after 40 events."""
    arguments = ["--dynamic-config-value", "limit.historyCount.suggestContinueAsNew=40"]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(BINARIES / "temporal"),
        dev_server_extra_args=arguments,
        dev_server_log_level="error",
        plugins=[PLUGIN],
    ) as environment:
        await register_search_attributes(environment.client)
        yield environment


@pytest_asyncio.fixture(loop_scope="module")
async def forgetful(forgetful_env: WorkflowEnvironment) -> AsyncIterator[Engine]:
    async with running_engine(forgetful_env) as running:
        yield running


async def test_no_report_is_lost_between_runs(forgetful: Engine) -> None:
    endpoint = forgetful.endpoint(replace(POLICY, failure_threshold=1_000))
    await endpoint.report(failures=1)
    first_run = await run_id(endpoint.handle)
    for _ in range(10):
        await asyncio.gather(*(endpoint.report(failures=1) for _ in range(10)))
    circuit = await endpoint.until_projected(failures=101)
    assert await endpoint.state() == circuit
    assert await run_id(endpoint.handle) != first_run
    assert len(forgetful.fakes.of("load_endpoint")) == 1


async def test_no_command_is_lost_between_runs(forgetful: Engine) -> None:
    endpoint = forgetful.endpoint()
    await endpoint.command("resume")
    first_run = await run_id(endpoint.handle)

    async def operator(there: str, back: str, field: str, value: object) -> None:
        for _ in range(10):
            assert getattr(await endpoint.command(there), field) is value
            await endpoint.command(back)

    await asyncio.gather(operator("pause", "resume", "hold", Hold.PAUSED), operator("trip", "reset", "state", OPEN))
    assert await run_id(endpoint.handle) != first_run
    circuit = await endpoint.until_projected(state=CLOSED, hold=None)
    assert circuit.version == 10 * 4


async def test_a_release_continues_in_the_next_run(forgetful: Engine) -> None:
    forgetful.fakes.parked = 40
    forgetful.fakes.circuit = Circuit(version=1)
    endpoint = forgetful.endpoint(replace(POLICY, failure_threshold=1_000))
    for _ in range(15):
        await endpoint.report(failures=1)
    await endpoint.until_projected(failures=15)
    assert (await endpoint.until_released(3))[0].limit == POLICY.release_rate
    await assert_eventually(lambda: assert_none_parked(forgetful))


def assert_none_parked(engine: Engine) -> None:
    assert engine.fakes.parked == 0


async def test_a_command_that_arrives_with_the_end_of_a_run_returns(forgetful_env: WorkflowEnvironment) -> None:
    """It arrives in the very workflow task whose activity result leaves the entity idle and due for a new run."""
    engine = Engine(forgetful_env)
    policy = replace(POLICY, failure_threshold=1_000)
    endpoint = engine.endpoint(policy)
    async with engine.worker(TaskQueue.DELIVERIES, activities=engine.fakes.all):
        async with engine.worker(TaskQueue.DELIVERIES, workflows=WORKFLOWS):
            for failures in range(1, 5):
                await endpoint.report(failures=1)
                await endpoint.until_projected(failures=failures)
            gate = engine.fakes.hold("project_circuit")
            await endpoint.report(failures=40)
            await gate.entered.wait()
        # Without a workflow worker the activity's result and the command wait for one task together.
        commanding = asyncio.create_task(endpoint.command("pause"))
        gate.open()
        await assert_eventually(lambda: assert_nothing_pending(endpoint))
        async with engine.worker(TaskQueue.DELIVERIES, workflows=WORKFLOWS), asyncio.timeout(20):
            assert (await commanding).hold is Hold.PAUSED
            await engine.close()


async def test_a_command_that_waits_for_a_long_loading_returns(forgetful: Engine) -> None:
    """The run is due for a new one as soon as the circuit is loaded, and must not end before the command is done."""
    forgetful.fakes.circuit = Circuit(hold=Hold.PAUSED, version=1)
    gate = forgetful.fakes.hold("load_endpoint")
    endpoint = forgetful.endpoint()
    for _ in range(15):
        await endpoint.report()
        await endpoint.state()
    await gate.entered.wait()
    resuming = asyncio.create_task(endpoint.handle.execute_update("resume", result_type=Circuit))
    await assert_eventually(lambda: assert_admitted(endpoint))
    gate.open()
    async with asyncio.timeout(PATIENCE_S):
        assert (await resuming).hold is None
    await endpoint.until(hold=None, version=2)


async def assert_admitted(endpoint: Endpoint) -> None:
    accepted = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_ACCEPTED
    assert await count_events(endpoint.handle, accepted) == 1


async def assert_nothing_pending(endpoint: Endpoint) -> None:
    assert not (await endpoint.handle.describe()).raw_description.pending_activities
