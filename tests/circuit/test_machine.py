"""The circuit: tables for each transition, and sequences of anything at all that must never leave it stuck."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everhook.circuit import machine
from everhook.circuit.machine import BY_OPERATOR, Circuit, CircuitPolicy, CircuitState, Hold

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
POLICY = CircuitPolicy()
SECOND = timedelta(seconds=1)
CLOSED = Circuit()
OPEN = Circuit(
    state=CircuitState.OPEN, failures=5, failing_since=NOW, openings=1, until=NOW + 30 * SECOND, version=5
)  # fmt: skip
HALF_OPEN = replace(OPEN, state=CircuitState.HALF_OPEN, until=NOW + 90 * SECOND, version=6)
STATES = {"closed": CLOSED, "open": OPEN, "half_open": HALF_OPEN}


def fail(circuit: Circuit, count: int = 1, now: datetime = NOW, draw: float = 0.0) -> Circuit:
    return machine.fail(circuit, count, now, POLICY, draw)


def tick(circuit: Circuit, now: datetime) -> Circuit:
    return machine.tick(circuit, now, POLICY)


def relapse(circuit: Circuit) -> Circuit:
    """From open through its cooldown and a failed probe to open again."""
    assert circuit.until is not None
    return fail(tick(circuit, circuit.until), now=circuit.until)


# Closed


@pytest.mark.parametrize(
    ("reports", "state"),
    [
        ([1], CircuitState.CLOSED),
        ([1, 1, 1, 1], CircuitState.CLOSED),
        ([4], CircuitState.CLOSED),
        ([1, 1, 1, 1, 1], CircuitState.OPEN),
        ([5], CircuitState.OPEN),
        ([2, 2, 2], CircuitState.OPEN),
        ([100], CircuitState.OPEN),
    ],
)
def test_a_circuit_opens_once_failures_in_a_row_reach_the_threshold(reports: list[int], state: CircuitState) -> None:
    circuit = CLOSED
    for count in reports:
        circuit = fail(circuit, count)
    assert circuit.state is state
    assert circuit.failures == sum(reports)
    assert circuit.failing_since == NOW


def test_a_success_between_failures_starts_the_count_afresh() -> None:
    circuit = fail(machine.succeed(fail(CLOSED, 4)), 4)
    assert (circuit.state, circuit.failures) == (CircuitState.CLOSED, 4)


def test_healthy_traffic_changes_nothing_not_even_the_version() -> None:
    assert machine.succeed(CLOSED) is CLOSED


@pytest.mark.parametrize(("threshold", "opens_at"), [(1, 1), (2, 2), (10, 10)])
def test_the_threshold_is_the_policys(threshold: int, opens_at: int) -> None:
    policy = CircuitPolicy(failure_threshold=threshold)
    circuit = CLOSED
    for count in range(1, opens_at + 1):
        assert circuit.state is CircuitState.CLOSED, count
        circuit = machine.fail(circuit, 1, NOW, policy, draw=0)
    assert circuit.state is CircuitState.OPEN


# Open


@pytest.mark.parametrize(("draw", "cooldown"), [(0.0, 30.0), (0.5, 31.5), (0.999, 32.997)])
def test_the_first_cooldown_is_half_a_minute_and_jitter_only_lengthens_it(draw: float, cooldown: float) -> None:
    assert fail(CLOSED, 5, draw=draw).until == NOW + timedelta(seconds=cooldown)


def test_the_cooldown_doubles_with_each_relapse_up_to_ten_minutes() -> None:
    circuit = fail(CLOSED, 5)
    cooldowns: list[float] = []
    began = NOW
    for _ in range(8):
        assert circuit.until is not None
        cooldowns.append((circuit.until - began).total_seconds())
        began = circuit.until
        circuit = relapse(circuit)
    assert cooldowns == [30, 60, 120, 240, 480, 600, 600, 600]


def test_thousands_of_relapses_do_not_overflow_the_cooldown() -> None:
    circuit = fail(replace(HALF_OPEN, openings=100_000))
    assert circuit.until == NOW + timedelta(minutes=10)


def test_after_a_success_the_cooldown_begins_small_again() -> None:
    relapsed = relapse(relapse(fail(CLOSED, 5)))
    assert fail(machine.succeed(relapsed), 5).until == NOW + 30 * SECOND


@pytest.mark.parametrize("count", [1, 5, 100])
@pytest.mark.parametrize("late", [0, 1, 29, 31, 3600])
def test_late_failures_while_open_are_counted_and_lengthen_nothing(count: int, late: float) -> None:
    circuit = fail(OPEN, count, now=NOW + timedelta(seconds=late), draw=0.9)
    assert circuit == replace(OPEN, failures=5 + count, version=6)


@pytest.mark.parametrize(
    ("after", "state"),
    [
        (0, CircuitState.OPEN),
        (29.999, CircuitState.OPEN),
        (30, CircuitState.HALF_OPEN),
        (10**6, CircuitState.HALF_OPEN),
    ],
)
def test_a_finished_cooldown_makes_room_for_one_probe(after: float, state: CircuitState) -> None:
    now = NOW + timedelta(seconds=after)
    circuit = tick(OPEN, now)
    assert circuit.state is state
    assert circuit.probes == (state is CircuitState.HALF_OPEN)
    if circuit.probes:
        assert (circuit.until, circuit.version) == (now + POLICY.probe_timeout, OPEN.version + 1)
    else:
        assert circuit is OPEN


# Half-open


def test_a_probe_that_succeeds_closes_it() -> None:
    assert machine.succeed(HALF_OPEN) == Circuit(version=7)


def test_a_probe_that_fails_opens_it_for_twice_as_long() -> None:
    circuit = fail(HALF_OPEN)
    assert (circuit.state, circuit.openings, circuit.until) == (CircuitState.OPEN, 2, NOW + 60 * SECOND)


def test_a_probe_that_never_reports_makes_room_for_another() -> None:
    lost = NOW + timedelta(hours=1)
    assert tick(HALF_OPEN, lost) == replace(HALF_OPEN, until=lost + POLICY.probe_timeout)
    assert tick(HALF_OPEN, NOW) is HALF_OPEN


def test_a_half_open_circuit_without_parked_deliveries_waits_as_long_as_the_longest_cooldown() -> None:
    assert machine.await_traffic(HALF_OPEN, NOW, POLICY).until == NOW + POLICY.cooldown_max


@pytest.mark.parametrize("circuit", [CLOSED, OPEN], ids=["closed", "open"])
def test_only_a_half_open_circuit_waits_for_traffic(circuit: Circuit) -> None:
    assert machine.await_traffic(circuit, NOW, POLICY) is circuit


@pytest.mark.parametrize("circuit", STATES.values(), ids=STATES)
def test_a_success_closes_any_state(circuit: Circuit) -> None:
    closed = machine.succeed(circuit)
    assert (closed.state, closed.failures, closed.failing_since, closed.openings, closed.until) == (
        CircuitState.CLOSED,
        0,
        None,
        0,
        None,
    )


# Changed policies


@pytest.mark.parametrize(
    ("circuit", "policy", "waits_s"),
    [
        (OPEN, CircuitPolicy(cooldown=10 * SECOND), 11),
        (OPEN, CircuitPolicy(cooldown=60 * SECOND), 30),
        (replace(OPEN, openings=3, until=NOW + 120 * SECOND), CircuitPolicy(cooldown=10 * SECOND), 44),
        (replace(OPEN, openings=3, until=NOW + 120 * SECOND), CircuitPolicy(cooldown_max=20 * SECOND), 22),
        (HALF_OPEN, CircuitPolicy(cooldown_max=60 * SECOND), 60),
        (HALF_OPEN, CircuitPolicy(cooldown=10 * SECOND), 90),
    ],
)
def test_a_changed_policy_shortens_a_wait_and_never_lengthens_it(
    circuit: Circuit, policy: CircuitPolicy, waits_s: float
) -> None:
    shortened = machine.shorten(circuit, NOW, policy)
    assert shortened.until == NOW + waits_s * SECOND
    assert (shortened is circuit) == (shortened.until == circuit.until)
    assert shortened.version == circuit.version + (shortened is not circuit)


def test_a_closed_circuit_waits_for_nothing_that_could_be_shortened() -> None:
    assert machine.shorten(CLOSED, NOW, CircuitPolicy(cooldown=SECOND)) is CLOSED


# Disabling


@pytest.mark.parametrize(
    ("failing_for", "disabled"),
    [
        (timedelta(days=5) - SECOND, False),
        (timedelta(days=5), True),
        (timedelta(days=30), True),
    ],
)
@pytest.mark.parametrize("circuit", [OPEN, HALF_OPEN], ids=["open", "half_open"])
def test_five_days_without_a_success_disable_the_endpoint(
    circuit: Circuit, failing_for: timedelta, disabled: bool
) -> None:
    after = fail(circuit, now=NOW + failing_for)
    assert (after.hold is Hold.DISABLED) is disabled
    assert after.hold_reason == ("no success since 2026-01-31 12:00 UTC" if disabled else "")
    assert after.version > circuit.version


def test_a_slow_trickle_of_failures_disables_even_below_the_threshold() -> None:
    assert fail(fail(CLOSED), now=NOW + timedelta(days=5)).hold is Hold.DISABLED


def test_a_success_within_five_days_prevents_disabling() -> None:
    circuit = machine.succeed(fail(CLOSED, 5))
    assert fail(circuit, now=NOW + timedelta(days=6)).hold is None


def test_a_paused_endpoint_is_not_disabled_by_late_failures() -> None:
    assert fail(machine.pause(OPEN), now=NOW + timedelta(days=6)).hold is Hold.PAUSED


# Operators

COMMANDS: dict[str, Callable[[Circuit], Circuit]] = {
    "pause": machine.pause,
    "resume": machine.resume,
    "disable": machine.disable,
    "enable": machine.enable,
}


@pytest.mark.parametrize(
    ("hold", "command", "then"),
    [
        (None, "pause", Hold.PAUSED),
        (None, "resume", None),
        (None, "disable", Hold.DISABLED),
        (None, "enable", None),
        (Hold.PAUSED, "pause", Hold.PAUSED),
        (Hold.PAUSED, "resume", None),
        (Hold.PAUSED, "disable", Hold.DISABLED),
        (Hold.PAUSED, "enable", Hold.PAUSED),
        (Hold.DISABLED, "pause", Hold.DISABLED),
        (Hold.DISABLED, "resume", Hold.DISABLED),
        (Hold.DISABLED, "disable", Hold.DISABLED),
        (Hold.DISABLED, "enable", None),
    ],
)
@pytest.mark.parametrize("circuit", STATES.values(), ids=STATES)
def test_each_command_sets_or_lifts_only_its_own_hold(
    circuit: Circuit, hold: Hold | None, command: str, then: Hold | None
) -> None:
    before = replace(circuit, hold=hold)
    after = COMMANDS[command](before)
    assert after.hold is then
    assert after.version == before.version + (hold is not then)
    if hold is then:
        assert after is before
    elif command != "enable":
        assert replace(after, hold=hold, hold_reason="", version=before.version) == before


def test_disabling_stores_the_reason_and_enabling_resets_the_reason_and_the_failures() -> None:
    disabled = machine.disable(OPEN, "the endpoint responded 410 Gone")
    assert disabled.hold_reason == "the endpoint responded 410 Gone"
    assert machine.disable(CLOSED).hold_reason == BY_OPERATOR
    assert machine.enable(disabled) == Circuit(version=7)


def test_disabling_a_paused_endpoint_gives_its_own_reason() -> None:
    assert machine.disable(machine.pause(CLOSED), "410").hold_reason == "410"


def test_a_pause_keeps_the_state_and_resuming_takes_it_up() -> None:
    resumed = machine.resume(machine.pause(OPEN))
    assert resumed == replace(OPEN, version=7)
    assert tick(resumed, NOW + timedelta(days=1)).probes


@pytest.mark.parametrize("circuit", STATES.values(), ids=STATES)
def test_tripping_opens_and_resetting_closes_in_every_state(circuit: Circuit) -> None:
    tripped = machine.trip(circuit, NOW, POLICY, draw=0)
    assert tripped.state is CircuitState.OPEN
    assert tripped.until is not None and tripped.until >= NOW + POLICY.cooldown
    assert tripped.version > circuit.version
    reset = machine.reset(circuit)
    assert reset == Circuit(version=circuit.version + 1)


@pytest.mark.parametrize(
    ("circuit", "sends", "probes"),
    [
        (CLOSED, True, False),
        (OPEN, False, False),
        (HALF_OPEN, False, True),
        (machine.pause(CLOSED), False, False),
        (machine.pause(HALF_OPEN), False, False),
        (machine.disable(CLOSED), False, False),
        (machine.disable(HALF_OPEN), False, False),
    ],
)
def test_deliveries_flow_when_closed_and_one_probes_when_half_open_unless_held(
    circuit: Circuit, sends: bool, probes: bool
) -> None:
    assert (circuit.sends, circuit.probes) == (sends, probes)


@pytest.mark.parametrize("hold", list(Hold))
@pytest.mark.parametrize("circuit", [OPEN, HALF_OPEN], ids=["open", "half_open"])
def test_time_does_not_pass_for_a_held_endpoint(circuit: Circuit, hold: Hold) -> None:
    held = replace(circuit, hold=hold)
    assert tick(held, NOW + timedelta(days=1)) is held


# Anything in any order

_DRAWS = st.floats(0, 1, exclude_max=True)
_SPANS = st.timedeltas(timedelta(), timedelta(minutes=2)) | st.timedeltas(timedelta(), timedelta(days=9))
_POLICIES = st.builds(
    CircuitPolicy,
    failure_threshold=st.integers(1, 10),
    cooldown=st.timedeltas(SECOND, timedelta(minutes=5)),
    cooldown_max=st.timedeltas(timedelta(minutes=5), timedelta(hours=1)),
    jitter=st.floats(0, 1),
    probe_timeout=st.timedeltas(SECOND, timedelta(minutes=5)),
    disable_after=st.timedeltas(timedelta(minutes=1), timedelta(days=10)),
)


class AnySequence(RuleBasedStateMachine):
    """Outcomes, commands and time in any order: what senders see is always versioned, and there is always a way out."""

    policy = POLICY

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit()
        self.now = NOW

    def become(self, after: Circuit) -> None:
        before, self.circuit = self.circuit, after
        assert after.version >= before.version
        if replace(after, until=None, version=0) != replace(before, until=None, version=0):
            assert after.version > before.version, "senders would not hear of this change"
        if after.until != before.until and after.version == before.version:
            assert before.state is after.state is CircuitState.HALF_OPEN, "no sender hears of this cooldown"

    @precondition(lambda self: self.circuit.version == 0)
    @rule(policy=_POLICIES)
    def under_a_policy(self, policy: CircuitPolicy) -> None:
        self.policy = policy

    @rule(count=st.integers(1, 20), draw=_DRAWS)
    def failures_come_in(self, count: int, draw: float) -> None:
        before = self.circuit
        self.become(machine.fail(before, count, self.now, self.policy, draw))
        if before.state is CircuitState.OPEN:
            assert (self.circuit.until, self.circuit.openings) == (before.until, before.openings)

    @rule()
    def a_success_comes_in(self) -> None:
        self.become(machine.succeed(self.circuit))

    @rule(
        span=st.one_of(st.timedeltas(timedelta(), timedelta(minutes=2)), st.timedeltas(timedelta(), timedelta(days=9)))
    )
    def time_passes(self, span: timedelta) -> None:
        self.now += span
        self.become(machine.tick(self.circuit, self.now, self.policy))

    @rule()
    def nothing_is_parked(self) -> None:
        self.become(machine.await_traffic(self.circuit, self.now, self.policy))

    @rule(command=st.sampled_from([*COMMANDS.values(), machine.reset]))
    def an_operator_commands(self, command: Callable[[Circuit], Circuit]) -> None:
        self.become(command(self.circuit))

    @rule(draw=_DRAWS)
    def an_operator_trips(self, draw: float) -> None:
        self.become(machine.trip(self.circuit, self.now, self.policy, draw))

    @invariant()
    def a_circuit_that_waits_has_a_time_until_when(self) -> None:
        longest = self.policy.cooldown_max * (1 + self.policy.jitter) + self.policy.probe_timeout
        if self.circuit.state is CircuitState.CLOSED:
            assert self.circuit.until is None
        else:
            assert self.circuit.until is not None
            assert self.circuit.until <= self.now + longest

    @invariant()
    def given_time_and_a_success_it_flows_again_unless_held(self) -> None:
        assert self.circuit.until is None or self.circuit.state is not CircuitState.CLOSED
        lifted = machine.enable(machine.resume(self.circuit))
        for circuit in (self.circuit, lifted):
            later = machine.tick(circuit, circuit.until or self.now, self.policy)
            if circuit.hold is not None:
                assert later is circuit
                continue
            assert later.sends or later.probes, "no delivery may try, so no success can ever come"
            assert machine.succeed(later).sends
        assert lifted.hold is None


TestAnySequence = AnySequence.TestCase
