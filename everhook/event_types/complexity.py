"""How often the subschemas of a schema may check one value of a payload. Pure.

That can be exponential in the size of a schema, when its subschemas refer to each other in several ways.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from everhook.errors import InvalidField
from everhook.event_types.keywords import (
    REFERENCES,
    each,
    mapping,
    of_item,
    of_member,
    of_parts,
    of_same_value,
    one,
    target_of,
)

MAX_CHECKS = 1_000
"""How many checks of a schema may apply to one value of a payload."""
MAX_PLACES = 5_000
MAX_STEPS = 500_000
"""Bounds of the analysis itself: places in payloads that differ in what applies there, and steps of counting."""

TOO_COMPLEX = "is too complex: its subschemas combine in too many ways"
_COSTLY_MEMBER = 20
"""To compare with a container in an `enum` takes as long as so many checks."""

_Applied = Counter[int]
"""Subschemas, by their ids, and how often each applies to a value."""


@dataclass(frozen=True)
class _Place:
    """A kind of place in payloads. `path`: how it is reached; a name, or a container whose members are alike."""

    path: tuple[str, ...]
    cost: int


ITEMS, MEMBERS = "[]", "{}"


class Explorer:
    """Visits each kind of place in payloads, with all subschemas that apply there at once.

    A recursive subschema counts once for each value, because the library remembers what it found for the value. So
    recursive schemas have finitely many kinds of places.
    """

    def __init__(self, document: Mapping[str, Any] | bool, field: str) -> None:
        self._document, self._field = document, field
        self._nodes: dict[int, Any] = {}
        self._known: dict[int, _Applied] = {}
        self._places: list[_Place] = []
        self._steps = 0
        self._recursive = self._recursive_targets()

    def run(self) -> None:
        """Raises InvalidField."""
        waiting: deque[tuple[_Applied, tuple[str, ...]]] = deque([(Counter([self._id(self._document)]), ())])
        seen: set[frozenset[tuple[int, int]]] = set()
        while waiting:
            applied, path = waiting.popleft()
            key = frozenset(applied.items())
            if not applied or key in seen:
                continue
            seen.add(key)
            if len(seen) > MAX_PLACES:
                raise self._too_complex()
            every = self._expanded(applied)
            cost = sum(count * self._cost(self._nodes[node]) for node, count in every.items())
            if cost > MAX_CHECKS:
                raise self._too_costly(path, cost)
            self._places.append(_Place(path, cost))
            waiting += [(members, (*path, step)) for step, members in self._members(every)]

    def costly_places(self) -> list[tuple[str, ...]]:
        """Where many values can be alike and each takes many checks: the three most expensive ones."""
        repeated = [place for place in self._places if place.path and place.path[-1] in (ITEMS, MEMBERS)]
        return [place.path for place in sorted(repeated, key=lambda place: -place.cost)[:3]]

    def _id(self, node: Any) -> int:
        self._nodes[id(node)] = node
        return id(node)

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise self._too_complex()

    def _recursive_targets(self) -> frozenset[int]:
        """The targets of references that lead back to themselves. Raises InvalidField for one that does so without
        going into a value: it would never end."""
        same: dict[int, list[int]] = {}
        inner: dict[int, list[int]] = {}
        targets: set[int] = set()
        waiting = [self._id(self._document)]
        while waiting:
            node = waiting.pop()
            if node in same or not isinstance(self._nodes[node], dict):
                continue
            schema = self._nodes[node]
            targets |= (found := {self._id(target) for target in self._targets(schema)})
            same[node] = [self._id(each) for each in of_same_value(schema)] + list(found)
            inner[node] = [self._id(each) for each in of_parts(schema)]
            self._count(1 + len(same[node]) + len(inner[node]))
            waiting += same[node] + inner[node]
        try:
            TopologicalSorter(same).prepare()
        except CycleError as error:
            raise InvalidField(
                self._field, "has a reference that leads back to itself without going into a value"
            ) from error
        every = {node: same[node] + inner[node] for node in same}
        return frozenset(target for target in targets if self._leads_back(target, every))

    def _leads_back(self, target: int, every: Mapping[int, Sequence[int]]) -> bool:
        seen: set[int] = set()
        waiting = list(every.get(target, ()))
        while waiting:
            node = waiting.pop()
            if node == target:
                return True
            if node not in seen:
                seen.add(node)
                waiting += every.get(node, ())
                self._count(1)
        return False

    def _targets(self, schema: Mapping[str, Any]) -> Iterator[Any]:
        for keyword in REFERENCES:
            if isinstance(schema.get(keyword), str):
                yield target_of(self._document, schema[keyword])

    def _expanded(self, applied: _Applied) -> _Applied:
        """With the subschemas that apply to the same value."""
        every: _Applied = Counter()
        once: set[int] = set()
        waiting = [applied]
        while waiting:
            for node, count in waiting.pop().items():
                for inner, times in self._closure(node).items():
                    if inner not in self._recursive or inner == node:
                        every[inner] += count * times
                    elif inner not in once:
                        once.add(inner)
                        waiting.append(Counter([inner]))
        return every

    def _closure(self, node: int) -> _Applied:
        """A subschema, and those that it applies to the same value, up to recursive ones. One with `unevaluated…`
        applies them twice."""
        if node in self._known:
            return self._known[node]
        schema = self._nodes[node]
        every: _Applied = Counter()
        if isinstance(schema, dict):
            for inner in [*of_same_value(schema), *self._targets(schema)]:
                every.update([id(inner)] if id(inner) in self._recursive else self._closure(id(inner)))
                self._count(len(every))
                if sum(every.values()) > MAX_CHECKS:
                    raise self._too_costly((), sum(every.values()))
            if "unevaluatedProperties" in schema or "unevaluatedItems" in schema:
                every = Counter({inner: 2 * count for inner, count in every.items()})
        every[node] += 1
        self._known[node] = every
        return every

    def _members(self, every: _Applied) -> Iterator[tuple[str, _Applied]]:
        """What applies to the members of a value that `every` applies to, by kind of member."""
        schemas = [(self._nodes[node], count) for node, count in every.items() if isinstance(self._nodes[node], dict)]
        names = sorted({name for schema, _ in schemas for name in mapping(schema.get("properties"))})
        longest = max((len(each(schema.get("prefixItems"))) for schema, _ in schemas), default=0)
        self._count(len(schemas) * (1 + len(names) + longest))
        for name in names:
            yield name, self._together((of_member(schema, name), count) for schema, count in schemas)
        yield MEMBERS, self._together((of_member(schema, None), count) for schema, count in schemas)
        yield "(name)", self._together((one(schema, "propertyNames"), count) for schema, count in schemas)
        for index in range(longest):
            yield ITEMS, self._together((of_item(schema, index), count) for schema, count in schemas)
        yield ITEMS, self._together((of_item(schema, None), count) for schema, count in schemas)

    def _together(self, found: Iterator[tuple[Sequence[Any], int]]) -> _Applied:
        applied: _Applied = Counter()
        for schemas, count in found:
            for schema in schemas:
                applied[self._id(schema)] += count
        return applied

    def _cost(self, schema: Any) -> int:
        if not isinstance(schema, dict):
            return 1
        containers = sum(isinstance(member, dict | list) for member in each(schema.get("enum")))
        return 1 + containers * _COSTLY_MEMBER + len(mapping(schema.get("patternProperties")))

    def _too_costly(self, path: Sequence[str], cost: int) -> InvalidField:
        where = "".join(step if step in (ITEMS, MEMBERS) else f".{step}" for step in path[:8])
        return InvalidField(
            self._field,
            f"may take too long: one value (payload{where}) is checked {cost} times or more, and at most {MAX_CHECKS} "
            "checks are accepted",
            "too_slow",
        )

    def _too_complex(self) -> InvalidField:
        return InvalidField(self._field, TOO_COMPLEX, "too_slow")
