"""The whole corpus and all hostile receivers against real processes, in a room where every connection is seen.

Each URL and name is tried twice: the API is asked to create an endpoint with it, and the egress client to post to it.
Some are written to the database as well, and sent to. All of it is one exercise (`inside.py`), and one file, so that it
is run once. A test checks all cases of one kind, and its failure names each case that is wrong.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

import pytest

from tests.egress.conftest import Report
from tests.egress.corpus import FLIPS, NAMES, NOT_PUBLIC, PUBLIC, URLS
from tests.egress.inside import EVERY_URL, LARGE, SENT_TO
from tests.egress.receivers import HANDSHAKES, RESPONSES, TIMEOUT

KEPT_BODY = 16 * 1024
STORED_HEADERS = 12 * 1024
"""8 KB, plus their overhead as JSON."""
HELLO = 4 * 1024
"""More than any of our handshakes, and a small part of a request."""

RULES = {**dict(URLS), **{name.url: NOT_PUBLIC for name in NAMES}}


def _check_each(names: Iterable[str], check: Callable[[str], None]) -> None:
    wrong: list[str] = []
    for name in names:
        try:
            check(name)
        except (AssertionError, LookupError) as error:
            wrong.append(f"{name!a}: {error!r}")
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


def test_a_failing_case_is_reported_by_name() -> None:
    def is_short(name: str) -> None:
        assert len(name) < 3, "too long"

    with pytest.raises(pytest.fail.Exception) as failure:
        _check_each(["ab", "abcd", "abcde"], is_short)
    lines = str(failure.value).splitlines()
    assert [line.partition(":")[0] for line in lines if "too long" in line] == ["'abcd'", "'abcde'"]


def test_the_corpus_has_its_minimum_size() -> None:
    assert len(set(EVERY_URL)) == len(EVERY_URL) >= 150


def test_the_canary_sees_what_is_dialled(report: Report) -> None:
    """Guards all the other tests: if the canary saw nothing, they would prove nothing."""
    assert report["heard"] == ["127.0.0.1", "::1", "169.254.169.254"]


def test_a_hostile_url_is_refused_and_the_rule_is_named(report: Report) -> None:
    rules = dict(URLS)

    def is_refused(url: str) -> None:
        assert _refusal(report, url) == {"field": "url", "message": rules[url], "code": "invalid"}

    _check_each(rules, is_refused)


def test_a_hostile_name_is_refused_and_its_addresses_are_not_shown(report: Report) -> None:
    names = {name.host: name for name in NAMES if name.refused_at_creation}

    def is_refused(host: str) -> None:
        name = names[host]
        assert _refusal(report, name.url) == {"field": "url", "message": NOT_PUBLIC, "code": "invalid"}
        shown = str(report["created"][name.url]["body"])
        assert not [value for answer in name.answers for _, value in answer if value in shown.replace(host, "")]

    _check_each(names, is_refused)


def test_a_name_that_will_turn_inward_looks_honest_at_first(report: Report) -> None:
    urls = {name.host: name.url for name in (*(name for name in NAMES if not name.refused_at_creation), FLIPS)}

    def is_created(host: str) -> None:
        assert report["created"][urls[host]]["status"] == 201

    _check_each(urls, is_created)


def test_the_egress_client_blocks_each_hostile_url_and_names_the_rule(report: Report) -> None:
    def is_blocked(url: str) -> None:
        detail = f"the URL {RULES[url]}"
        assert report["posted"][url] == {"failure": "blocked", "detail": detail, "peer_address": None}

    _check_each(RULES, is_blocked)


def test_a_message_to_a_hostile_url_is_blocked_and_not_retried(report: Report) -> None:
    def is_blocked(url: str) -> None:
        outcome = report["sent"][url]
        assert (outcome["status"], outcome["reason"], outcome["error"]) == ("dead_lettered", "blocked", "blocked")
        assert outcome["error_detail"] == f"the URL {RULES[url]}"
        assert (outcome["attempts"], outcome["counted"], outcome["peer_address"]) == (1, 0, None)

    _check_each(SENT_TO, is_blocked)


def test_nothing_of_the_corpus_was_dialled(report: Report) -> None:
    assert report["seen"] == []


def test_a_name_is_dialled_at_the_address_that_was_checked_even_if_it_changes(report: Report) -> None:
    """Its third DNS answer would have been loopback: the first was for the API, the second for the check."""
    assert report["flipped"]["peer_address"] == PUBLIC
    assert [str(ip_address(address)) for address in report["flipped_seen"]] == [PUBLIC]


@pytest.mark.parametrize(("name", "expected"), [*RESPONSES.items(), *HANDSHAKES.items()])
def test_a_hostile_receiver_causes_its_expected_status_or_error(report: Report, name: str, expected: int | str) -> None:
    outcome = report["receivers"][name]
    assert expected in (outcome["status_code"], outcome["error"])
    assert outcome["connections"] == 1


def test_each_attempt_ends_in_time_and_keeps_little(report: Report) -> None:
    def is_bounded(name: str) -> None:
        outcome = report["receivers"][name]
        assert outcome["duration_ms"] < 1000 * (TIMEOUT + 1)
        assert (outcome["kept"] or 0) <= KEPT_BODY
        assert (outcome["kept_headers"] or 0) <= STORED_HEADERS

    _check_each([*RESPONSES, *HANDSHAKES], is_bounded)


def test_a_receiver_whose_tls_is_in_order_got_the_whole_request(report: Report) -> None:
    """Guards the next test."""

    def got_it(name: str) -> None:
        assert report["receivers"][name]["app_bytes"] > len(LARGE)

    _check_each(RESPONSES, got_it)


def test_no_byte_of_a_request_leaves_before_tls_is_in_order(report: Report) -> None:
    def got_nothing(name: str) -> None:
        outcome: dict[str, Any] = report["receivers"][name]
        assert outcome["app_bytes"] == 0
        assert 0 < outcome["raw_bytes"] < HELLO < len(LARGE)

    _check_each(HANDSHAKES, got_nothing)


def test_a_redirect_inward_is_not_followed(report: Report) -> None:
    assert report["redirected"] == []


def test_api_and_worker_take_hardly_more_memory_than_before(report: Report) -> None:
    """Peaks of both together, in MB; they had made a hundred deliveries before."""
    assert report["memory_mb"]["hostile"] - report["memory_mb"]["before"] < 20


def _refusal(report: Report, url: str) -> Any:
    response = report["created"][url]
    assert response["status"] == 422, response
    assert response["body"]["title"] == "Invalid request"
    [error] = response["body"]["errors"]
    return error
