"""The payloads of reminders and escalations, parsed and checked. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from everhook.ids import Kind, is_gid

LONGEST = timedelta(days=366)
MAX_REMINDERS = 100

_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")


class InvalidPayload(Exception):
    """A payload that a handler cannot act on. The text names the field, and holds no value of the payload."""


@dataclass(frozen=True)
class Reminder:
    """Remind `notify` at `count` times, from `first` on, until `until` is settled."""

    first: datetime
    every: timedelta
    count: int
    until: str
    notify: str

    def due(self, number: int) -> datetime:
        """When the reminder with this number is due, counted from 0."""
        return self.first + self.every * number

    def latest_due(self, moment: datetime) -> int | None:
        """The number of the latest reminder that is due at a moment; None before the first."""
        if moment < self.first:
            return None
        return min((moment - self.first) // self.every, self.count - 1) if self.every else 0


@dataclass(frozen=True)
class Escalation:
    """Publish `payload` to `channel` unless `watch` is delivered `after` the acceptance."""

    watch: str
    after: timedelta
    channel: str
    event_type: str
    payload: Any


def parse_reminder(content: Any, accepted_at: datetime) -> Reminder:
    """Raises InvalidPayload."""
    members = _members(content, "", {"at", "afterSeconds", "everySeconds", "max", "until", "notify"})
    if ("at" in members) is ("afterSeconds" in members):
        raise InvalidPayload("at, afterSeconds: give one of them")
    first = _time(members["at"]) if "at" in members else _seconds(members["afterSeconds"], "afterSeconds", 0)
    every, count = timedelta(), 1
    if "everySeconds" in members:
        every, count = _seconds(members["everySeconds"], "everySeconds", 1), MAX_REMINDERS
    if "max" in members:
        count = _count(members["max"])
        if count > 1 and not every:
            raise InvalidPayload("everySeconds: is required for more than one reminder")
    until = members.get("until")
    if not (_is_gid(until, Kind.MESSAGE) or _is_gid(until, Kind.TASK)):
        raise InvalidPayload("until: is the gid of a message (msg_…) or of a task (tsk_…)")
    if not _is_gid(members.get("notify"), Kind.ENDPOINT):
        raise InvalidPayload("notify: is the gid of an endpoint (ep_…)")
    start = first if isinstance(first, datetime) else accepted_at + first
    if start - accepted_at + every * (count - 1) > LONGEST:
        raise InvalidPayload(f"the last reminder is more than {LONGEST.days} days after the acceptance")
    return Reminder(start, every, count, members["until"], members["notify"])


def parse_escalation(content: Any) -> Escalation:
    """Raises InvalidPayload."""
    members = _members(content, "", {"watch", "unless", "afterSeconds", "then"})
    if not _is_gid(members.get("watch"), Kind.MESSAGE):
        raise InvalidPayload("watch: is the gid of a message (msg_…)")
    if members.get("unless") != "delivered":
        raise InvalidPayload("unless: is `delivered`")
    after = _seconds(members.get("afterSeconds"), "afterSeconds", 0)
    then = _members(members.get("then"), "then", {"channel", "type", "payload"})
    channel, event_type = then.get("channel"), then.get("type")
    if not isinstance(channel, str) or not channel:
        raise InvalidPayload("then.channel: is the name of a channel")
    if not isinstance(event_type, str) or not _TYPE.fullmatch(event_type):
        raise InvalidPayload("then.type: takes letters, digits and . _ / : - (128 at most)")
    if "payload" not in then:
        raise InvalidPayload("then.payload: is required")
    return Escalation(members["watch"], after, channel, event_type, then["payload"])


def _is_gid(value: Any, kind: Kind) -> bool:
    return isinstance(value, str) and is_gid(value, kind)


def _members(value: Any, place: str, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidPayload(f"{place or 'the payload'}: is an object")
    if set(value) - names:
        expected = ", ".join(sorted(names))
        raise InvalidPayload(f"{place or 'the payload'}: has a member that is none of {expected}")
    return value


def _seconds(value: Any, name: str, least: int) -> timedelta:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= LONGEST.total_seconds():
        raise InvalidPayload(f"{name}: is a number of seconds from {least} to {LONGEST.total_seconds():.0f}")
    return timedelta(seconds=value)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_REMINDERS:
        raise InvalidPayload(f"max: is an integer from 1 to {MAX_REMINDERS}")
    return value


def _time(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("naive")
        return moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise InvalidPayload("at: is a time with its offset from UTC, such as 2026-12-01T09:00:00Z") from None
