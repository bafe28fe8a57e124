"""Event-type patterns and payload filters."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everhook.publishing.matching import (
    MAX_FILTER_CONDITIONS,
    MAX_FILTER_DEPTH,
    ListIndex,
    check_filter,
    compile_filter,
    matches_type,
    split_path,
)

ORDER: dict[str, Any] = {
    "id": 7,
    "paid": True,
    "amount": 12.5,
    "currency": "EUR",
    "note": None,
    "lines": [{"sku": "a-1", "count": 2}, {"sku": "b-2", "count": 0}],
    "customer": {"name": "Zoë", "tags": ["vip", "new"], "address": {}},
    "0": "zero",
    "v1.2": {"$ref": "x", "a\\b": 1},
    "$top": "key",
    "huge": 2**64 + 1,
    "tiny": -(2**63) - 1,
    "ten": [1, 2.5, True, "1", None, {"a": 1}, 10**23],
}


def matches_filter(payload: Any, conditions: dict[str, Any] | None) -> bool:
    compiled = compile_filter(conditions)
    return compiled is None or compiled.matches(payload)


@pytest.mark.parametrize(
    ("event_type", "patterns", "matches"),
    [
        ("order.created", [], True),
        ("order.created", ["*"], True),
        ("order.created", ["order.created"], True),
        ("order.created", ["order.*"], True),
        ("order.item.added", ["order.*"], True),
        ("order.item.added", ["order.item.*"], True),
        ("order.created", ["invoice.*", "order.created"], True),
        ("order.created", ["invoice.*"], False),
        ("order.created", ["order"], False),
        ("order", ["order.*"], False),
        ("orders.created", ["order.*"], False),
        ("order.created", ["order.create"], False),
        ("order.created", ["ORDER.*"], False),
        ("order.created", ["*.created"], True),
        ("order.item.created", ["*.created"], False),
        ("created", ["*.created"], False),
        ("device.7.temperature", ["device.*.temperature"], True),
        ("device.7.8.temperature", ["device.*.temperature"], False),
        ("device.7.humidity", ["device.*.temperature"], False),
        ("order.item.added", ["order.**"], True),
        ("order", ["order.**"], False),
        ("order.item.added", ["*.item.**"], True),
        ("order.item.added", ["*.*"], True),
        ("order", ["*.*"], False),
        ("order", ["**"], True),
        ("order.created", ["order*"], False),
        ("order.created", ["order.cre*"], False),
        ("order.", ["order.*"], True),
        ("*", ["order.*"], False),
    ],
)
def test_a_type_fits_a_pattern(event_type: str, patterns: list[str], matches: bool) -> None:
    assert matches_type(event_type, patterns) is matches


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        (None, True),
        ({}, True),
        # equality, and JSON's own notion of it
        ({"id": 7}, True),
        ({"id": 7.0}, True),
        ({"id": "7"}, False),
        ({"id": 8}, False),
        ({"paid": True}, True),
        ({"paid": 1}, False),
        ({"paid": False}, False),
        ({"note": None}, True),
        ({"note": False}, False),
        ({"missing": None}, False),
        ({"id": 7, "currency": "EUR"}, True),
        ({"id": 7, "currency": "USD"}, False),
        ({"customer.tags": ["vip", "new"]}, True),
        ({"customer.tags": ["new", "vip"]}, False),
        # paths
        ({"customer.name": "Zoë"}, True),
        ({"customer.missing.deeper": 1}, False),
        ({"currency.length": 3}, False),
        ({"lines.0.sku": "a-1"}, True),
        ({"lines.1.count": 0}, True),
        ({"lines.2.sku": "a-1"}, False),
        ({"lines.-1.sku": "b-2"}, False),
        ({"lines.sku": "a-1"}, False),
        ({"lines.²": 1}, False),
        ({"0": "zero"}, True),
        ({"": 1}, False),
        ({"customer.": 1}, False),
        # $eq $ne
        ({"id": {"$eq": 7}}, True),
        ({"id": {"$eq": True}}, False),
        ({"customer.address": {"$eq": {}}}, True),
        ({"id": {"$ne": 8}}, True),
        ({"id": {"$ne": 7}}, False),
        ({"missing": {"$ne": 7}}, True),
        # $in
        ({"currency": {"$in": ["USD", "EUR"]}}, True),
        ({"currency": {"$in": ["USD"]}}, False),
        ({"currency": {"$in": []}}, False),
        ({"paid": {"$in": [1]}}, False),
        ({"note": {"$in": [None]}}, True),
        ({"missing": {"$in": [None]}}, False),
        # $gt $gte $lt $lte
        ({"amount": {"$gt": 12}}, True),
        ({"amount": {"$gt": 12.5}}, False),
        ({"amount": {"$gte": 12.5}}, True),
        ({"amount": {"$gte": 12.6}}, False),
        ({"amount": {"$lt": 13}}, True),
        ({"amount": {"$lt": 12.5}}, False),
        ({"amount": {"$lte": 12.5}}, True),
        ({"amount": {"$lte": 12.4}}, False),
        ({"amount": {"$gt": 10, "$lt": 20}}, True),
        ({"amount": {"$gt": 10, "$lt": 11}}, False),
        ({"amount": {"$lt": 10**400}}, True),
        ({"currency": {"$gt": "EUQ"}}, True),
        ({"currency": {"$gt": 1}}, False),
        ({"amount": {"$gt": "1"}}, False),
        ({"paid": {"$gt": 0}}, False),
        ({"missing": {"$lt": 1}}, False),
        # integers are exact however large, and doubles are doubles
        ({"huge": 2**64 + 1}, True),
        ({"huge": 2**64}, False),
        ({"huge": {"$gt": 2**64}}, True),
        ({"huge": {"$gt": 2**64 + 1}}, False),
        ({"huge": {"$in": [2**64, 2**64 + 2]}}, False),
        ({"huge": {"$in": [1, 2**64 + 1]}}, True),
        ({"huge": float(2**64)}, True),
        ({"huge": {"$in": [float(2**64)]}}, True),
        ({"tiny": -(2**63) - 1}, True),
        ({"tiny": -(2**63) - 2}, False),
        ({"tiny": {"$lt": -(2**63)}}, True),
        # $contains
        ({"ten": {"$contains": 2.5}}, True),
        ({"ten": {"$contains": 1.0}}, True),
        ({"ten": {"$contains": "1"}}, True),
        ({"ten": {"$contains": None}}, True),
        ({"ten": {"$contains": True}}, True),
        ({"ten": {"$contains": False}}, False),
        ({"ten": {"$contains": 10**23}}, True),
        ({"ten": {"$contains": 1e23}}, True),
        ({"ten": {"$contains": 10**23 + 1}}, False),
        ({"customer.tags": {"$contains": "vip"}}, True),
        ({"customer.tags": {"$contains": "vi"}}, False),
        ({"currency": {"$contains": "E"}}, False),
        ({"customer": {"$contains": "name"}}, False),
        ({"missing": {"$contains": None}}, False),
        # keys with dots, dollars and backslashes
        ({r"v1\.2.$ref": "x"}, True),
        ({r"v1\.2.\$ref": "x"}, True),
        ({r"v1\.2.a\\b": 1}, True),
        ({"v1.2.$ref": "x"}, False),
        ({r"\$top": "key"}, True),
        # $exists
        ({"note": {"$exists": True}}, True),
        ({"note": {"$exists": False}}, False),
        ({"missing": {"$exists": False}}, True),
        ({"missing": {"$exists": True}}, False),
        ({"lines.1": {"$exists": True}}, True),
        # $prefix
        ({"currency": {"$prefix": "EU"}}, True),
        ({"currency": {"$prefix": ""}}, True),
        ({"currency": {"$prefix": "UR"}}, False),
        ({"id": {"$prefix": "7"}}, False),
        ({"missing": {"$prefix": ""}}, False),
        # $any $all $not
        ({"$any": [{"id": 8}, {"currency": "EUR"}]}, True),
        ({"$any": [{"id": 8}, {"currency": "USD"}]}, False),
        ({"$all": [{"id": 7}, {"currency": "EUR"}]}, True),
        ({"$all": [{"id": 7}, {"currency": "USD"}]}, False),
        ({"$not": {"id": 8}}, True),
        ({"$not": {"id": 7}}, False),
        ({"$not": {}}, False),
        ({"$not": {"$any": [{"id": 1}, {"$not": {"paid": True}}]}}, True),
        ({"id": 7, "$not": {"paid": True}}, False),
    ],
)
def test_a_filter_holds_where_all_its_conditions_do(conditions: dict[str, Any] | None, matches: bool) -> None:
    if conditions is not None:
        check_filter(conditions)
    assert matches_filter(ORDER, conditions) is matches


@pytest.mark.parametrize("payload", [None, True, 0, 1.5, "text", [], ["text"]])
def test_a_payload_that_is_no_object_has_nothing_at_any_name(payload: Any) -> None:
    assert not matches_filter(payload, {"id": {"$exists": True}})
    assert matches_filter(payload, {"id": {"$exists": False}})
    assert matches_filter(payload, {})


def nested(depth: int) -> dict[str, Any]:
    conditions: dict[str, Any] = {"id": 7}
    for _ in range(depth):
        conditions = {"$not": conditions}
    return conditions


def test_a_filter_may_be_as_deep_and_long_as_the_limits() -> None:
    check_filter(nested(MAX_FILTER_DEPTH))
    check_filter({f"path{n}": n for n in range(MAX_FILTER_CONDITIONS)})
    check_filter({"$any": [{"id": n} for n in range(MAX_FILTER_CONDITIONS)]})


@pytest.mark.parametrize(
    ("conditions", "because"),
    [
        (None, "a filter is an object"),
        ([], "a filter is an object"),
        ("id", "a filter is an object"),
        (7, "a filter is an object"),
        ({"$any": []}, r"\$any takes a list"),
        ({"$any": {"id": 1}}, r"\$any takes a list"),
        ({"$all": "id"}, r"\$all takes a list"),
        ({"$all": [1]}, "a filter is an object"),
        ({"$any": [{"id": 1}] * (MAX_FILTER_CONDITIONS + 1)}, r"\$any takes a list"),
        ({"$not": [{"id": 1}]}, "a filter is an object"),
        ({"$not": {"$nor": []}}, r"\$nor is not an operator"),
        ({"$where": "1 == 1"}, r"\$where is not an operator"),
        ({"$gt": 1}, r"\$gt is not an operator here; a key that begins with \$ is written \\\$gt"),
        ({"id": {"$regex": ".*"}}, r"id: \$regex is not an operator; use \$eq"),
        ({"id": {"gt": 1}}, "id: gt is not an operator"),
        ({"id": {"$gt": 1, "and": 2}}, "id: and is not an operator"),
        ({"id": {"$in": "EUR"}}, r"id: \$in takes a list"),
        ({"id": {"a": 1}}, r"id: a is not an operator; .*path id\.a"),
        *(
            ({"id": {name: operand}}, rf"id: \{name} takes a number or a string")
            for name in ("$gt", "$gte", "$lt", "$lte")
            for operand in (None, True, {}, {"a": 1}, [1])
        ),
        ({"id": {"$contains": []}}, r"id: \$contains takes a string, a number, true, false or null"),
        ({"id": {"$contains": {}}}, r"id: \$contains takes"),
        ({r"a\b": 1}, r"a backslash can only stand before"),
        ({"a\\": 1}, r"a backslash can only stand before"),
        ({"id": {"$exists": 1}}, r"id: \$exists takes true or false"),
        ({"id": {"$prefix": 7}}, r"id: \$prefix takes a string"),
        ({"id": {"$not": {"$eq": 1}}}, r"id: \$not is not an operator"),
        (nested(MAX_FILTER_DEPTH + 1), "nested too deeply"),
        (nested(5_000), "nested too deeply"),
        ({f"path{n}": n for n in range(MAX_FILTER_CONDITIONS + 1)}, "too long"),
    ],
)
def test_an_invalid_filter_is_refused_with_the_reason(conditions: Any, because: str) -> None:
    with pytest.raises(ValueError, match=because):
        check_filter(conditions)


_NAMES = st.sampled_from(["a", "b", "0", "1", "c d", "é", "²", "٣", ""]) | st.text(max_size=3)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4))
_PATHS = st.lists(_NAMES.filter(lambda name: not name.startswith("$")), min_size=1, max_size=4).map(".".join)
_ORDERED = st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
_OPERATIONS = st.fixed_dictionaries(
    {},
    optional={
        "$eq": _JSON,
        "$ne": _JSON,
        "$in": st.lists(_JSON, max_size=3),
        "$gt": _ORDERED,
        "$gte": _ORDERED,
        "$lt": _ORDERED,
        "$lte": _ORDERED,
        "$contains": _LEAVES,
        "$exists": st.booleans(),
        "$prefix": st.text(max_size=3),
    },
)
_CONDITIONS = st.dictionaries(_PATHS.filter(lambda path: not path.startswith("$")), _JSON | _OPERATIONS, max_size=4)
_FILTERS = st.recursive(
    _CONDITIONS,
    lambda inner: st.builds(
        lambda plain, combined: {**plain, **combined},
        _CONDITIONS,
        st.fixed_dictionaries(
            {},
            optional={
                "$any": st.lists(inner, min_size=1, max_size=3),
                "$all": st.lists(inner, min_size=1, max_size=3),
                "$not": inner,
            },
        ),
    ),
    max_leaves=6,
)


def is_checked(conditions: Any) -> bool:
    try:
        check_filter(conditions)
    except ValueError:
        return False
    return True


PATIENT = settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
"""On a busy machine a draw takes long, and that says nothing of the code."""


@PATIENT
@given(payload=_JSON, conditions=_FILTERS.filter(is_checked))
def test_a_checked_filter_returns_true_or_false_for_any_payload(payload: Any, conditions: dict[str, Any]) -> None:
    matches = matches_filter(payload, conditions)
    assert matches in (True, False)
    assert matches_filter(payload, {"$not": conditions}) is not matches
    assert matches_filter(payload, {"$any": [conditions, conditions]}) is matches
    assert matches_filter(payload, json.loads(json.dumps(conditions))) is matches  # as the database stores it


@given(_JSON)
def test_anything_at_all_is_taken_or_refused_as_a_filter(conditions: Any) -> None:
    assert is_checked(conditions) in (True, False)


def test_an_absurd_index_is_refused_or_matches_nothing() -> None:
    conditions = {"a." + "9" * 5_000: 1}
    assert not is_checked(conditions)
    assert not matches_filter({"a": [1]}, conditions)


def test_true_is_not_one_at_any_depth() -> None:
    assert not matches_filter({"a": [True]}, {"a": [1]})


@given(st.text(alphabet="ab.$\\", max_size=8))
def test_every_key_can_be_named(key: str) -> None:
    path = "".join("\\" + char if char in ".$\\" else char for char in key)
    assert split_path(path, strict=True) == [key]
    check_filter({path: 1})
    assert matches_filter({key: 1}, {path: 1})


def test_stored_filters_that_would_now_be_refused_are_still_matched() -> None:
    assert not matches_filter(ORDER, {"note": {"$gt": None}})
    assert matches_filter({r"a\b": 1}, {r"a\b": 1})


class Counted(list[Any]):
    """A list that counts how often it is read."""

    reads = 0

    def __iter__(self) -> Any:
        self.reads += 1
        return super().__iter__()


def test_a_list_of_a_payload_is_read_once_for_all_filters() -> None:
    members, lists = Counted(range(1_000)), ListIndex()
    filters = [compile_filter({"ids": {"$contains": number}}) for number in range(990, 1_010)]

    holding = [found for found in filters if found is not None and found.matches({"ids": members}, lists)]

    first = Counted(range(1_000))
    ListIndex().scalars_of(first)
    assert (len(holding), members.reads) == (10, first.reads)


def test_the_cost_of_a_filter_grows_with_all_that_it_compares() -> None:
    def cost(conditions: dict[str, Any]) -> int:
        compiled = compile_filter(conditions)
        assert compiled is not None
        return compiled.cost

    assert cost({"a": 1}) < cost({"a.b.c": 1}) < cost({"a.b.c": 1, "d": 1}) < cost({"$any": [{"a.b.c": 1, "d": 1}] * 9})
    assert cost({"a": {"$in": list(range(500))}}) == cost({"a": {"$in": []}}), "they are looked up in a set"
    assert cost({"a": {"$in": [{"b": number} for number in range(500)]}}) > 500
    assert cost({"a": {"$eq": {"b": list(range(500))}}}) > 500


def test_an_empty_object_is_not_a_condition() -> None:
    assert not is_checked({"a": {}})
