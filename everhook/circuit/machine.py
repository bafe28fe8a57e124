"""The circuit state machine of one endpoint. Pure: no Temporal, no I/O, no clock of its own.

    closed --failure_threshold failures in a row--> open --cooldown--> half_open --success--> closed
                                                     ^                     |
                                                     +------failure--------+

In addition to the state there is a *hold*: an operator paused the endpoint, or it was disabled. A hold parks messages
in every state; it never drops them.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

BY_OPERATOR = "by an operator"


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Hold(StrEnum):
    PAUSED = "paused"
    DISABLED = "disabled"


@dataclass(frozen=True)
class CircuitPolicy:
    """`cooldown` doubles with each relapse up to `cooldown_max`. `probe_timeout` is how long one probe may take."""

    failure_threshold: int = 5
    cooldown: timedelta = timedelta(seconds=30)
    cooldown_max: timedelta = timedelta(minutes=10)
    jitter: float = 0.1
    probe_timeout: timedelta = timedelta(seconds=60)
    disable_after: timedelta = timedelta(days=5)
    release_rate: float = 5.0
    release_rate_max: float = 100.0


@dataclass(frozen=True)
class Circuit:
    """`until` is when the cooldown (open) or the probe (half-open) ends. `version` increases with every transition."""

    state: CircuitState = CircuitState.CLOSED
    hold: Hold | None = None
    hold_reason: str = ""
    failures: int = 0
    failing_since: datetime | None = None
    openings: int = 0
    until: datetime | None = None
    version: int = 0

    @property
    def sends(self) -> bool:
        """Whether deliveries are sent."""
        return self.state is CircuitState.CLOSED and self.hold is None

    @property
    def probes(self) -> bool:
        """Whether one delivery at a time may be sent as a probe."""
        return self.state is CircuitState.HALF_OPEN and self.hold is None


def fail(circuit: Circuit, count: int, now: datetime, policy: CircuitPolicy, draw: float) -> Circuit:
    """Count `count` failures in a row. `draw` in [0, 1) is the jitter of the cooldown.

    While the circuit is open only the count changes: requests that were in flight when it opened must not lengthen the
    cooldown.
    """
    failing = replace(
        circuit,
        failures=circuit.failures + count,
        failing_since=circuit.failing_since or now,
        version=circuit.version + 1,
    )
    if now - (failing.failing_since or now) >= policy.disable_after and failing.hold is None:
        return disable(failing, f"no success since {failing.failing_since:%Y-%m-%d %H:%M} UTC")
    if circuit.state is CircuitState.HALF_OPEN:
        return _open(failing, now, policy, draw)
    if circuit.state is CircuitState.CLOSED and failing.failures >= policy.failure_threshold:
        return _open(failing, now, policy, draw)
    return failing


def succeed(circuit: Circuit) -> Circuit:
    """The endpoint responded: close the circuit."""
    if circuit.state is CircuitState.CLOSED and not circuit.failures:
        return circuit
    return _closed(circuit)


def tick(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> Circuit:
    """Let time pass: an open circuit becomes half-open after its cooldown, and a probe without a result is replaced
    by another."""
    if circuit.until is None or now < circuit.until or circuit.hold is not None:
        return circuit
    was_open = circuit.state is CircuitState.OPEN
    return replace(
        circuit,
        state=CircuitState.HALF_OPEN,
        until=now + policy.probe_timeout,
        version=circuit.version + 1 if was_open else circuit.version,
    )


def await_traffic(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> Circuit:
    """Half-open without parked deliveries: wait for a new delivery to claim the probe."""
    if circuit.state is not CircuitState.HALF_OPEN:
        return circuit
    return replace(circuit, until=now + policy.cooldown_max)


def shorten(circuit: Circuit, now: datetime, policy: CircuitPolicy) -> Circuit:
    """Apply a changed policy to the current wait: it ends no later than one that begins now would. A wait is never
    lengthened."""
    if circuit.until is None:
        return circuit
    longest = policy.cooldown_max
    if circuit.state is CircuitState.OPEN:
        longest = _cooldown(policy, circuit.openings - 1) * (1 + policy.jitter)
    if circuit.until <= now + longest:
        return circuit
    return replace(circuit, until=now + longest, version=circuit.version + 1)


def trip(circuit: Circuit, now: datetime, policy: CircuitPolicy, draw: float) -> Circuit:
    """Open the circuit by hand."""
    return _open(replace(circuit, version=circuit.version + 1), now, policy, draw)


def reset(circuit: Circuit) -> Circuit:
    """Close the circuit by hand."""
    return _closed(circuit)


def pause(circuit: Circuit) -> Circuit:
    """Hold all deliveries until `resume`. A disabled endpoint stays disabled."""
    if circuit.hold is not None:
        return circuit
    return replace(circuit, hold=Hold.PAUSED, hold_reason="", version=circuit.version + 1)


def resume(circuit: Circuit) -> Circuit:
    """End a pause. A disabled endpoint stays disabled until `enable`."""
    if circuit.hold is not Hold.PAUSED:
        return circuit
    return replace(circuit, hold=None, hold_reason="", version=circuit.version + 1)


def disable(circuit: Circuit, reason: str = BY_OPERATOR) -> Circuit:
    """Hold all deliveries until `enable`."""
    if circuit.hold is Hold.DISABLED:
        return circuit
    return replace(circuit, hold=Hold.DISABLED, hold_reason=reason, version=circuit.version + 1)


def enable(circuit: Circuit) -> Circuit:
    """Enable a disabled endpoint with a closed circuit: earlier failures no longer count."""
    if circuit.hold is not Hold.DISABLED:
        return circuit
    return _closed(replace(circuit, hold=None, hold_reason=""))


def _open(circuit: Circuit, now: datetime, policy: CircuitPolicy, draw: float) -> Circuit:
    return replace(
        circuit,
        state=CircuitState.OPEN,
        openings=circuit.openings + 1,
        until=now + _cooldown(policy, circuit.openings) * (1 + policy.jitter * draw),
    )


def _cooldown(policy: CircuitPolicy, relapses: int) -> timedelta:
    return min(policy.cooldown * (1 << max(0, min(relapses, 32))), policy.cooldown_max)


def _closed(circuit: Circuit) -> Circuit:
    return replace(
        circuit,
        state=CircuitState.CLOSED,
        failures=0,
        failing_since=None,
        openings=0,
        until=None,
        version=circuit.version + 1,
    )
