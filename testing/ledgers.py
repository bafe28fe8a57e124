"""The checker of "nothing accepted is ever lost": it compares three independent ledgers.

What the publisher got `202` for, what arrived at the receiver (which ids, which bytes, which response), and what the
database says after the drain. `compare` reads the database and hands over to `check`, which is pure.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from testing.arrivals import ArrivalLine, place_of, read_arrivals, sha256

_SHOWN = 5
_DELIVERED = "delivered"
_KEPT_OR_DROPPED = {"dead_lettered", "discarded"}
_FINISHED = {_DELIVERED, *_KEPT_OR_DROPPED}


@dataclass(frozen=True)
class AckedDelivery:
    """`delivery_gid` is empty for a scheduled message, whose deliveries are created at its time."""

    delivery_gid: str
    endpoint_gid: str
    url: str


@dataclass(frozen=True)
class Ack:
    """A publish that got a `202`: what was promised. Times in seconds: wall clock (`at`, `not_before`), else monotonic.

    `due` is when an open-loop schedule wanted it sent (else when it was sent first), `responded` when the `202` came,
    `tries` the number of requests. `not_before` is the `deliverAt` of a scheduled message, `group` its `groupKey`.
    """

    key: str
    message_gid: str
    payload_sha256: str
    deliveries: tuple[AckedDelivery, ...]
    duplicate: bool = False
    tries: int = 1
    due: float = 0.0
    sent: float = 0.0
    responded: float = 0.0
    at: float = 0.0
    not_before: float = 0.0
    group: str | None = None
    retry: bool = True


@dataclass(frozen=True)
class PublishWithoutResponse:
    """A publish that never got a response: it may or may not have been accepted, and may or may not arrive."""

    key: str
    payload_sha256: str
    error: str


@dataclass
class PublisherLedger:
    """What the publisher knows; with `path`, also appended to that file line by line."""

    path: Path | None = None
    acks: list[Ack] = field(default_factory=list)
    without_response: list[PublishWithoutResponse] = field(default_factory=list)
    cancelled: set[str] = field(default_factory=set)

    def acked(self, ack: Ack) -> None:
        self.acks.append(ack)
        self._append({"acked": asdict(ack)})

    def gave_up(self, publish: PublishWithoutResponse) -> None:
        self.without_response.append(publish)
        self._append({"without_response": asdict(publish)})

    def was_cancelled(self, message_gid: str) -> None:
        """The API confirmed that a scheduled message is cancelled."""
        self.cancelled.add(message_gid)
        self._append({"cancelled": message_gid})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def read_publisher_ledger(path: Path) -> PublisherLedger:
    """Inverse of what `PublisherLedger(path)` writes."""
    ledger = PublisherLedger()
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if "acked" in entry:
            ack = entry["acked"]
            deliveries = tuple(AckedDelivery(**delivery) for delivery in ack.pop("deliveries"))
            ledger.acks.append(Ack(**ack, deliveries=deliveries))
        elif "cancelled" in entry:
            ledger.cancelled.add(entry["cancelled"])
        else:
            ledger.without_response.append(PublishWithoutResponse(**entry["without_response"]))
    return ledger


@dataclass(frozen=True)
class DeliveryRow:
    gid: str
    message_gid: str
    endpoint_gid: str
    status: str


@dataclass(frozen=True)
class AttemptRow:
    delivery_gid: str
    round: int
    number: int
    verdict: str
    status_code: int | None


@dataclass(frozen=True)
class Database:
    """What the database says: payload hashes by message gid, and the rows of deliveries and attempts."""

    messages: Mapping[str, str]
    deliveries: Sequence[DeliveryRow]
    attempts: Sequence[AttemptRow]


async def read_database(engine: AsyncEngine) -> Database:
    """By plain SQL on purpose: the product's own queries are what is being checked."""
    async with engine.connect() as connection:
        messages = await connection.execute(text("SELECT gid, payload FROM message"))
        deliveries = await connection.execute(text("SELECT gid, message_gid, endpoint_gid, status FROM delivery"))
        attempts = await connection.execute(
            text("SELECT delivery_gid, round, number, verdict, status_code FROM attempt")
        )
        return Database(
            {row.gid: sha256(_bytes(row.payload)) for row in messages},
            [DeliveryRow(row.gid, row.message_gid, row.endpoint_gid, row.status.lower()) for row in deliveries],
            [AttemptRow(r.delivery_gid, r.round, r.number, r.verdict.lower(), r.status_code) for r in attempts],
        )


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


class Pair(NamedTuple):
    """One message to one endpoint: what is promised, and so what is counted. `place` is `host:port/path`."""

    message_gid: str
    place: str


@dataclass(frozen=True)
class Violation:
    """A breach of what Everhook guarantees, for one message and endpoint."""

    message_gid: str
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.message_gid} -> {self.place}: {self.what}"


@dataclass(frozen=True)
class Report:
    """The comparison. `promised` counts the acknowledged (message, endpoint) pairs, `arrivals` all requests.

    - `lost`: promised but not delivered according to any ledger; or said to be delivered, and never arrived.
    - `corrupt`: bytes other than the published ones arrived, or lie in the database.
    - `unknown`: arrived though never promised (nor possibly accepted by a publish that got no response), or cancelled.
    - `broken`: arrived before its time, or out of the order of its group; or `"retry": false` with a second attempt.
    - `unfinished`: delivery rows that are neither delivered, dead-lettered nor discarded.
    - `dead_lettered`: promised pairs that ended as dead letters or discarded. With `"retry": false` that is no loss.
    - `duplicated`: per pair, how often a receiver would have acted on it beyond the once. Requests that the script
      refused (a status other than 2xx, or a fault) are retries and do not count.
    - `unrecorded`: delivered rows without a recorded delivered attempt, or with more arrivals than attempts.
    """

    promised: int
    arrivals: int
    lost: list[Violation]
    corrupt: list[Violation]
    unknown: list[Violation]
    broken: list[Violation]
    unfinished: list[Violation]
    dead_lettered: list[Violation]
    unrecorded: list[Violation]
    duplicated: dict[Pair, int]

    @property
    def duplicates(self) -> int:
        return sum(self.duplicated.values())

    def assert_nothing_lost(self) -> None:
        """Raise AssertionError that names the first few violations of each kind."""
        self._assert_none("lost", "corrupt", "unknown", "broken", "unfinished")

    def assert_all_recorded(self) -> None:
        """Each request has its attempt in the database. After `kill -9` in mid-request that is not promised."""
        self._assert_none("unrecorded")

    def assert_no_duplicates(self, allowed: Iterable[str] = ()) -> None:
        """`allowed`: message gids that were in flight when something was killed."""
        permitted = set(allowed)
        violations = [f"{p.message_gid} -> {p.place}: {n} too many" for p, n in self.duplicated.items()]
        violations = [line for line in violations if line.partition(" ")[0] not in permitted]
        if violations:
            raise AssertionError("\n".join([str(self), *_first("duplicated", violations)]))

    def _assert_none(self, *kinds: str) -> None:
        found = [line for kind in kinds for line in _first(kind, getattr(self, kind))]
        if found:
            raise AssertionError("\n".join([str(self), *found]))

    def __str__(self) -> str:
        kinds = ("lost", "corrupt", "unknown", "broken", "unfinished", "dead_lettered", "unrecorded")
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)
        return f"{self.promised} promised, {self.arrivals} arrivals: {counts}, {self.duplicates} duplicated"


def _first(kind: str, violations: Sequence[object]) -> list[str]:
    lines = [f"  {kind}: {violation}" for violation in violations[:_SHOWN]]
    more = len(violations) - _SHOWN
    return [*lines, f"  {kind}: … and {more} more"] if more > 0 else lines


async def compare(
    publisher: PublisherLedger | Iterable[Ack] | Path,
    arrivals: Iterable[ArrivalLine] | Path,
    engine: AsyncEngine,
    *,
    dead_letters_allowed: bool = False,
    endpoints: Mapping[str, str] | None = None,
) -> Report:
    """Compare the three ledgers. Call it after the drain; a Path is a ledger file.

    With `endpoints` (gid -> URL) only what concerns these: other tests have theirs on the same stack.
    """
    lines = read_arrivals(arrivals) if isinstance(arrivals, Path) else arrivals
    database = await read_database(engine)
    if endpoints is not None:
        places = {place_of(url) for url in endpoints.values()}
        lines = [line for line in lines if line.place in places]
        database = replace(database, deliveries=[row for row in database.deliveries if row.endpoint_gid in endpoints])
    return check(_publisher_ledger(publisher), lines, database, dead_letters_allowed=dead_letters_allowed)


def _publisher_ledger(publisher: PublisherLedger | Iterable[Ack] | Path) -> PublisherLedger:
    if isinstance(publisher, PublisherLedger):
        return publisher
    return read_publisher_ledger(publisher) if isinstance(publisher, Path) else PublisherLedger(acks=list(publisher))


def check(
    publisher: PublisherLedger,
    arrivals: Iterable[ArrivalLine],
    database: Database,
    *,
    dead_letters_allowed: bool = False,
) -> Report:
    """The comparison itself. With `dead_letters_allowed` a promised pair may end as a dead letter or discarded.

    Raises ValueError if two endpoints of one message have the same URL: then an arrival does not say whose it is.
    """
    return _Check(publisher, list(arrivals), database, dead_letters_allowed).report()


class _Check:
    def __init__(
        self, publisher: PublisherLedger, arrivals: list[ArrivalLine], database: Database, dead_letters_allowed: bool
    ) -> None:
        self._dead_letters_allowed = dead_letters_allowed
        self._database = database
        self._arrivals = arrivals
        self._hashes = {ack.message_gid: ack.payload_sha256 for ack in publisher.acks}
        self._hashes_without_response = {publish.payload_sha256 for publish in publisher.without_response}
        self._cancelled = publisher.cancelled
        self._acks = {ack.message_gid: ack for ack in publisher.acks if ack.message_gid not in publisher.cancelled}
        self._promised = _promises(self._acks.values())
        self._places = {d.endpoint_gid: place_of(d.url) for ack in publisher.acks for d in ack.deliveries}
        self._rows = {row.gid: row for row in database.deliveries}
        self._rows_of = {(row.message_gid, row.endpoint_gid): row for row in database.deliveries}
        self._by_pair: dict[Pair, list[ArrivalLine]] = defaultdict(list)
        for line in arrivals:
            self._by_pair[Pair(line.id, line.place)].append(line)

    def report(self) -> Report:
        return Report(
            promised=len(self._promised),
            arrivals=len(self._arrivals),
            lost=[*self._lost(), *self._never_arrived()],
            corrupt=[*self._corrupt_arrivals(), *self._corrupt_messages()],
            unknown=[*self._unknown(), *self._cancelled_rows()],
            broken=[*self._early(), *self._out_of_order(), *self._repeated()],
            unfinished=[_violation(row, self._place(row), row.status) for row in self._unfinished()],
            dead_lettered=self._dead_lettered(),
            unrecorded=self._unrecorded(),
            duplicated=self._duplicated(),
        )

    def _place(self, row: DeliveryRow) -> str:
        return self._places.get(row.endpoint_gid, row.endpoint_gid)

    def _row(self, pair: Pair, delivery: AckedDelivery) -> DeliveryRow | None:
        if not delivery.delivery_gid:
            return self._rows_of.get((pair.message_gid, delivery.endpoint_gid))
        return self._rows.get(delivery.delivery_gid)

    def _arrived(self, pair: Pair) -> bool:
        return any(line.accepted for line in self._by_pair.get(pair, ()))

    def _lost(self) -> list[Violation]:
        reasons = ((pair, self._why_lost(pair, delivery)) for pair, delivery in self._promised.items())
        return [Violation(*pair, why) for pair, why in reasons if why]

    def _why_lost(self, pair: Pair, delivery: AckedDelivery) -> str | None:
        row = self._row(pair, delivery)
        if pair.message_gid not in self._database.messages:
            return "no message row"
        if row is None:
            return f"no delivery row {delivery.delivery_gid}"
        if (row.message_gid, row.endpoint_gid) != (pair.message_gid, delivery.endpoint_gid):
            return f"row {row.gid} is of {row.message_gid} to {row.endpoint_gid}"
        may_die = self._dead_letters_allowed or not self._acks[pair.message_gid].retry
        if may_die and row.status in _KEPT_OR_DROPPED:
            return None
        if not self._arrived(pair):
            count = len(self._by_pair.get(pair, ()))
            return f"no arrival with a 2xx response ({count} in all); row {row.gid} is {row.status}"
        return None if row.status == _DELIVERED else f"arrived, but row {row.gid} is {row.status}"

    def _never_arrived(self) -> list[Violation]:
        """Rows that no publisher was promised (it got no response) and that claim a delivery which did not happen."""
        known = {(pair.message_gid, delivery.endpoint_gid) for pair, delivery in self._promised.items()}
        return [
            _violation(row, self._place(row), f"row {row.gid} is delivered, and nothing arrived")
            for row in self._database.deliveries
            if (row.message_gid, row.endpoint_gid) not in known
            and row.status == _DELIVERED
            and not self._arrived(Pair(row.message_gid, self._place(row)))
        ]

    def _corrupt_arrivals(self) -> list[Violation]:
        return [
            Violation(line.id, line.place, f"payload sha256 {line.payload_sha256[:12]}… is not {expected[:12]}…")
            for line in self._arrivals
            if (expected := self._hashes.get(line.id, line.payload_sha256)) != line.payload_sha256
        ]

    def _corrupt_messages(self) -> list[Violation]:
        stored = self._database.messages
        return [
            Violation(gid, "database", "the stored payload is not what was published")
            for gid, published in self._hashes.items()
            if gid in stored and stored[gid] != published
        ]

    def _unknown(self) -> list[Violation]:
        return [
            Violation(line.id, line.place, self._why_unknown(line))
            for line in self._arrivals
            if Pair(line.id, line.place) not in self._promised and not self._may_be_accepted(line)
        ]

    def _why_unknown(self, line: ArrivalLine) -> str:
        if line.id in self._cancelled:
            return "was cancelled"
        return "not an endpoint of this message" if line.id in self._hashes else "never acknowledged"

    def _may_be_accepted(self, line: ArrivalLine) -> bool:
        return line.id not in self._hashes and line.payload_sha256 in self._hashes_without_response

    def _cancelled_rows(self) -> list[Violation]:
        rows = [row for row in self._database.deliveries if row.message_gid in self._cancelled]
        return [_violation(row, self._place(row), f"was cancelled, and has row {row.gid}") for row in rows]

    def _early(self) -> list[Violation]:
        times = {ack.message_gid: ack.not_before for ack in self._acks.values()}
        return [
            Violation(line.id, line.place, f"arrived {times[line.id] - line.at:.3f} s before its time")
            for line in self._arrivals
            if line.at < times.get(line.id, 0.0)
        ]

    def _out_of_order(self) -> list[Violation]:
        """Each message of a group arrives after the one before was accepted, or arrived for the last time."""
        violations = []
        for earlier, later in _neighbours(self._acks.values()):
            for delivery in later.deliveries:
                place = place_of(delivery.url)
                before, after = (self._by_pair.get(Pair(ack.message_gid, place), ()) for ack in (earlier, later))
                if before and after and min(line.monotonic for line in after) < _done(before):
                    what = f"arrived before {earlier.message_gid} of its group {later.group} was done"
                    violations.append(Violation(later.message_gid, place, what))
        return violations

    def _repeated(self) -> list[Violation]:
        attempts = Counter((attempt.delivery_gid, attempt.round) for attempt in self._database.attempts)
        single = {ack.message_gid for ack in self._acks.values() if not ack.retry}
        return [
            _violation(row, self._place(row), f"has {count} attempts in round {round} without retries")
            for (gid, round), count in attempts.items()
            if count > 1 and (row := self._rows.get(gid)) is not None and row.message_gid in single
        ]

    def _unfinished(self) -> list[DeliveryRow]:
        return [row for row in self._database.deliveries if row.status not in _FINISHED]

    def _dead_lettered(self) -> list[Violation]:
        rows = ((pair, self._row(pair, delivery)) for pair, delivery in self._promised.items())
        return [Violation(*pair, row.status) for pair, row in rows if row and row.status in _KEPT_OR_DROPPED]

    def _unrecorded(self) -> list[Violation]:
        attempts = Counter(attempt.delivery_gid for attempt in self._database.attempts)
        delivered = {attempt.delivery_gid for attempt in self._database.attempts if attempt.verdict == _DELIVERED}
        violations = []
        for row in self._database.deliveries:
            arrived = len(self._by_pair.get(Pair(row.message_gid, self._place(row)), ()))
            if row.status == _DELIVERED and row.gid not in delivered:
                violations.append(_violation(row, self._place(row), f"row {row.gid} has no delivered attempt"))
            elif arrived > attempts[row.gid]:
                what = f"row {row.gid} has {attempts[row.gid]} attempts for {arrived} arrivals"
                violations.append(_violation(row, self._place(row), what))
        return violations

    def _duplicated(self) -> dict[Pair, int]:
        acted_on = {pair: sum(not line.refused for line in lines) for pair, lines in self._by_pair.items()}
        return {pair: count - 1 for pair, count in acted_on.items() if count > 1}


def _neighbours(acks: Iterable[Ack]) -> Iterator[tuple[Ack, Ack]]:
    """Messages of one group that follow each other: the later one was sent once the earlier one was acknowledged."""
    groups: dict[str, list[Ack]] = defaultdict(list)
    for ack in acks:
        if ack.group is not None and not ack.not_before:  # a scheduled one takes its place at its time
            groups[ack.group].append(ack)
    for group in groups.values():
        group.sort(key=lambda ack: ack.sent)
        yield from ((earlier, later) for earlier, later in pairwise(group) if earlier.responded <= later.sent)


def _done(lines: Sequence[ArrivalLine]) -> float:
    """When a message was accepted first; if it never was, when it arrived last."""
    return min((line.monotonic for line in lines if line.accepted), default=max(line.monotonic for line in lines))


def _promises(acks: Iterable[Ack]) -> dict[Pair, AckedDelivery]:
    promised: dict[Pair, AckedDelivery] = {}
    for ack in acks:
        for delivery in ack.deliveries:
            pair = Pair(ack.message_gid, place_of(delivery.url))
            if promised.setdefault(pair, delivery).endpoint_gid != delivery.endpoint_gid:
                raise ValueError(f"two endpoints have the URL {delivery.url}: give each a path of its own")
    return promised


def _violation(row: DeliveryRow, place: str, what: str) -> Violation:
    return Violation(row.message_gid, place, what)
