"""What pages are made of: words, charts, coloured JSON, policies as forms, and live updates."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup, escape
from sse_starlette import ServerSentEvent

from api.dashboard import alerts_form, charts, circuit_form, code, live, policy_form, states, text
from api.dashboard.charts import Band, Column, Span
from api.dashboard.code import COLOURED_TOKENS, Highlighter
from api.dashboard.endpoint_names import endpoint_name, endpoint_note, endpoint_title
from api.dashboard.forms import Form
from api.dashboard.live import Broadcaster, Regions
from api.problems import Problem
from api.schemas import AlertSettings, Policy, alerts_of, circuit_of
from everhook.circuit.machine import CircuitState, Hold
from everhook.contracts import DeliveryMode
from everhook.delivery.policy import DeliveryPolicy, resolve
from everhook.health.endpoint_alerts import AlertLimits, AppliedLimits
from everhook.health.score import Level
from everhook.storage.tables import CircuitRow, Endpoint
from testing.waiting import assert_eventually

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


# Words


@pytest.mark.parametrize(
    ("share", "shown"),
    [(None, "—"), (0, "0 %"), (0.5, "50.0 %"), (0.9996, "99.9 %"), (1, "100 %"), (0.0001, "0.0 %")],
)
def test_a_share_is_never_rounded_up_to_all_of_it(share: float | None, shown: str) -> None:
    assert text.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "now"),
        (0.6, "1 s ago"),
        (59, "59 s ago"),
        (119.4, "119 s ago"),
        (150, "3 min ago"),
        (5_399, "90 min ago"),
        (90_000, "25 h ago"),
        (-7_300, "in 2 h"),
        (-86_399, "in 24 h"),
        (-259_199, "in 3 d"),
    ],
)
def test_an_age_has_one_unit_and_is_rounded(seconds: float, shown: str) -> None:
    assert text.age(NOW - timedelta(seconds=seconds), NOW) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (0.3, "0.3 s"), (31, "31 s"), (331, "5 min 31 s"), (9_331, "2 h 35 min"), (86_400, "1 d")],
)
def test_a_duration_has_two_units_at_most(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("settings", "title", "note"),
    [
        ({"url": "https://a.example/x", "description": "Ledger"}, "https://a.example/x", "Ledger"),
        ({"mode": DeliveryMode.POLL}, "poll: ep_1", ""),
        *(
            ({"mode": DeliveryMode.POLL, "description": blank}, "poll: ep_1", blank)
            for blank in (" ", "\n\n", "\u200b")
        ),
        ({"mode": DeliveryMode.INBOX, "options": {"name": "\u3164"}}, "ep_1", ""),
        ({"mode": DeliveryMode.STREAM, "description": "Ledger <b>"}, "Ledger <b>", "stream"),
        ({"mode": DeliveryMode.POLL, "description": "x" * 200}, "x" * 79 + "…", "x" * 200),
        ({"mode": DeliveryMode.INBOX, "options": {"name": "Managers"}, "description": "Ledger"}, "Managers", "Ledger"),
    ],
)
def test_an_endpoint_without_a_url_is_called_by_its_description(
    settings: dict[str, Any], title: str, note: str
) -> None:
    endpoint = Endpoint(**{"gid": "ep_1", "tenant_gid": "ten_1", "url": "", **settings})
    assert (endpoint_title(endpoint), endpoint_note(endpoint)) == (title, note)
    assert escape(title.removeprefix("https://")) == re.sub("<[^>]+>", "", endpoint_name(endpoint))


def test_a_count_that_stopped_at_its_limit_says_so() -> None:
    assert (text.count(9_999, 10_000), text.count(10_000, 10_000)) == ("9,999", "10,000+")


# States


@pytest.mark.parametrize(
    ("circuit", "level", "state"),
    [
        (CircuitRow(endpoint_gid="ep_1"), Level.DEGRADED, "degraded"),
        (CircuitRow(endpoint_gid="ep_1", state=CircuitState.OPEN), Level.HEALTHY, "failing"),
        (CircuitRow(endpoint_gid="ep_1", state=CircuitState.OPEN, hold=Hold.PAUSED), Level.HEALTHY, "paused"),
        (CircuitRow(endpoint_gid="ep_1", hold=Hold.DISABLED), Level.FAILING, "disabled"),
    ],
)
def test_the_state_of_an_endpoint_is_what_keeps_it_from_taking_messages(
    circuit: CircuitRow, level: Level, state: str
) -> None:
    assert states.endpoint_state(circuit, level) == state


# Charts


def test_a_chart_says_in_its_table_what_it_draws() -> None:
    steps = [Column(NOW + timedelta(minutes=n), (n, 1)) for n in range(3)]
    chart = charts.columns("Attempts", (("delivered", "ok"), ("failed", "bad")), steps)
    assert chart.headers == ("Time (UTC)", "delivered", "failed")
    assert chart.rows[2] == ("2026-01-31 12:02", "2", "1")
    assert 'aria-label="Attempts"' in chart.svg and "12:02 UTC: 2 delivered, 1 failed" in chart.svg


def test_an_empty_chart_is_drawn_too() -> None:
    assert charts.columns("x", (("a", "ok"),), []).rows == ()
    assert charts.shares("x", [Band("a", 0, "ok")]).rows == ()


def test_shares_add_up_to_the_whole_width() -> None:
    chart = charts.shares("x", [Band("a", 1, "ok"), Band("b", 3, "bad")])
    assert [row[2] for row in chart.rows] == ["25.0 %", "75.0 %"]
    assert 'x="150"' in chart.svg


def test_states_last_until_the_next_and_the_last_until_now() -> None:
    spans = [
        Span("closed", NOW - timedelta(days=3), "ok"),
        Span("open", NOW - timedelta(minutes=30), "bad"),
        Span("closed", NOW - timedelta(minutes=15), "ok"),
    ]
    chart = charts.states("x", spans, NOW - timedelta(hours=1), NOW)
    assert [(row[0], row[2]) for row in chart.rows] == [("closed", "30 min"), ("open", "15 min"), ("closed", "15 min")]


def test_a_schedule_shows_each_attempt() -> None:
    chart = charts.schedule(DeliveryPolicy())
    assert chart.svg.count('class="due"') == 6
    assert chart.rows[-1] == ("6", "2 h 35 min after the first")


def test_labels_of_charts_are_escaped() -> None:
    assert "<b>" not in charts.sparkline("<b>", [Column(NOW, (1, 1))])
    assert "<b>" not in charts.shares("<b>", [Band("<b>", 1, "ok")]).svg


# Payloads


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    )
)
def test_coloured_json_has_the_text_of_the_payload_and_none_of_its_markup(content: object) -> None:
    plain = without_our_markup(Highlighter().payload(json.dumps(content).encode()))
    assert "<" not in plain and ">" not in plain
    assert json.loads(Markup(plain).unescape()) == content


def without_our_markup(markup: Markup) -> str:
    plain = str(markup)
    for ours in ('<span class="key">', '<span class="str">', '<span class="num">', "</span>"):
        plain = plain.replace(ours, "")
    return plain


@given(st.text(alphabet='"\\[]{},:1a \n<'))
def test_no_text_is_lost_or_added_but_white_space(source: str) -> None:
    shown = Markup(without_our_markup(Highlighter().payload(source.encode()))).unescape()
    assert "".join(shown.split()) == "".join(source.split())


@pytest.mark.parametrize("payload", [b"[" * 20_000, b'{"a": "' + b"\\" * 3, b"\xff\xfe<script>", b"x" * 400_000])
def test_text_that_is_not_json_is_shown_unchanged_and_escaped(payload: bytes) -> None:
    for markup in (Highlighter().payload(payload), Highlighter().body(payload)):
        assert "<script>" not in markup


HOSTILE = {
    "strings that have no end": lambda size: b'["' * (size // 4) + b'\\"' * (size // 4),
    "escaped quotes": lambda size: b"[" + b'\\"' * (size // 2),
    "quotes": lambda size: b"[" + b'"' * size,
    "backslashes": lambda size: b'["' + b"\\" * size,
    "brackets": lambda size: b"[" * size,
    "numbers": lambda size: b"[" + b"1," * (size // 2),
    "spaces": lambda size: b"[" + b" " * size,
    "one word": lambda size: b"[" + b"a" * size,
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_colouring_takes_time_in_proportion_to_the_text(hostile: Callable[[int], bytes]) -> None:
    """Quadratic work would take 64 times as long for 8 times the text."""
    small, large = (_seconds_to_colour(hostile(size)) for size in (8 * 1024, 64 * 1024))
    assert large < 32 * small + 0.001


def _seconds_to_colour(body: bytes) -> float:
    def once() -> float:
        began = time.thread_time()  # the work of other processes on this machine does not count
        Highlighter(tokens_left=10**9).body(body)
        return time.thread_time() - began

    return min(once() for _ in range(5))


def test_a_page_colours_up_to_a_limit_and_shows_the_rest_plain() -> None:
    page = Highlighter()
    bodies = [page.body(b'["a", ' + b'{"b": 1}, ' * 1_000 + b"2]") for _ in range(20)]
    assert sum(body.count("<span") for body in bodies) <= COLOURED_TOKENS
    assert [body.count("{") for body in bodies] == [1_000] * 20
    assert "<span" in bodies[0] and "<span" not in bodies[-1]


def test_a_url_may_break_after_its_slashes() -> None:
    assert code.url_markup("https://a.example/<b>/c") == "a.example/<wbr>&lt;b&gt;/<wbr>c"


# Policies as forms


@pytest.mark.parametrize(
    "spec",
    [
        {"preset": "patient"},
        {"delaysSeconds": [0.5, 1, 90, 5400]},
        {"exponential": {"initialSeconds": 2, "factor": 3, "capSeconds": 3600, "attempts": 9}},
        {"timeoutSeconds": 5, "maxWindowSeconds": 86_400, "jitter": 0.5, "retryStatuses": [408, "4xx"]},
    ],
)
def test_a_policy_survives_its_form(spec: dict[str, object]) -> None:
    sent = policy_form.policy(Form(list(policy_form.fields(spec).items())))
    assert sent is not None
    assert resolve(Policy(**sent).spec()) == resolve(spec)


def test_an_empty_form_is_no_policy() -> None:
    assert policy_form.policy(Form([("schedule", ""), ("delays", "1 s")])) is None


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"schedule": "delays", "delays": "soon"}, "delays"),
        ({"schedule": "delays", "delays": "5 fortnights"}, "delays"),
        ({"schedule": "exponential", "initial": "2 s", "cap": "", "attempts": "3"}, "cap"),
        ({"schedule": "exponential", "initial": "2 s", "cap": "1 h", "attempts": "many"}, "attempts"),
        ({"timeout": "-1"}, "timeout"),
        ({"statuses": "3xx"}, "statuses"),
        ({"schedule": "sometimes"}, "schedule"),
    ],
)
def test_an_invalid_policy_names_its_field(fields: dict[str, str], wrong: str) -> None:
    with pytest.raises(Problem) as caught:
        policy_form.policy(Form(list(fields.items())))
    assert [error.field for error in caught.value.errors] == [wrong]


# Circuit settings as forms


@pytest.mark.parametrize(
    "spec",
    [
        {"failureThreshold": 9},
        {"cooldownSeconds": 90, "cooldownMaxSeconds": 5_400, "disableAfterHours": 36},
        {"releasePerSecond": 2.5, "releasePerSecondMax": 50},
    ],
)
def test_circuit_settings_survive_their_form(spec: dict[str, float]) -> None:
    sent = circuit_form.circuit(Form(list(circuit_form.fields(spec).items())))
    assert circuit_of(sent) == spec


def test_a_form_without_circuit_settings_has_none() -> None:
    assert circuit_form.circuit(Form(list(circuit_form.fields(None).items()))) is None


@pytest.mark.parametrize(
    "spec",
    [
        {"successRateBelow": 0.9995, "overMinutes": 90 / 60, "minAttempts": 1_000_000},
        {"deadLettersAbove": 0, "latencyAboveMs": 59_999.5},
        {"successRateBelow": None, "deadLettersAbove": None, "latencyAboveMs": None},
        {"successRateBelow": 0.07},
        {"successRateBelow": 1e-12},
    ],
)
def test_alert_settings_survive_their_form(spec: dict[str, float | None]) -> None:
    sent = alerts_form.alerts(Form(list(alerts_form.fields(spec).items())))
    assert alerts_of(AlertSettings.model_validate(sent)) == spec


def test_a_form_without_alert_settings_has_none() -> None:
    assert alerts_form.alerts(Form(list(alerts_form.fields(None).items()))) is None


def test_limits_say_where_they_come_from() -> None:
    applied = AppliedLimits.of(
        AlertLimits(), {"successRateBelow": 0.5, "overMinutes": 5}, {"successRateBelow": None, "latencyAboveMs": 800}
    )
    assert [(line.value, line.source) for line in alerts_form.lines(applied)] == [
        ("never", "own"),
        ("800 ms", "own"),
        ("5 min", "from the tenant"),
        ("20", "default"),
        ("100", "default"),
    ]


# Live


class Looks:
    """The source that a broadcaster queries, with a count of its queries."""

    def __init__(self) -> None:
        self.regions: Regions = {"a": "1", "b": "1"}
        self.count = 0

    async def __call__(self) -> Regions:
        self.count += 1
        return dict(self.regions)


def sent(event: ServerSentEvent) -> dict[str, str]:
    shown: dict[str, str] = json.loads(str(event.data))
    return shown


async def test_listeners_get_what_changed_and_only_that() -> None:
    looks, broadcaster = Looks(), Broadcaster(every_seconds=0.01)
    stream = broadcaster.stream("x", looks, None)
    assert sent(await anext(stream)) == {"a": "1", "b": "1"}
    looks.regions = {"a": "1", "b": "2"}
    assert sent(await anext(stream)) == {"b": "2"}
    await stream.aclose()


async def test_all_tabs_share_one_query_and_no_query_runs_without_tabs() -> None:
    looks, broadcaster = Looks(), Broadcaster(every_seconds=0.02)
    streams = [broadcaster.stream("x", looks, None) for _ in range(20)]
    for stream in streams:
        await anext(stream)
    assert looks.count < 5
    for stream in streams:
        await stream.aclose()
    assert broadcaster.scopes == 0
    seen = looks.count
    await asyncio.sleep(0.1)
    assert looks.count <= seen + 1


async def test_a_client_that_has_seen_the_newest_event_gets_nothing_until_the_next_one() -> None:
    looks, broadcaster = Looks(), Broadcaster(every_seconds=0.01)
    staying = broadcaster.stream("x", looks, None)
    first = await anext(staying)
    back = broadcaster.stream("x", looks, str(first.id))
    waiting = asyncio.ensure_future(anext(back))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    looks.regions = {"a": "2", "b": "1"}
    assert sent(await waiting) == {"a": "2"}
    for stream in (staying, back):
        await stream.aclose()


async def test_closing_ends_streams_and_waits_for_the_query_in_progress() -> None:
    """The query uses the database, which is closed next."""
    looks, broadcaster = Looks(), Broadcaster(every_seconds=60)
    looking, ended = asyncio.Event(), asyncio.Event()

    async def slow() -> Regions:
        looking.set()
        await asyncio.sleep(0.1)
        ended.set()
        return await looks()

    following = asyncio.create_task(_all(broadcaster.stream("x", slow, None)))
    await looking.wait()
    async with asyncio.timeout(30):
        await broadcaster.close()
        assert ended.is_set()
        assert not await following
    between = asyncio.create_task(_all(broadcaster.stream("x", looks, None)))
    async with asyncio.timeout(30):
        await broadcaster.close()  # and for no pause between two queries
        await between


async def _all(stream: AsyncIterator[ServerSentEvent]) -> list[ServerSentEvent]:
    return [event async for event in stream]


async def test_a_query_that_fails_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, broadcaster = Looks(), Broadcaster(every_seconds=0.01)
    failures = iter([OSError("away"), OSError("away")])

    async def flaky() -> Regions:
        if (failure := next(failures, None)) is not None:
            raise failure
        return await looks()

    stream = broadcaster.stream("x", flaky, None)
    assert sent(await anext(stream))["a"] == "1"
    await stream.aclose()


async def test_a_stream_ends_by_itself_so_that_sessions_are_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STREAM_FOR_S", 0.05)
    broadcaster = Broadcaster(every_seconds=0.01)
    assert len([event async for event in broadcaster.stream("x", Looks(), None)]) == 1
    await assert_eventually(lambda: _assert_none(broadcaster))


def _assert_none(broadcaster: Broadcaster) -> None:
    assert broadcaster.scopes == 0
