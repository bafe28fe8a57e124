"""The checker finds what it is there to find: a checker that cannot fail proves nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from testing.arrivals import ArrivalLine, sha256
from testing.ledgers import (
    Ack,
    AckedDelivery,
    AttemptRow,
    Database,
    DeliveryRow,
    Pair,
    PublisherLedger,
    PublishWithoutResponse,
    Report,
    check,
    compare,
    read_publisher_ledger,
)

PAYLOAD = sha256(b'{"n": 1.0}')
PLACE = "127.0.0.1:9/in"
PAIR = Pair("msg_1", PLACE)
ACK = Ack("key", "msg_1", PAYLOAD, (AckedDelivery("dlv_1", "ep_1", f"http://{PLACE}"),))
ROW = DeliveryRow("dlv_1", "msg_1", "ep_1", "delivered")
ATTEMPT = AttemptRow("dlv_1", 1, 1, "delivered", 200)
DATABASE = Database({"msg_1": PAYLOAD}, [ROW], [ATTEMPT])
ARRIVAL = ArrivalLine("run", 1, "msg_1", "127.0.0.1:9", "/in", "0", PAYLOAD, 200, None, 0.0, 0.0)


def judged(
    *arrivals: ArrivalLine,
    acks: tuple[Ack, ...] = (ACK,),
    without_response: tuple[PublishWithoutResponse, ...] = (),
    database: Database = DATABASE,
    dead_letters_allowed: bool = False,
    cancelled: tuple[str, ...] = (),
) -> Report:
    publisher = PublisherLedger(acks=list(acks), without_response=list(without_response), cancelled=set(cancelled))
    return check(publisher, arrivals, database, dead_letters_allowed=dead_letters_allowed)


def with_status(status: str) -> Database:
    return replace(DATABASE, deliveries=[replace(ROW, status=status)])


def test_the_check_passes_complete_ledgers() -> None:
    report = judged(ARRIVAL)
    report.assert_nothing_lost()
    report.assert_no_duplicates()
    report.assert_all_recorded()
    assert (report.promised, report.arrivals) == (1, 1)


@pytest.mark.parametrize(
    ("arrivals", "why"),
    [
        ([], "no arrival with a 2xx response"),
        ([replace(ARRIVAL, status=500)], "no arrival with a 2xx response"),
        ([replace(ARRIVAL, status=None)], "no arrival with a 2xx response"),
        ([replace(ARRIVAL, path="/other")], "no arrival with a 2xx response"),
        ([replace(ARRIVAL, host="127.0.0.1:8")], "no arrival with a 2xx response"),
    ],
)
def test_the_check_finds_messages_that_never_arrived(arrivals: list[ArrivalLine], why: str) -> None:
    report = judged(*arrivals)
    assert why in report.lost[0].what
    with pytest.raises(AssertionError, match="lost: msg_1 -> "):
        report.assert_nothing_lost()


@pytest.mark.parametrize(
    ("database", "why"),
    [
        (replace(DATABASE, messages={}), "no message row"),
        (replace(DATABASE, deliveries=[]), "no delivery row"),
        (replace(DATABASE, deliveries=[replace(ROW, endpoint_gid="ep_2")]), "is of msg_1 to ep_2"),
        (with_status("retrying"), "arrived, but row dlv_1 is retrying"),
        (with_status("dead_lettered"), "arrived, but row dlv_1 is dead_lettered"),
    ],
)
def test_the_check_finds_missing_and_wrong_rows_of_the_database(database: Database, why: str) -> None:
    assert why in judged(ARRIVAL, database=database).lost[0].what


def test_finds_a_wrong_row_of_a_delivery_that_was_not_promised() -> None:
    report = judged(acks=(), database=DATABASE)
    assert "is delivered, and nothing arrived" in report.lost[0].what


def test_finds_unfinished_rows() -> None:
    report = judged(ARRIVAL, acks=(), database=with_status("parked"))
    assert [violation.what for violation in report.unfinished] == ["parked"]
    with pytest.raises(AssertionError, match="unfinished"):
        report.assert_nothing_lost()


def test_a_dead_letter_is_lost_unless_it_is_allowed() -> None:
    dead = with_status("dead_lettered")
    refused = replace(ARRIVAL, status=400)
    assert judged(refused, database=dead).lost
    allowed = judged(refused, database=dead, dead_letters_allowed=True)
    allowed.assert_nothing_lost()
    assert len(allowed.dead_lettered) == 1


def test_finds_a_duplicate() -> None:
    report = judged(ARRIVAL, replace(ARRIVAL, seq=2), replace(ARRIVAL, seq=3))
    assert report.duplicated == {PAIR: 2}
    report.assert_nothing_lost()
    report.assert_no_duplicates(allowed=["msg_1"])
    with pytest.raises(AssertionError, match="2 too many"):
        report.assert_no_duplicates()


def test_a_request_cut_off_before_its_response_makes_the_next_a_duplicate() -> None:
    assert judged(replace(ARRIVAL, status=None), replace(ARRIVAL, seq=2)).duplicates == 1


def test_a_retry_of_a_refused_request_is_no_duplicate() -> None:
    refused = [replace(ARRIVAL, seq=2, status=503), replace(ARRIVAL, seq=3, status=None, fault="hang")]
    assert judged(*refused, ARRIVAL).duplicates == 0


def test_the_same_message_to_two_endpoints_is_no_duplicate() -> None:
    second = AckedDelivery("dlv_2", "ep_2", "http://127.0.0.1:9/two")
    rows = [ROW, DeliveryRow("dlv_2", "msg_1", "ep_2", "delivered")]
    ack = replace(ACK, deliveries=(*ACK.deliveries, second))
    report = judged(ARRIVAL, replace(ARRIVAL, path="/two"), acks=(ack,), database=replace(DATABASE, deliveries=rows))
    report.assert_nothing_lost()
    assert (report.promised, report.duplicates) == (2, 0)


def test_refuses_to_judge_endpoints_that_share_a_url() -> None:
    twin = replace(ACK.deliveries[0], delivery_gid="dlv_2", endpoint_gid="ep_2")
    with pytest.raises(ValueError, match="two endpoints"):
        judged(ARRIVAL, acks=(replace(ACK, deliveries=(*ACK.deliveries, twin)),))


def test_an_idempotent_repetition_is_one_promise() -> None:
    report = judged(ARRIVAL, acks=(ACK, replace(ACK, duplicate=True)))
    report.assert_nothing_lost()
    assert report.promised == 1


def test_finds_corrupted_bytes() -> None:
    report = judged(replace(ARRIVAL, payload_sha256=sha256(b'{"n":1.0}')))
    assert len(report.corrupt) == 1
    with pytest.raises(AssertionError, match="corrupt"):
        report.assert_nothing_lost()


def test_finds_corrupted_bytes_in_the_database() -> None:
    report = judged(ARRIVAL, database=replace(DATABASE, messages={"msg_1": sha256(b"other")}))
    assert [violation.place for violation in report.corrupt] == ["database"]


def test_finds_an_arrival_that_was_not_promised() -> None:
    report = judged(ARRIVAL, replace(ARRIVAL, id="msg_9"), replace(ARRIVAL, path="/elsewhere"))
    assert [o.what for o in report.unknown] == ["never acknowledged", "not an endpoint of this message"]
    with pytest.raises(AssertionError, match="unknown"):
        report.assert_nothing_lost()


def test_allows_the_arrival_of_a_publish_that_got_no_response() -> None:
    report = judged(ARRIVAL, acks=(), without_response=(PublishWithoutResponse("key", PAYLOAD, "gone"),))
    assert report.unknown == []


SCHEDULED = replace(ACK, deliveries=(replace(ACK.deliveries[0], delivery_gid=""),), not_before=100.0)


def test_a_scheduled_message_arrives_at_its_time_and_not_before() -> None:
    judged(replace(ARRIVAL, at=100.0), acks=(SCHEDULED,)).assert_nothing_lost()
    assert "no delivery row" in judged(acks=(SCHEDULED,), database=replace(DATABASE, deliveries=[])).lost[0].what
    with pytest.raises(AssertionError, match=r"broken: msg_1 .* 0\.250 s before its time"):
        judged(replace(ARRIVAL, at=99.75), acks=(SCHEDULED,)).assert_nothing_lost()


def test_the_check_finds_cancelled_messages_that_were_sent() -> None:
    nothing = replace(DATABASE, deliveries=[], attempts=[])
    judged(acks=(SCHEDULED,), cancelled=("msg_1",), database=nothing).assert_nothing_lost()
    report = judged(ARRIVAL, acks=(SCHEDULED,), cancelled=("msg_1",))
    assert [violation.what for violation in report.unknown] == ["was cancelled", "was cancelled, and has row dlv_1"]


def test_a_dead_letter_without_retries_is_no_loss_but_a_second_attempt_is_a_fault() -> None:
    ack, refused = replace(ACK, retry=False), replace(ARRIVAL, status=503)
    dead = with_status("dead_lettered")
    judged(refused, acks=(ack,), database=dead).assert_nothing_lost()
    again = replace(dead, attempts=[ATTEMPT, replace(ATTEMPT, number=2)])
    with pytest.raises(AssertionError, match=r"broken: msg_1 .* 2 attempts in round 1"):
        judged(refused, acks=(ack,), database=again).assert_nothing_lost()


def test_finds_a_group_that_is_out_of_order() -> None:
    acks = tuple(
        replace(
            ACK,
            message_gid=f"msg_{n}",
            deliveries=(replace(ACK.deliveries[0], delivery_gid=f"dlv_{n}"),),
            group="g",
            sent=float(n),
            responded=n + 0.5,
        )
        for n in (1, 2)
    )
    rows = [replace(ROW, gid=f"dlv_{n}", message_gid=f"msg_{n}") for n in (1, 2)]
    database = replace(DATABASE, messages={"msg_1": PAYLOAD, "msg_2": PAYLOAD}, deliveries=rows)
    refused, first, second = (
        replace(ARRIVAL, status=503, monotonic=1.0),
        replace(ARRIVAL, monotonic=3.0),
        replace(ARRIVAL, id="msg_2", monotonic=4.0),
    )
    repeated = replace(first, monotonic=9.0)
    judged(refused, first, second, repeated, acks=acks, database=database).assert_nothing_lost()
    with pytest.raises(AssertionError, match=r"broken: msg_2 .* before msg_1 of its group g was done"):
        judged(refused, first, replace(second, monotonic=2.0), acks=acks, database=database).assert_nothing_lost()


def test_finds_requests_that_are_not_recorded() -> None:
    assert "has no delivered attempt" in judged(ARRIVAL, database=replace(DATABASE, attempts=[])).unrecorded[0].what
    report = judged(ARRIVAL, replace(ARRIVAL, seq=2, status=500))
    assert "1 attempts for 2 arrivals" in report.unrecorded[0].what
    with pytest.raises(AssertionError, match="unrecorded"):
        report.assert_all_recorded()


def test_the_report_names_the_first_violations_and_counts_the_others() -> None:
    acks = tuple(replace(ACK, message_gid=f"msg_{i}") for i in range(9))
    with pytest.raises(AssertionError, match=r"9 lost(.|\n)*msg_4(.|\n)*and 4 more"):
        judged(acks=acks, database=Database({}, [], [])).assert_nothing_lost()


async def test_reads_the_three_ledgers(tmp_path: Path) -> None:
    publisher = PublisherLedger(tmp_path / "acks.jsonl")
    publisher.acked(replace(ACK, payload_sha256=sha256(b"{}")))
    publisher.gave_up(PublishWithoutResponse("k", "h", "e"))
    publisher.was_cancelled("msg_0")
    arrivals = tmp_path / "arrivals.jsonl"
    arrivals.write_bytes(replace(ARRIVAL, payload_sha256=sha256(b"{}")).to_json())
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'x.db'}")
    async with engine.begin() as connection:
        for statement in (
            "CREATE TABLE message (gid, payload)",
            "CREATE TABLE delivery (gid, message_gid, endpoint_gid, status)",
            "CREATE TABLE attempt (delivery_gid, round, number, verdict, status_code)",
            "INSERT INTO message VALUES ('msg_1', x'7b7d')",
            "INSERT INTO delivery VALUES ('dlv_1', 'msg_1', 'ep_1', 'delivered')",
            "INSERT INTO attempt VALUES ('dlv_1', 1, 1, 'delivered', 200)",
        ):
            await connection.execute(text(statement))
    report = await compare(tmp_path / "acks.jsonl", arrivals, engine)
    await engine.dispose()
    report.assert_nothing_lost()
    report.assert_all_recorded()
    assert read_publisher_ledger(tmp_path / "acks.jsonl") == replace(publisher, path=None)
