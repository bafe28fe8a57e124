"""Ids sort by time, follow the TypeID specification, and can be parsed back."""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everhook.ids import (
    Kind,
    delivery_gid_of,
    delivery_workflow_id,
    endpoint_gid_of,
    endpoint_workflow_id,
    erased_tenant_gid_of,
    erasure_workflow_id,
    first_gid_at,
    is_gid,
    moment_of,
    new_gid,
    replay_batch_gid_of,
    replay_workflow_id,
    trace_id,
)
from everhook.storage.tables import DEFAULT_TENANT_GID

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
KINDS = list(Kind)


def uuid_of(gid: str) -> UUID:
    """A TypeID's UUID, decoded as its specification says: 26 digits of 5 bits, the first of 3."""
    number = 0
    for digit in gid.split("_")[1]:
        number = number * 32 + CROCKFORD.index(digit)
    return UUID(int=number)


def test_ids_of_one_process_sort_in_the_order_of_their_creation() -> None:
    made = [new_gid(Kind.MESSAGE) for _ in range(5_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_its_prefix_and_a_uuid7_of_now(kind: Kind) -> None:
    before = time.time_ns() // 1_000_000
    gid = new_gid(kind)
    after = time.time_ns() // 1_000_000
    prefix, suffix = gid.split("_")
    uuid = uuid_of(gid)
    assert prefix == kind
    assert len(suffix) == 26
    assert (uuid.version, uuid.variant) == (7, "specified in RFC 4122")
    assert before <= uuid.int >> 80 <= after


def test_the_prefixes_are_those_of_the_design() -> None:
    expected = {"ten", "msg", "ep", "sec", "sub", "dlv", "att", "rcp", "evt", "bat", "ek", "aud", "con", "tsk", "gat"}
    assert {str(kind) for kind in Kind} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_id_is_an_id_of_its_kind_and_of_no_other(kind: Kind) -> None:
    gid = new_gid(kind)
    assert [other for other in Kind if is_gid(gid, other)] == [kind]


def test_the_default_tenant_has_an_id_like_any_other() -> None:
    assert is_gid(DEFAULT_TENANT_GID, Kind.TENANT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "_",
        "msg",
        "msg_",
        "01jzzzzzzzzzzzzzzzzzzzzzzz",
        "_01jzzzzzzzzzzzzzzzzzzzzzzz",
        "dlv_01jzzzzzzzzzzzzzzzzzzzzzzz",
        "MSG_01jzzzzzzzzzzzzzzzzzzzzzzz",
        "msg_01JZZZZZZZZZZZZZZZZZZZZZZZ",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzz",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzzzz",
        "msg_81jzzzzzzzzzzzzzzzzzzzzzzz",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzzi",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzzl",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzzo",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzzu",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzz\n",
        "msg_01jzzzzzzzzzzzzzzzzzzzzzzz\n",
        " msg_01jzzzzzzzzzzzzzzzzzzzzzzz",
        "msg_msg_01jzzzzzzzzzzzzzzzzzzzzzzz",
        "msg_\u0660\u0661jzzzzzzzzzzzzzzzzzzzzzzz",
        'msg_01jzzzzzzzzzzzzzzzzzzzzz" OR',
        "../../01jzzzzzzzzzzzzzzzzzzzzzzz",
    ],
)
def test_text_that_resembles_an_id_is_refused(text: str) -> None:
    assert not is_gid(text, Kind.MESSAGE)


def test_the_greatest_possible_id_is_valid() -> None:
    assert is_gid("msg_7" + "z" * 25, Kind.MESSAGE)


@given(st.text())
def test_whether_a_text_is_an_id_can_always_be_asked(text: str) -> None:
    assert is_gid(text, Kind.MESSAGE) in (True, False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_id_of_a_moment_sorts_between_ids_before_and_after_it(kind: Kind) -> None:
    before = new_gid(kind)
    bound = first_gid_at(kind, datetime.now(UTC) + timedelta(milliseconds=1))
    time.sleep(0.002)
    assert before < bound <= new_gid(kind)
    assert is_gid(bound, kind)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_an_id_has_the_time_that_it_was_created_for(moment: datetime) -> None:
    assert timedelta() <= moment - moment_of(first_gid_at(Kind.MESSAGE, moment)) < timedelta(milliseconds=1)


def test_an_id_has_its_creation_time() -> None:
    before = datetime.now(UTC)
    made = moment_of(new_gid(Kind.DELIVERY))
    assert before - timedelta(milliseconds=1) < made <= datetime.now(UTC)


def test_the_first_id_of_a_time_before_1970_is_the_lowest_id() -> None:
    assert first_gid_at(Kind.EVENT, datetime(1926, 1, 1, tzinfo=UTC)) == "evt_" + "0" * 26


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_id_has_the_number_of_its_id(kind: Kind) -> None:
    gid = new_gid(kind)
    assert trace_id(gid) == uuid_of(gid).hex


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("0" * 26, "0" * 32), ("7" + "z" * 25, "f" * 32), ("0" * 25 + "1", "0" * 31 + "1")],
)
def test_a_trace_id_has_32_digits_for_every_id(suffix: str, expected: str) -> None:
    assert trace_id(f"msg_{suffix}") == expected


def test_workflow_ids_are_built_and_parsed() -> None:
    assert delivery_workflow_id("dlv_1") == "delivery/dlv_1"
    assert endpoint_workflow_id("ep_1") == "endpoint/ep_1"
    assert delivery_gid_of(delivery_workflow_id("dlv_1")) == "dlv_1"
    assert endpoint_gid_of(endpoint_workflow_id("ep_1")) == "ep_1"
    assert erasure_workflow_id("ten_1") == "erase/ten_1"
    assert erased_tenant_gid_of(erasure_workflow_id("ten_1")) == "ten_1"
    assert replay_workflow_id("bat_1") == "replay/bat_1"
    assert replay_batch_gid_of(replay_workflow_id("bat_1")) == "bat_1"


@pytest.mark.parametrize("inverse", [delivery_gid_of, endpoint_gid_of, erased_tenant_gid_of, replay_batch_gid_of])
@pytest.mark.parametrize("text", ["", "reconcile", "dlv_1", "DELIVERY/dlv_1", "deliveries/dlv_1", "endpoints/ep_1"])
def test_another_workflows_id_is_refused_by_name(inverse: object, text: str) -> None:
    assert callable(inverse)
    with pytest.raises(ValueError, match="does not begin with"):
        inverse(text)


def test_the_two_kinds_of_workflow_ids_are_never_confused() -> None:
    with pytest.raises(ValueError, match="delivery/"):
        delivery_gid_of(endpoint_workflow_id("ep_1"))
    with pytest.raises(ValueError, match="endpoint/"):
        endpoint_gid_of(delivery_workflow_id("dlv_1"))
