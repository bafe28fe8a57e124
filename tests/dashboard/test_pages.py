"""Sign-in, refusals, and the headers of pages: without a browser, and with Temporal stopped."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from starlette.routing import Match

from api import dashboard
from api.dashboard.pages import PORTAL
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.delivery.snapshot_store import DestinationCache
from everhook.ids import Kind, new_gid
from everhook.storage.keyring import KeyRing
from everhook.storage.tables import Batch, BatchKind, BatchState, now
from testing.api import MASTER_KEY, RECEIVER_URL, Api, assert_problem, created, ok, running_api
from tests.dashboard.conftest import Pages, browsing
from tests.dashboard.scenery import gid_at


def cookie_of(response: httpx.Response) -> str:
    return str(response.headers.get("set-cookie", ""))


# The overview


async def test_deliveries_that_do_not_progress_say_so(pages: Pages) -> None:
    await pages.api.channel("orders")
    await pages.api.endpoint(channel="orders")
    await pages.api.publish({"n": 1}, "orders")
    await pages.api.change_rows("UPDATE delivery SET dispatched_at = accepted_at, due_at = '2026-01-01 00:00:00'")
    await pages.sign_in()
    assert "1 delivery overdue: does a worker run?" in (await pages.get("/")).text


@pytest.mark.parametrize("reason", [*DeadLetterReason, "of_a_newer_version"])
async def test_a_dead_letter_of_any_reason_says_why(pages: Pages, reason: str) -> None:
    await pages.api.channel()
    await pages.api.endpoint(channel="orders")
    (delivery,) = (await pages.api.publish({"n": 1}, "orders"))["deliveries"]
    await pages.api.change_rows(
        "UPDATE delivery SET status = 'dead_lettered', reason = :reason, dead_lettered_at = accepted_at",
        reason=str(reason),
    )
    await pages.sign_in()
    for path in ("/", "/dead-letters", f"/deliveries/{delivery['deliveryGid']}"):
        page = await pages.get(path)
        assert page.status_code == 200 and reason.replace("_", " ") in page.text


# Sign-in


async def test_without_a_session_every_page_leads_to_the_sign_in(pages: Pages) -> None:
    for path in ("/", "/endpoints", "/keys", "/live"):
        response = await pages.get(path)
        assert (response.status_code, response.headers["location"].partition("?")[0]) == (303, "/sign-in")
        assert "The API is at /v1" in response.text, "curl follows no redirect"


async def test_the_session_is_hidden_from_scripts_and_other_sites(pages: Pages) -> None:
    cookie = cookie_of(await pages.sign_in()).lower()
    assert "httponly" in cookie and "samesite=strict" in cookie


async def test_outside_of_development_the_session_travels_encrypted_only(pages: Pages) -> None:
    pages.api.app.state.dashboard.settings.dev = False
    assert "secure" in cookie_of(await pages.sign_in()).lower()


async def test_the_cookie_does_not_hold_the_key(pages: Pages) -> None:
    key = created(await pages.api.post("/v1/api-keys", {"name": "a", "scopes": ["admin"]}))["key"]
    assert key.split("_", 2)[2] not in cookie_of(await pages.sign_in(key))


@pytest.mark.parametrize("next", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)"])
async def test_signing_in_does_not_redirect_to_another_site(pages: Pages, next: str) -> None:
    response = await pages.http.post("/sign-in", data={"key": "test-key-of-the-api-0123456789abcdef", "next": next})
    assert response.headers["location"] == "/"


async def test_a_key_that_may_only_publish_does_not_open_the_dashboard(pages: Pages) -> None:
    key = created(await pages.api.post("/v1/api-keys", {"name": "billing", "scopes": ["publish"]}))["key"]
    response = await pages.sign_in(key)
    assert response.status_code == 401 and "may only publish" in response.text


async def test_attempts_to_sign_in_are_limited(pages: Pages) -> None:
    statuses = [(await pages.sign_in("wrong")).status_code for _ in range(12)]
    assert statuses[:10] == [401] * 10
    assert statuses[10:] == [429] * 2


async def test_a_session_is_over_with_its_key(pages: Pages) -> None:
    made = created(await pages.api.post("/v1/api-keys", {"name": "a", "scopes": ["admin"]}))
    await pages.sign_in(made["key"])
    assert (await pages.get("/")).status_code == 200
    await pages.api.delete(f"/v1/api-keys/{made['keyGid']}")
    assert (await pages.get("/")).status_code == 303


async def test_an_altered_session_is_refused(pages: Pages) -> None:
    await pages.sign_in()
    token = pages.http.cookies["everhook_session"]
    head, claims, signature = token.split(".")
    for forged in (f"{head}.{claims[:-2]}AA.{signature}", f"{head}.{claims}.", "x.y.z", ""):
        pages.http.cookies = httpx.Cookies({"everhook_session": forged})
        assert (await pages.get("/")).status_code == 303


async def test_a_read_only_user_is_shown_no_buttons_and_refused(pages: Pages) -> None:
    await pages.api.channel()
    gid = (await pages.api.endpoint())["endpointGid"]
    key = created(await pages.api.post("/v1/api-keys", {"name": "auditor", "scopes": ["read"]}))["key"]
    await pages.sign_in(key)
    page = await pages.get(f"/endpoints/{gid}")
    assert page.status_code == 200 and "Send a test message" not in page.text
    assert (await pages.send(f"/endpoints/{gid}/delete")).status_code == 403
    assert (await pages.get("/keys")).status_code == 403
    assert "endpoint.created" in (await pages.get("/audit")).text, "as GET /v1/audit"
    assert (await pages.api.get(f"/v1/endpoints/{gid}")).status_code == 200


# Forms


@pytest.mark.parametrize(
    ("token", "headers"),
    [
        ("", {}),
        ("0" * 64, {}),
        (None, {"sec-fetch-site": "cross-site"}),
        (None, {"sec-fetch-site": "same-site"}),
        (None, {"origin": "https://evil.example"}),
        (None, {"origin": "null"}),
    ],
)
async def test_a_form_that_is_not_of_our_own_pages_changes_nothing(
    pages: Pages, token: str | None, headers: dict[str, str]
) -> None:
    await pages.sign_in()
    fields = {"name": "orders", "form_token": await pages.token() if token is None else token}
    response = await pages.http.post("/channels/new", data=fields, headers=headers)
    assert response.status_code == 403
    assert await pages.api.rows("SELECT name FROM channel WHERE name = 'orders'") == []


async def test_a_form_of_another_session_changes_nothing(pages: Pages) -> None:
    await pages.sign_in()
    token = await pages.token()
    await pages.sign_in()
    response = await pages.http.post("/channels/new", data={"name": "orders", "form_token": token})
    assert response.status_code == 403
    assert await pages.api.rows("SELECT name FROM channel WHERE name = 'orders'") == []


async def test_actions_on_the_dashboard_are_audited_as_those_of_the_api(pages: Pages) -> None:
    await pages.sign_in()
    assert (await pages.send("/channels/new", name="orders", schedule="patient")).status_code == 303
    (entry,) = await pages.api.rows("SELECT actor, action, subject FROM audit_entry")
    assert tuple(entry) == ("environment", "channel.created", "orders")
    assert (await pages.api.get("/v1/channels/orders")).json()["policy"] == {"preset": "patient"}


@pytest.mark.parametrize(
    ("fields", "marked"),
    [
        ({"schedule": "delays", "delays": "soon"}, "delays"),
        ({"schedule": "delays", "delays": "1000 d"}, "delays"),
        ({"schedule": "exponential", "initial": "2 s", "cap": "1 h", "attempts": "900"}, "attempts"),
        ({"schedule": "exponential", "cap": "1 h", "attempts": "9"}, "initial"),
        ({"timeout": "9 h"}, "timeout"),
        ({"window": "900 d"}, "window"),
        ({"jitter": "7"}, "jitter"),
        ({"statuses": "200"}, "statuses"),
        ({"failureThreshold": "0"}, "failureThreshold"),
        ({"failureThreshold": "2.5"}, "failureThreshold"),
        ({"cooldown": "soon"}, "cooldown"),
        ({"cooldownMax": "2 d"}, "cooldownMax"),
        ({"disableAfter": "1 min"}, "disableAfter"),
        ({"releasePerSecond": "0"}, "releasePerSecond"),
        ({"name": "no spaces"}, "name"),
    ],
)
async def test_errors_of_a_form_are_shown_at_their_field(pages: Pages, fields: dict[str, str], marked: str) -> None:
    await pages.sign_in()
    response = await pages.send("/channels/new", **{"name": "orders", **fields})
    assert response.status_code == 422
    described = re.search(rf'id="f-{marked}"[^>]* aria-describedby="h-{marked}" aria-invalid="true"', response.text)
    assert described, re.findall(r'class="(?:mistake|warning)"[^<]*<', response.text)
    assert re.search(rf'id="h-{marked}" class="mistake">\S', response.text)


NO_NUMBERS = ("nan", "inf", "-inf", "1e999", "1_0", "٣", "\uff11\uff12", "many", "0x10", "1 2", "9" * 400)
EXPONENTIAL = {"schedule": "exponential", "initial": "2 s", "cap": "1 h"}


async def test_what_is_no_number_is_refused_at_its_field_of_every_form(pages: Pages) -> None:
    await pages.sign_in()
    await pages.api.channel()
    http = (await pages.api.endpoint())["endpointGid"]
    poll, inbox = [
        created(await pages.api.post("/v1/endpoints", {"mode": mode, **more}))["endpointGid"]
        for mode, more in (("poll", {}), ("inbox", {"options": {"name": "Managers"}}))
    ]
    whole = [
        ("/channels/new", {"name": "new"}, "statuses"),
        ("/channels/new", {"name": "new", **EXPONENTIAL}, "attempts"),
        (f"/endpoints/{http}/edit", {"url": RECEIVER_URL}, "requestsInFlight"),
        (f"/endpoints/{http}/rotate-secret", {}, "grace"),
        (f"/endpoints/{poll}/edit", {}, "leaseSeconds"),
        (f"/endpoints/{poll}/edit", {}, "maxInFlight"),
    ]
    fractional = [
        ("/channels/new", {"name": "new"}, "jitter"),
        ("/channels/new", {"name": "new"}, "retention"),
        ("/channels/new", {"name": "new"}, "failureThreshold"),
        ("/channels/new", {"name": "new"}, "timeout"),
        (f"/endpoints/{http}/edit", {"url": RECEIVER_URL}, "rateLimit"),
        (f"/endpoints/{http}/edit", {"url": RECEIVER_URL}, "alertLatency"),
        (f"/endpoints/{inbox}/edit", {"inboxName": "Managers"}, "dueHours"),
    ]
    wrong = []
    for fields, refused in ((whole, (*NO_NUMBERS, "6.5")), (fractional, NO_NUMBERS)):
        for path, others, field in fields:
            for written in refused:
                response = await pages.send(path, **others, **{field: written})
                if response.status_code != 422 or not re.search(rf"mistake|{field}: ", response.text):
                    wrong.append((path, field, written, response.status_code))
    assert wrong == []


# Lists and their filters


async def some_messages(api: Api) -> None:
    for channel, kind, when in (
        ("orders", "order.created", "2026-01-31T11:00:00+00:00"),
        ("orders", "order.paid", "2026-01-31T12:00:00+00:00"),
        ("invoices", "invoice.paid", "2026-01-31T13:00:00+00:00"),
    ):
        await api.channel(channel) if kind != "order.paid" else None
        if kind != "order.paid":
            await api.endpoint(channel=channel, tenant=f"of-{channel}")
        published = await api.publish({"n": 1}, channel, type=kind)
        moment = datetime.fromisoformat(when)
        for table, own, gid in (("message", "gid", Kind.MESSAGE), ("delivery", "message_gid", Kind.DELIVERY)):
            await api.change_rows(
                f"UPDATE {table} SET accepted_at = :at, gid = :new WHERE {own} = :message",
                at=f"{moment:%Y-%m-%d %H:%M:%S.%f}",
                new=gid_at(gid, moment),
                message=published["messageGid"],
            )


@pytest.mark.parametrize("list_of", ["messages", "deliveries"])
@pytest.mark.parametrize(
    ("filtered", "kinds"),
    [
        ("", {"order.created", "order.paid", "invoice.paid"}),
        ("channel=orders", {"order.created", "order.paid"}),
        ("type=order.paid", {"order.paid"}),
        ("channel=orders&type=invoice.paid", set()),
        ("since=2026-01-31T12:00", {"order.paid", "invoice.paid"}),
        ("until=2026-01-31T12:00", {"order.created"}),
        ("since=2026-01-31T12:00:00Z&until=2026-01-31T13:00:00Z", {"order.paid"}),
        ("tenant=nosuch", set()),
    ],
)
async def test_messages_and_deliveries_are_filtered_as_by_the_api(
    pages: Pages, list_of: str, filtered: str, kinds: set[str]
) -> None:
    await some_messages(pages.api)
    await pages.sign_in()
    page = (await pages.get(f"/{list_of}?{filtered}")).text
    assert set(re.findall(rf'class="strong clamp" href="/{list_of}/[^"]+">([^<]+)<', page)) == kinds
    if not kinds:
        assert "Nothing matches" in page and f'<a href="/{list_of}">show all {list_of}</a>' in page


async def test_deliveries_are_filtered_by_tenant_message_and_status(pages: Pages) -> None:
    await some_messages(pages.api)
    await pages.sign_in()
    (message,) = await pages.api.rows("SELECT message_gid AS gid FROM delivery WHERE event_type = 'order.paid'")
    for filtered, count in (
        ("tenant=of-orders", 2),
        (f"messageGid={message.gid}", 1),
        ("status=accepted&tenant=of-invoices", 1),
        ("status=parked", 0),
    ):
        page = (await pages.get(f"/deliveries?{filtered}")).text
        assert page.count('class="strong clamp" href="/deliveries/') == count, filtered


@pytest.mark.parametrize(
    ("path", "marked"),
    [
        ("/messages?since=yesterday", "since"),
        ("/messages?channel=a%20b", "channel"),
        ("/deliveries?status=lost", "status"),
        ("/deliveries?type=%00", "type"),
        ("/dead-letters?lastStatusCode=many", "lastStatusCode"),
        ("/dead-letters?endpointGid=none", "endpointGid"),
        ("/deliveries?endpointGid=none", "endpointGid"),
    ],
)
async def test_an_invalid_filter_is_marked_at_its_field(pages: Pages, path: str, marked: str) -> None:
    await pages.sign_in()
    response = await pages.get(path)
    assert response.status_code == 422
    assert f'aria-describedby="h-{marked}" aria-invalid="true"' in response.text
    assert f'id="h-{marked}" class="mistake"' in response.text
    assert "This filter cannot be applied" in response.text and "pattern" not in response.text


@pytest.mark.parametrize("list_of", ["deliveries", "dead-letters"])
async def test_lists_are_filtered_by_the_url_or_the_name_of_an_endpoint(pages: Pages, list_of: str) -> None:
    await some_messages(pages.api)
    await pages.api.change_rows("UPDATE delivery SET status = 'dead_lettered', reason = 'exhausted'")
    await pages.api.change_rows(
        "UPDATE endpoint SET url = 'https://hooks.acme.example/in', description = 'Ledger of Acme' "
        "WHERE tenant_gid = (SELECT gid FROM tenant WHERE name = 'of-invoices')"
    )
    await pages.sign_in()
    for wanted in ("https://hooks.acme.example/in", "acme.example", "Ledger of Acme"):
        page = await pages.get(f"/{list_of}?endpointGid={wanted}")
        assert page.status_code == 200
        assert page.text.count('class="strong clamp" href="/deliveries/') == 1, wanted


@pytest.mark.parametrize("list_of", ["deliveries", "dead-letters", "messages"])
async def test_a_filter_takes_several_values_with_commas_between_them(pages: Pages, list_of: str) -> None:
    await some_messages(pages.api)
    await pages.api.change_rows(
        "UPDATE delivery SET status = 'dead_lettered', reason = 'exhausted', last_status_code = 503, "
        "dead_lettered_at = accepted_at"
    )
    await pages.sign_in()
    page = (await pages.get(f"/{list_of}?channel=orders,invoices&type=order.created, invoice.paid")).text
    both = (
        (await pages.get(f"/{list_of}?type=order.created")).text,
        (await pages.get(f"/{list_of}?channel=invoices")).text,
    )
    link = f'class="strong clamp" href="/{"messages" if list_of == "messages" else "deliveries"}/'
    assert page.count(link) == sum(one.count(link) for one in both) > 1
    assert "<option selected>orders,invoices</option>" in page
    if list_of == "dead-letters":
        asked = (await pages.get("/dead-letters/all?lastStatusCode=401,503&deadLetterReason=rejected,exhausted")).text
        assert "<h1>Replay 3 dead letters</h1>" in asked


async def test_a_bulk_replay_says_what_it_skips(pages: Pages) -> None:
    await some_messages(pages.api)
    await pages.api.change_rows(
        "UPDATE delivery SET status = 'dead_lettered', reason = 'exhausted', dead_lettered_at = accepted_at"
    )
    await pages.api.change_rows(
        "UPDATE endpoint SET deleted_at = created_at "
        "WHERE tenant_gid = (SELECT gid FROM tenant WHERE name = 'of-invoices')"
    )
    await pages.sign_in()
    replay = (await pages.get("/dead-letters/all?action=replay")).text
    assert "<h1>Replay 2 dead letters</h1>" in replay and "1 more matches, but cannot be replayed" in replay
    discard = (await pages.get("/dead-letters/all?action=discard")).text
    assert "<h1>Discard 3 dead letters</h1>" in discard and "cannot be replayed" not in discard


async def test_a_bulk_operation_is_for_the_dead_letters_that_its_page_counted(pages: Pages) -> None:
    await some_messages(pages.api)
    await pages.sign_in()

    async def until(query: str) -> datetime:
        page = (await pages.get(f"/dead-letters/all?action=discard{query}")).text
        (value,) = re.findall(r'type="hidden" name="until" value="([^"]+)"', page)
        return datetime.fromisoformat(f"{value}Z")

    before = now()
    assert before <= await until("") <= now()
    assert await until("&until=2026-01-31T12:00") == datetime(2026, 1, 31, 12, tzinfo=UTC)


async def test_the_page_of_a_bulk_operation_names_what_it_is_for(pages: Pages) -> None:
    batch = Batch(
        kind=BatchKind.DEAD_LETTER_PURGE,
        actor="ann",
        state=BatchState.COMPLETED,
        until=datetime(2026, 1, 31, 12, tzinfo=UTC),
        selection={"endpointGid": "ep_1", "lastStatusCode": [401, 503], "until": "2026-01-31T12:00:00+00:00"},
    )
    async with pages.api.database.writing() as session:
        session.add(batch)
    await pages.sign_in()
    page = (await pages.get(f"/batches/{batch.gid}")).text
    for part in ("<dt>Endpoint</dt><dd>ep_1", "<dt>Status code</dt><dd>401, 503", "<dt>Dead-lettered before</dt>"):
        assert part in page
    assert f'/dead-letters">Dead letters</a> / <span aria-current="page">{batch.gid}</span>' in page
    assert "2026-01-31 12:00:00 UTC" in page and "T12:00:00+00:00</dd>" not in page


async def test_the_page_of_a_message_counts_its_deliveries_and_leads_to_all(pages: Pages) -> None:
    await pages.api.channel()
    for _ in range(60):
        await pages.api.endpoint(channel="orders")
    message = (await pages.api.publish())["messageGid"]
    await pages.sign_in()
    page = (await pages.get(f"/messages/{message}")).text
    assert page.count('class="strong clamp" href="/deliveries/') == 50
    assert "60 accepted" in page and f'href="/deliveries?messageGid={message}">All 60 deliveries</a>' in page


async def test_the_page_of_a_message_shows_its_gate(pages: Pages) -> None:
    body = {"mode": "inbox", "options": {"name": "Managers & co"}}
    inbox = created(await pages.api.post("/v1/endpoints", body))["endpointGid"]
    await pages.api.channel(gates=[{"inbox": inbox, "filter": {"amount": 1}}, {"inbox": inbox}])
    message = (await pages.api.publish({}))["messageGid"]
    await pages.sign_in()
    page = (await pages.get(f"/messages/{message}")).text
    assert "Approval" in page and page.count("Managers &amp; co</a>") == 3  # both steps, and the delivery
    assert re.findall(r'<td data-label="State"><span class="pill \w+">(\w+)<', page) == ["skipped", "open"]


async def test_a_cursor_belongs_to_its_list_and_its_filters(pages: Pages) -> None:
    await pages.api.channel()
    await pages.api.endpoint(channel="orders")
    await pages.api.try_batch([{"type": "a", "payload": 1}] * 60)
    await pages.sign_in()
    (older,) = re.findall(r'href="/messages(\S+)" rel="next"', (await pages.get("/messages?type=a")).text)
    assert (await pages.get(f"/messages{older.replace('&amp;', '&')}")).status_code == 200
    cursor = older.partition("cursor=")[2]
    for path in ("/messages?", "/messages?type=b&", "/deliveries?type=a&", "/channels?", "/audit?", "/keys?"):
        response = await pages.get(f"{path}cursor={cursor}")
        assert response.status_code == 422 and "another list" in response.text, path
    of_api = (await pages.api.get("/v1/messages", limit=1, type="a")).json()["nextCursor"]
    assert (await pages.get(f"/messages?type=a&cursor={of_api}")).status_code == 422


@pytest.mark.parametrize("list_of", ["messages", "deliveries"])
async def test_filters_are_kept_from_page_to_page_and_in_their_fields(pages: Pages, list_of: str) -> None:
    await pages.api.channel()
    await pages.api.endpoint(channel="orders")
    await pages.api.try_batch([{"type": "a", "payload": 1}] * 60)
    await pages.sign_in()
    page = (await pages.get(f"/{list_of}?channel=orders&type=a&since=2026-01-31T12:00")).text
    (older,) = re.findall(r'href="([^"]+)" rel="next"', page)
    assert "channel=orders" in older and "type=a" in older and "since=2026-01-31T12%3A00" in older
    assert "<option selected>orders</option>" in page and 'name="type" type="text" value="a"' in page
    assert 'type="datetime-local" value="2026-01-31T12:00"' in page and '<details class="more" open>' in page
    second = (await pages.get(older.replace("&amp;", "&"))).text
    assert second.count(f'class="strong clamp" href="/{list_of}/') == 10
    assert ">Newest</a>" in second and "type=a" in second.partition(">Newest</a>")[0][-200:]


# Headers for browsers


async def test_pages_run_only_scripts_of_the_dashboard_and_cannot_be_framed(pages: Pages) -> None:
    await pages.sign_in()
    for path in ("/", "/sign-in", "/endpoints/none", "/portal/"):
        headers = (await pages.get(path)).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


async def test_only_the_portal_can_be_framed_and_only_by_the_origins_of_the_settings(pages: Pages) -> None:
    pages.api.app.state.dashboard.settings.portal_frame_ancestors = ["https://app.example.com"]
    portal, sign_in = await pages.get("/portal/"), await pages.get("/sign-in")
    assert "frame-ancestors https://app.example.com" in portal.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in sign_in.headers["content-security-policy"]


async def test_no_page_has_scripts_or_styles_of_its_own(pages: Pages) -> None:
    await pages.sign_in()
    await pages.api.channel()
    await pages.api.endpoint()
    for path in ("/", "/endpoints", "/channels", "/keys", "/dead-letters", "/sign-in"):
        page = (await pages.get(path)).text
        assert not re.search(r"<style|style=|<script(?![^>]* src=)|\son\w+=", page), path


async def test_static_files_are_cached_as_immutable_under_content_hashed_names(pages: Pages) -> None:
    page = (await pages.get("/sign-in")).text
    (style,) = re.findall(r'href="(/assets/[^"]+\.css)"', page)
    response = await pages.get(style)
    assert response.status_code == 200 and "immutable" in response.headers["cache-control"]
    other = await pages.get(re.sub(r"/assets/\w+/", "/assets/old/", style))
    assert other.status_code == 200 and other.headers["cache-control"] == "no-cache"
    assert (await pages.get("/assets/x/../main.py")).status_code == 404


# Signing out


async def test_signing_out_ends_the_session_for_every_copy_of_its_cookie_and_every_process(pages: Pages) -> None:
    await pages.sign_in()
    stolen = {"everhook_session": pages.http.cookies["everhook_session"]}
    services = pages.api.services
    async with running_api(services.settings, services.temporal) as another, browsing(another) as elsewhere:
        elsewhere.http.cookies.update(stolen)
        assert (await elsewhere.get("/")).status_code == 200

        signed_out = await pages.send("/sign-out")

        assert (signed_out.status_code, signed_out.headers["location"]) == (303, "/sign-in")
        for visitor in (pages, elsewhere):
            visitor.http.cookies = httpx.Cookies(stolen)
            assert (await visitor.get("/")).status_code == 303
            assert (await visitor.get("/live")).status_code == 303
    (entry,) = await pages.api.rows("SELECT actor, subject FROM audit_entry WHERE action = 'session.ended'")
    assert tuple(entry) == ("environment", "environment")


async def test_other_sessions_of_the_same_key_go_on(pages: Pages) -> None:
    async with browsing(pages.api) as colleague:
        await colleague.sign_in()
        await pages.sign_in()
        await pages.send("/sign-out")
        assert (await colleague.get("/")).status_code == 200


@pytest.mark.parametrize("scope", ["read", "admin"])
async def test_every_user_who_can_sign_in_can_sign_out(pages: Pages, scope: str) -> None:
    key = created(await pages.api.post("/v1/api-keys", {"name": "a", "scopes": [scope]}))["key"]
    await pages.sign_in(key)
    assert (await pages.send("/sign-out")).status_code == 303
    assert (await pages.get("/")).status_code == 303


async def test_another_site_cannot_sign_a_user_out(pages: Pages) -> None:
    await pages.sign_in()
    assert (await pages.http.post("/sign-out")).status_code == 403
    assert (await pages.get("/")).status_code == 200


# The portal


async def test_the_portal_is_left_by_signing_out_and_its_session_is_over(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    await open_portal(pages, acme)
    stolen = {"everhook_portal": pages.http.cookies["everhook_portal"]}
    assert 'action="/portal/sign-out"' in (await pages.get("/portal/")).text

    signed_out = await pages.send("/portal/sign-out")

    assert signed_out.status_code == 303
    assert "path=/portal" in cookie_of(signed_out).lower() and "max-age=0" in cookie_of(signed_out).lower()
    assert "everhook_portal" not in pages.http.cookies
    pages.http.cookies = httpx.Cookies(stolen)
    assert (await pages.get("/portal/")).status_code == 401
    (entry,) = await pages.api.rows("SELECT actor, tenant_gid FROM audit_entry WHERE action = 'session.ended'")
    assert tuple(entry) == ("portal of acme", acme)


async def test_a_link_to_the_portal_begins_with_the_public_address_and_not_with_the_host_header(
    pages: Pages,
) -> None:
    acme, _ = await two_tenants(pages.api)
    settings = pages.api.app.state.dashboard.settings

    async def link() -> httpx.Response:
        return await pages.api.http.post(f"/v1/tenants/{acme}/portal-link", headers={"host": "evil.example"})

    assert created(await link())["url"].startswith("http://evil.example/portal/open/"), "in development only"
    settings.dev = False
    problem = assert_problem(await link(), 409)
    assert "EVERHOOK_PUBLIC_URL" in problem["detail"]
    settings.public_url = "https://hooks.example.com"
    assert created(await link())["url"].startswith("https://hooks.example.com/portal/open/")


async def two_tenants(api: Api) -> tuple[str, str]:
    await api.channel()
    for tenant in ("acme", "globex"):
        await api.endpoint(tenant=tenant, channel="orders")
    await api.publish({"secret": "payload"})
    rows = await api.rows("SELECT gid FROM tenant WHERE name IN ('acme', 'globex') ORDER BY name")
    return rows[0].gid, rows[1].gid


async def open_portal(pages: Pages, tenant: str, **body: object) -> httpx.Response:
    link = created(await pages.api.post(f"/v1/tenants/{tenant}/portal-link", body or None))["url"]
    return await pages.http.post("/portal/open", data={"token": link.rpartition("/")[2]})


async def test_a_link_opens_the_portal_once(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    link = created(await pages.api.post(f"/v1/tenants/{acme}/portal-link"))["url"]
    token = link.rpartition("/")[2]
    assert "Open" in (await pages.get(f"/portal/open/{token}")).text
    first, second = [await pages.http.post("/portal/open", data={"token": token}) for _ in range(2)]
    assert "path=/portal" in cookie_of(first).lower()
    again = await pages.get(f"/portal/open/{token}")
    for to_visitor in (second, again, await pages.get("/portal/open/expired")):
        assert (to_visitor.status_code, to_visitor.headers["location"]) == (303, "/portal/")
        assert "set-cookie" not in to_visitor.headers
    pages.http.cookies.clear()
    for path in (token, "expired"):
        to_others = await pages.get(f"/portal/open/{path}")
        assert to_others.status_code == 410 and "It was used before, or is older" in to_others.text
    assert (await pages.http.post("/portal/open", data={"token": token})).status_code == 410
    actions = [row.action for row in await pages.api.rows("SELECT action FROM audit_entry WHERE actor = 'portal'")]
    assert actions == ["portal_link.opened"]


async def test_links_and_sessions_of_the_portal_are_not_valid_for_the_dashboard_nor_the_reverse(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    await open_portal(pages, acme)
    portal = pages.http.cookies["everhook_portal"]
    link = created(await pages.api.post(f"/v1/tenants/{acme}/portal-link"))["url"].rpartition("/")[2]
    await pages.sign_in()
    dashboard_session = pages.http.cookies["everhook_session"]
    for cookies, path in (
        ({"everhook_session": portal}, "/"),
        ({"everhook_session": link}, "/"),
        ({"everhook_portal": dashboard_session}, "/portal/"),
        ({"everhook_portal": link}, "/portal/"),
    ):
        pages.http.cookies = httpx.Cookies(cookies)
        assert (await pages.get(path)).status_code in (303, 401)


async def test_a_portals_session_lasts_an_hour_at_most(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    assert "max-age=60;" in cookie_of(await open_portal(pages, acme, sessionSeconds=60)).lower()
    refused = await pages.api.post(f"/v1/tenants/{acme}/portal-link", {"sessionSeconds": 3_601})
    assert refused.status_code == 422


async def test_only_admins_make_links_to_the_portal(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    key = created(await pages.api.post("/v1/api-keys", {"name": "acme", "tenant": acme}))["key"]
    response = await pages.http.post(f"/v1/tenants/{acme}/portal-link", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 403


async def test_a_portal_shows_only_the_resources_of_its_tenant(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    await open_portal(pages, acme)
    endpoints = (await pages.get("/portal/endpoints")).text
    assert endpoints.count("/portal/endpoints/ep_") == 1
    deliveries = (await pages.get("/portal/deliveries")).text
    assert deliveries.count('class="strong clamp" href="/portal/deliveries/dlv_') == 1


async def test_an_endpoint_created_in_the_portal_belongs_to_its_tenant(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    await open_portal(pages, acme)
    response = await pages.send(
        "/portal/endpoints/new", url="http://127.0.0.1:9999/mine", tenant="globex", signatures="standard"
    )
    assert response.status_code == 303
    (made,) = await pages.api.rows("SELECT tenant_gid FROM endpoint WHERE url LIKE '%/mine'")
    assert made.tenant_gid == acme


async def test_a_secret_is_shown_once_and_on_a_page_that_can_be_reloaded(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    await pages.sign_in()
    await open_portal(pages, acme)
    (row,) = await pages.api.rows("SELECT gid FROM endpoint WHERE tenant_gid = :acme", acme=acme)
    url = {"url": "http://127.0.0.1:9999/once", "signatures": "standard"}
    rotate = f"/endpoints/{row.gid}/rotate-secret"
    for path, fields, secret in (
        ("/endpoints/new", url, "whsec_"),
        ("/portal/endpoints/new", url, "whsec_"),
        (rotate, {}, "whsec_"),
        ("/keys", {"name": "ann", "scopes": "read"}, "ek_"),
    ):
        sent = await pages.send(path, **fields)
        carried, page = sent.headers["set-cookie"], sent.headers["location"].partition("?")[0]
        assert f"Path={page};" in carried and "HttpOnly" in carried and secret not in carried
        first, again = [await pages.shown_after(sent) for _ in range(2)]
        assert re.search(rf"<code>{secret}[^<…]{{20}}", first.text) and "shown this once" not in again.text, path
    assert len(await pages.api.rows("SELECT gid FROM endpoint WHERE url LIKE '%/once'")) == 2

    key = {"name": "ann", "scopes": "read"}
    both = [await pages.send("/keys", **key) for _ in range(2)]
    cookies = {sent.headers["set-cookie"].partition("=")[0] for sent in both}
    assert len(cookies) == 2, "two forms that are sent before a page is loaded have a cookie each"
    assert all(["shown this once" in (await pages.shown_after(sent)).text for sent in both])

    sent = await pages.send(rotate)
    await pages.sign_in()
    assert "shown this once" not in (await pages.shown_after(sent)).text, "another session has it"


async def test_values_of_headers_are_not_shown_and_stay_when_the_form_is_saved(pages: Pages) -> None:
    await pages.sign_in()
    written = "X-Key: v4lue-of-a-header\nX-Team: orders"
    at = "http://127.0.0.1:9999/with-headers"
    page = await pages.shown_after(await pages.send("/endpoints/new", url=at, signatures="standard", headers=written))
    assert "v4lue" not in page.text and "X-Key" in page.text
    (made,) = await pages.api.rows("SELECT gid, header_values FROM endpoint WHERE url LIKE '%/with-headers'")
    form = (await pages.get(f"/endpoints/{made.gid}/edit")).text
    assert "v4lue" not in form and "X-Key: •••••" in form
    kept = "X-Key: •••••\nX-New: n"
    saved = await pages.send(f"/endpoints/{made.gid}/edit", url=at, signatures="standard", headers=kept)
    assert saved.status_code == 303
    destination = await DestinationCache(pages.api.database, KeyRing([MASTER_KEY])).get(made.gid, 2)
    assert dict(destination.headers) == {"X-Key": "v4lue-of-a-header", "X-New": "n"}


async def test_authentication_is_set_kept_replaced_and_removed_by_the_form_and_its_secret_not_shown(
    pages: Pages,
) -> None:
    await pages.sign_in()
    url = "http://127.0.0.1:9999/with-auth"
    token_url, s3cret = "http://127.0.0.1:9999/token", "s3cret-of-the-client"
    oauth2 = {"authType": "oauth2", "authName": "everhook", "authTokenUrl": token_url, "authScope": "a b"}
    response = await pages.send("/endpoints/new", url=url, signatures="standard", **oauth2)
    assert response.status_code == 422 and 'id="h-authSecret" class="mistake"' in response.text
    wrong = {**oauth2, "authSecret": s3cret, "authTokenUrl": "https://10.0.0.1/"}
    response = await pages.send("/endpoints/new", url=url, signatures="standard", **wrong)
    assert 'id="h-authTokenUrl" class="mistake"' in response.text and s3cret not in response.text
    response = await pages.send("/endpoints/new", url=url, signatures="standard", **oauth2, authSecret=s3cret)
    page = await pages.shown_after(response)
    assert token_url in page.text and s3cret not in page.text

    async def stored() -> tuple[str, bool]:
        (row,) = await pages.api.rows("SELECT gid, auth, auth_secret FROM endpoint WHERE url LIKE '%/with-auth'")
        assert s3cret not in f"{row.auth}{row.auth_secret}"
        return row.auth or "", row.auth_secret is not None

    (row,) = await pages.api.rows("SELECT gid FROM endpoint WHERE url LIKE '%/with-auth'")
    at = f"/endpoints/{row.gid}/edit"
    before = await stored()
    form = (await pages.get(at)).text
    assert token_url in form and s3cret not in form and "As it is" in form
    for unchanged in (oauth2 | {"authType": "as-it-is"}, {}):
        assert (await pages.send(at, url=url, signatures="standard", **unchanged)).status_code == 303
        assert await stored() == before
    response = await pages.send(at, url=url, signatures="standard", authType="as-it-is", authScope="other")
    assert 'id="h-authType" class="mistake"' in response.text and await stored() == before
    bearer = {"authType": "bearer", "authSecret": s3cret, "authName": "ignored", "authTokenUrl": token_url}
    assert (await pages.send(at, url=url, signatures="standard", **bearer)).status_code == 303
    assert await stored() == ('{"type": "bearer"}', True)
    assert (await pages.send(at, url=url, signatures="standard", authType="none")).status_code == 303
    assert await stored() == ("", False)


async def test_an_endpoint_that_everhook_handles_is_created_shown_and_edited_without_its_url(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    await open_portal(pages, acme)
    handler = '{"kind": "chat", "url": "http://127.0.0.1:9999/s3cr3t", "text": "Order {id}"}'
    response = await pages.shown_after(await pages.send("/portal/endpoints/new", mode="internal", handler=handler))
    assert "s3cr3t" not in response.text and "Order {id}" in response.text and "Maximum leased" not in response.text
    (made,) = await pages.api.rows("SELECT gid, tenant_gid FROM endpoint WHERE mode = 'internal'")
    assert made.tenant_gid == acme
    form = (await pages.get(f"/portal/endpoints/{made.gid}/edit")).text
    assert "http://127.0.0.1:9999/…" in form and "s3cr3t" not in form
    shown = handler.replace("s3cr3t", "…").replace("Order", "New")
    assert (await pages.send(f"/portal/endpoints/{made.gid}/edit", handler=shown)).status_code == 303
    assert "New {id}" in (await pages.get(f"/portal/endpoints/{made.gid}")).text
    for wrong in ("", "[1]", "{", '{"kind": "sms"}', '{"kind": "chat", "url": "ftp://x/s3cr3t"}'):
        refused = await pages.send("/portal/endpoints/new", mode="internal", handler=wrong)
        assert refused.status_code == 422 and 'id="h-handler" class="mistake"' in refused.text


async def test_the_catalogue_is_shown_to_operators_and_what_is_in_use_to_tenants(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    schema, example = {"properties": {"note": {"type": "string"}}}, {"note": "<b>bold</b>"}
    for name, archived in (("note/made:here", False), ("note.old", True)):
        body = {"name": name, "description": "It is <i>described</i>.", "schema": schema, "example": example}
        created(await pages.api.post("/v1/event-types", {**body, "archived": archived}))
    await pages.sign_in()
    await open_portal(pages, acme)
    for base in ("", PORTAL):
        listed = (await pages.get(f"{base}/event-types")).text
        assert f'href="{base}/event-types/note/made%3Ahere"' in listed and "note.old" not in listed
        shown = (await pages.get(f"{base}/event-types/note/made%3Ahere")).text
        assert "&lt;b&gt;bold" in shown and "It is &lt;i&gt;described" in shown and "<i>described" not in shown
        assert ("Archive" in shown) == (base == "")
    assert "note.old" in (await pages.get("/event-types?show=archived")).text
    assert "note.old" not in (await pages.get(f"{PORTAL}/event-types?show=archived")).text
    assert (await pages.get(f"{PORTAL}/event-types/note.old")).status_code == 404
    assert (await pages.send("/event-types/note/made:here", archived="yes")).status_code == 303
    assert "note/made:here" not in (await pages.get(f"{PORTAL}/event-types")).text


async def test_a_tenant_tries_out_an_event_type(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    await open_portal(pages, acme)
    (endpoint,) = await pages.api.rows("SELECT gid FROM endpoint WHERE tenant_gid = :t", t=acme)
    assert "Test an event type" not in (await pages.get(f"/portal/endpoints/{endpoint.gid}")).text
    created(await pages.api.post("/v1/event-types", {"name": "note.made", "example": {"note": 7}}))
    created(await pages.api.post("/v1/event-types", {"name": "note.bare"}))
    page = (await pages.get(f"/portal/endpoints/{endpoint.gid}")).text
    assert "<option>note.made</option>" in page and "note.bare" not in page
    assert (await pages.send(f"/portal/endpoints/{endpoint.gid}/test", type="note.made")).status_code == 303
    (message,) = await pages.api.rows("SELECT payload FROM message WHERE event_type = 'note.made'")
    assert message.payload == b'{"note": 7}'
    assert (await pages.send(f"/portal/endpoints/{endpoint.gid}/test", type="note.bare")).status_code == 422


async def test_the_validation_and_the_retention_of_a_channel_are_set_by_its_form(pages: Pages) -> None:
    await pages.sign_in()
    assert (await pages.send("/channels/new", name="orders", validation="warn", retention="7.5")).status_code == 303
    listed = (await pages.get("/channels")).text
    assert "Accepted and flagged" in listed and "7.5 days" in listed
    form = (await pages.get("/channels/orders/edit")).text
    assert '<option value="warn" selected>' in form and 'value="7.5"' in form
    for wrong in ({"retention": "91"}, {"retention": "soon"}, {"validation": "maybe"}):
        refused = await pages.send("/channels/orders/edit", **wrong)
        assert refused.status_code == 422 and f'id="h-{next(iter(wrong))}" class="mistake"' in refused.text
    published = await pages.api.publish({"n": 1}, type="order.unknown")
    page = (await pages.get(f"/messages/{published['messageGid']}")).text
    assert "is not in the catalogue of event types" in page
    assert "does not fit its event type" in (await pages.get("/messages")).text
    assert (await pages.send("/channels/orders/edit", validation="reject")).status_code == 303
    channel = ok(await pages.api.get("/v1/channels/orders"))
    assert (channel["validation"], channel["retentionDays"]) == ("reject", None)


async def test_the_form_of_a_channel_writes_only_what_was_changed(pages: Pages) -> None:
    await pages.sign_in()
    body = {"mode": "inbox", "options": {"name": "Finance"}}
    inbox = created(await pages.api.post("/v1/endpoints", body))["endpointGid"]
    gates = json.dumps([{"inbox": inbox}])
    form = {"schedule": "patient", "gates": gates, "failureThreshold": "9", "validation": "warn", "retention": "7.5"}
    assert (await pages.send("/channels/new", name="orders", **form)).status_code == 303
    channel = ok(await pages.api.get("/v1/channels/orders"))
    assert (channel["policy"], channel["circuit"]) == ({"preset": "patient"}, {"failureThreshold": 9})

    assert (await pages.send("/channels/orders/edit", **form)).status_code == 303
    assert ok(await pages.api.get("/v1/channels/orders")) == channel
    assert ok(await pages.api.get("/v1/audit", action="channel.changed"))["data"] == []

    del form["gates"]  # an absent field of gates keeps them
    assert (await pages.send("/channels/orders/edit", **form | {"retention": "8"})).status_code == 303
    assert ok(await pages.api.get("/v1/channels/orders")) == channel | {"retentionDays": 8}
    entries = ok(await pages.api.get("/v1/audit", action="channel.changed"))["data"]
    assert [each["detail"] for each in entries] == [{"retentionDays": 8}]

    assert (await pages.send("/channels/orders/edit", **form | {"gates": "[]", "retention": "8"})).status_code == 303
    assert not ok(await pages.api.get("/v1/channels/orders"))["gates"]
    assert (await pages.send("/channels/orders/edit", **form | {"gates": "[]", "retention": "8"})).status_code == 303
    entries = ok(await pages.api.get("/v1/audit", action="channel.changed"))["data"]
    assert [each["detail"] for each in entries] == [{"gates": []}, {"retentionDays": 8}]


def routes_with_ids() -> Iterator[tuple[str, str]]:
    for section in (*dashboard.FOR_OPERATORS, *dashboard.FOR_TENANTS):
        for route in section.router.routes:
            path = getattr(route, "path", "")
            if "{" in path:
                for method in sorted(getattr(route, "methods", ())):
                    yield method, path


async def ids_of(api: Api, tenant_gid: str) -> dict[str, str]:
    """One resource of each kind of the tenant, by the part of the address that its id follows."""
    (endpoint,) = await api.rows("SELECT gid FROM endpoint WHERE tenant_gid = :t", t=tenant_gid)
    (delivery,) = await api.rows("SELECT gid, message_gid FROM delivery WHERE tenant_gid = :t", t=tenant_gid)
    (subscription,) = await api.rows("SELECT gid FROM subscription WHERE tenant_gid = :t", t=tenant_gid)
    await api.change_rows(
        "UPDATE delivery SET status = :dead, reason = 'exhausted' WHERE gid = :gid",
        dead=DeliveryStatus.DEAD_LETTERED.value,
        gid=delivery.gid,
    )
    receipt = new_gid(Kind.RECEIPT)
    await api.change_rows(
        "INSERT INTO receipt (gid, tenant_gid, delivery_gid, attempt_gid, round, number, jws, created_at) "
        "VALUES (:gid, :t, :d, 'att_x', 1, 1, 'a.b.c', CURRENT_TIMESTAMP)",
        gid=receipt,
        t=tenant_gid,
        d=delivery.gid,
    )
    created(await api.post("/v1/event-types", {"name": "archived.type", "archived": True}))
    task = new_gid(Kind.TASK)
    await api.change_rows(
        "INSERT INTO task (gid, tenant_gid, delivery_gid, message_gid, endpoint_gid, document, assignees, state, "
        "version, created_at, due_at, reminders_sent, notes) VALUES (:gid, :t, :d, :m, :e, '{}', '[]', 'open', 1, "
        "CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 0, '[]')",
        gid=task,
        t=tenant_gid,
        d=delivery.gid,
        m=delivery.message_gid,
        e=endpoint.gid,
    )
    batch = Batch(kind=BatchKind.DEAD_LETTER_REPLAY, tenant_gid=tenant_gid, actor="ann", state=BatchState.COMPLETED)
    async with api.database.writing() as session:
        session.add(batch)
    return {
        "/inbox": task,
        "/endpoints": endpoint.gid,
        "/deliveries": delivery.gid,
        "/messages": delivery.message_gid,
        "/receipts": receipt,
        "/batches": batch.gid,
        "/channels": "orders",
        "/tenants": tenant_gid,
        "/event-types": "archived.type",
        "/keys": new_gid(Kind.API_KEY),
        "subscription": subscription.gid,
    }


def address(path: str, ids: dict[str, str]) -> str:
    own = next(gid for prefix, gid in ids.items() if path.startswith(prefix))
    path = (
        path.replace(":path}", "}")
        .replace("{gid}", own)
        .replace("{name}", own)
        .replace("{subscription}", ids["subscription"])
    )
    return path.replace("/circuit/{command}", "/circuit/trip").replace("{command}", "pause")


async def test_no_page_and_no_form_reaches_resources_of_another_tenant(pages: Pages) -> None:
    acme, globex = await two_tenants(pages.api)
    theirs = await ids_of(pages.api, globex)
    key = created(await pages.api.post("/v1/api-keys", {"name": "acme", "tenant": acme}))["key"]
    await open_portal(pages, acme)
    before = await _everything(pages.api)
    async with browsing(pages.api) as own:
        await own.sign_in(key)
        walked = 0
        for visitor, base in ((own, ""), (pages, PORTAL)):
            for method, path in routes_with_ids():
                here = base + address(path, theirs)
                if not _exists(pages.api, method, here):
                    continue
                fields = {"url": "https://example.com/", "channel": "orders", "grace": "0", "signatures": "standard"}
                response = await (visitor.get(here) if method == "GET" else visitor.send(here, **fields))
                assert response.status_code == 404, f"{method} {here}: {response.status_code}"
                walked += 1
    assert walked > 35
    assert await _everything(pages.api) == before


def _exists(api: Api, method: str, path: str) -> bool:
    """The portal has no pages for operators."""
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    return any(route.matches(scope)[0] is Match.FULL for route in api.app.router.routes)


async def _everything(api: Api) -> list[list[tuple[object, ...]]]:
    tables = ("endpoint", "delivery", "task", "subscription", "channel", "endpoint_secret", "circuit")
    return [[tuple(row) for row in await api.rows(f"SELECT * FROM {table} ORDER BY 1")] for table in tables]


async def test_dead_letters_of_another_tenant_cannot_be_selected(pages: Pages) -> None:
    acme, globex = await two_tenants(pages.api)
    theirs = await ids_of(pages.api, globex)
    await open_portal(pages, acme)
    response = await pages.send("/portal/dead-letters/selected", action="discard", gid=theirs["/deliveries"])
    assert response.status_code == 404


# Errors

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_an_unknown_address_is_a_page_that_leads_back(pages: Pages) -> None:
    await pages.sign_in()
    for path in ("/nothing", "/deliveries/dlv_none/nothing", "/portal/nothing"):
        response = await pages.http.get(path, headers=BROWSER)
        assert response.status_code == 404
        assert "<h1>Not Found</h1>" in response.text and "complete" in response.text
        assert "script-src 'self'" in response.headers["content-security-policy"]
    inside = await pages.http.get("/deliveries/nothing/nothing", headers=BROWSER)
    assert 'aria-label="Pages"' in inside.text and "All deliveries" in inside.text


async def test_an_unknown_address_leads_to_the_sign_in_without_a_session(pages: Pages) -> None:
    response = await pages.http.get("/nothing", headers=BROWSER)
    assert response.status_code == 404 and 'href="/sign-in"' in response.text


async def test_programs_still_get_problem_documents(pages: Pages) -> None:
    await pages.sign_in()
    for path, headers in (
        ("/nothing", {"accept": "application/json"}),
        ("/nothing", {}),
        ("/v1/nothing", BROWSER),
        ("/v1/deliveries/dlv_none", BROWSER),
        ("/.well-known/nothing", BROWSER),
    ):
        response = await pages.http.get(path, headers=headers)
        assert response.headers["content-type"] == "application/problem+json", path


async def test_opening_the_address_of_a_form_is_a_405_that_explains_it(pages: Pages) -> None:
    await pages.sign_in()
    gid = (await pages.api.endpoint())["endpointGid"]
    response = await pages.http.get(f"/endpoints/{gid}/pause", headers=BROWSER)
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert "accepts a form" in response.text and "All endpoints" in response.text


async def test_an_action_that_needs_temporal_says_so_and_leads_back_to_its_page(pages: Pages) -> None:
    """The link is not to the form's own address, which shows nothing."""
    gid = (await pages.api.endpoint())["endpointGid"]
    await pages.sign_in()
    response = await pages.http.post(
        f"/endpoints/{gid}/pause",
        data={"form_token": await pages.token()},
        headers={"referer": f"http://everhook.test/endpoints/{gid}?window=24h"},
    )
    assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
    assert "Temporal does not respond" in response.text
    assert f'href="/endpoints/{gid}?window=24h"' in response.text
    assert f'href="/endpoints/{gid}/pause"' not in response.text
    assert f'name="back" value="/endpoints/{gid}?window=24h"' in response.text


@pytest.mark.parametrize("came_from", ["https://evil.example/x", "http://everhook.test//evil.example", "", "nonsense"])
async def test_the_page_after_a_form_does_not_lead_to_another_site(pages: Pages, came_from: str) -> None:
    await pages.sign_in()
    response = await pages.http.post("/keys/key_none/revoke", data={}, headers={"referer": came_from})
    assert response.status_code == 403
    assert "evil.example" not in response.text


async def test_an_address_that_could_be_taken_for_another_site_is_not_offered_again(pages: Pages) -> None:
    await pages.sign_in()
    response = await pages.http.get("http://everhook.test//evil.example/x", headers=BROWSER)
    assert response.status_code == 404 and "evil.example" not in response.text


async def test_pages_say_that_the_database_is_unavailable(pages: Pages) -> None:
    await pages.sign_in()
    for table in ("tenant", "delivery", "endpoint_minute"):
        await pages.api.change_rows(f"ALTER TABLE {table} RENAME TO {table}_away")
    for path in ("/", "/deliveries"):
        response = await pages.get(path)
        assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
        assert "database does not respond" in response.text and "Try again" in response.text


async def test_an_internal_error_is_a_page_with_the_time_to_look_for_in_the_log(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a secret detail")

    await pages.sign_in()
    monkeypatch.setattr("everhook.delivery.store.page", broken)
    response = await pages.get("/deliveries?status=parked")
    assert response.status_code == 500
    assert "A fault of Everhook" in response.text and " UTC" in response.text and "a secret detail" not in response.text
    assert 'href="/deliveries?status=parked"' in response.text


async def test_an_unknown_resource_is_a_page_that_leads_back(pages: Pages) -> None:
    await pages.sign_in()
    response = await pages.get("/deliveries/dlv_none")
    assert response.status_code == 404
    assert "There is no delivery dlv_none." in response.text
    assert "All deliveries" in response.text and "To the overview" in response.text


async def test_signing_in_redirects_to_the_requested_page(pages: Pages) -> None:
    response = await pages.get("/deliveries?status=parked")
    assert response.headers["location"] == "/sign-in?next=/deliveries%3Fstatus%3Dparked"


# Words


async def test_the_key_of_the_environment_has_a_name_that_says_what_it_is(pages: Pages) -> None:
    await pages.sign_in()
    await pages.send("/channels/new", name="orders")
    for path in ("/", "/audit"):
        page = (await pages.get(path)).text
        assert '<span title="with EVERHOOK_API_KEY">admin</span>' in page and ">environment<" not in page


async def test_the_channel_of_the_system_has_no_button_to_delete_it(pages: Pages) -> None:
    await pages.api.change_rows(
        "INSERT OR IGNORE INTO channel (name, routes_version, created_at) "
        "VALUES ('everhook.events', 0, CURRENT_TIMESTAMP)"
    )
    await pages.api.channel()
    await pages.sign_in()
    page = (await pages.get("/channels")).text
    assert "/channels/everhook.events/edit" in page and "/channels/orders/delete" in page
    assert "/channels/everhook.events/delete" not in page


async def test_customers_are_not_offered_to_open_their_own_circuit(pages: Pages) -> None:
    acme, _ = await two_tenants(pages.api)
    (endpoint,) = await pages.api.rows("SELECT gid FROM endpoint WHERE tenant_gid = :t", t=acme)
    await open_portal(pages, acme)
    assert "Trip circuit" not in (await pages.get(f"/portal/endpoints/{endpoint.gid}")).text
    await pages.sign_in()
    assert "Trip circuit" in (await pages.get(f"/endpoints/{endpoint.gid}")).text


@pytest.mark.parametrize(
    ("http", "allow", "hint"),
    [
        (True, [], ""),
        (False, ["10.20.0.0/16", "::1/128"], ", or in 10.20.0.0/16, ::1/128"),
        (True, ["127.0.0.0/8"], ", or in 127.0.0.0/8 (there also http)"),
    ],
)
async def test_operators_read_what_the_egress_rules_allow_and_tenants_what_all_may_use(
    pages: Pages, http: bool, allow: list[str], hint: str
) -> None:
    settings = pages.api.app.state.dashboard.settings
    settings.egress_http, settings.egress_allow = http, allow
    await pages.sign_in()
    usual = "Where messages are sent: https, and an address that is public"
    assert f"{usual}{hint}<" in (await pages.get("/endpoints/new")).text
    acme, _ = await two_tenants(pages.api)
    await open_portal(pages, acme)
    assert f"{usual}<" in (await pages.get("/portal/endpoints/new")).text


@pytest.mark.parametrize(
    ("circuit", "state", "detail"),
    [
        ("state = 'closed'", "idle", ""),
        ("state = 'open', failures = 5", "failing", "circuit open"),
        ("state = 'half_open'", "failing", "circuit half-open"),
        ("state = 'open', hold = 'paused'", "paused", "circuit open"),
        ("hold = 'disabled'", "disabled", ""),
    ],
)
async def test_an_endpoint_shows_its_health_as_its_state_and_its_circuit_as_a_detail(
    pages: Pages, circuit: str, state: str, detail: str
) -> None:
    await pages.api.channel()
    gid = (await pages.api.endpoint())["endpointGid"]
    await pages.api.change_rows(f"UPDATE circuit SET {circuit}")
    await pages.sign_in()
    for path in ("/endpoints", f"/endpoints/{gid}"):
        page = (await pages.get(path)).text
        assert re.search(rf'<span class="pill \w+">{state}</span>', page), path
        assert re.findall(r'<div class="quiet">(circuit [\w-]+)</div>', page) == ([detail] if detail else [])


async def test_only_what_failures_caused_names_them_among_the_events_of_a_circuit(pages: Pages) -> None:
    gid = (await pages.api.endpoint())["endpointGid"]
    events = [
        ("endpoint.paused", 3, ""),
        ("endpoint.resumed", 3, ""),
        ("endpoint.enabled", 3, ""),
        ("endpoint.disabled", 3, "by an operator"),
        ("endpoint.circuit_closed", 3, ""),
        ("endpoint.circuit_opened", 4, ""),
        ("endpoint.circuit_opened", 5, ""),
    ]
    for kind, failures, reason in events:
        await pages.api.change_rows(
            "INSERT INTO operational_event (gid, kind, endpoint_gid, data, created_at) "
            "VALUES (:gid, :kind, :endpoint, :data, :now)",
            gid=new_gid(Kind.EVENT),
            kind=kind,
            endpoint=gid,
            data=json.dumps({"failures": failures, "reason": reason}),
            now=now().isoformat(sep=" "),
        )
    await pages.sign_in()
    page = (await pages.get(f"/endpoints/{gid}")).text
    lines = re.findall(r'<b>([\w ]+)</b>(?:(?!<li>).)*?</div>(?:<div class="quiet">(.*?)</div>)?</li>', page)
    assert sorted(lines) == [
        ("Circuit closed", ""),
        ("Circuit opened", ""),
        ("Circuit opened", "after 5 failures in a row"),
        ("Disabled", "by an operator"),
        ("Enabled", ""),
        ("Paused", ""),
        ("Resumed", ""),
    ]


async def test_the_page_of_an_archived_receipt_names_its_file(pages: Pages) -> None:
    receipt = new_gid(Kind.RECEIPT)
    await pages.sign_in()
    assert (await pages.get(f"/receipts/{receipt}")).status_code == 404
    await pages.api.change_rows(
        'INSERT INTO receipt_archive (tenant_gid, start, "end", file, sha256, newest_at, archived_at) '
        "VALUES ('ten_x', 0, 5, 'ten_x/old.receipts.gz', '', '2999-01-01 00:00:00.000000', CURRENT_TIMESTAMP)"
    )
    for path in (f"/receipts/{receipt}", f"/receipts/{receipt}/bundle"):
        response = await pages.get(path)
        assert response.status_code == 410 and "ten_x/old.receipts.gz" in response.text


async def test_circuit_settings_are_edited_and_what_applies_is_shown(pages: Pages) -> None:
    await pages.api.channel("orders", circuit={"cooldownSeconds": 45})
    await pages.sign_in()
    assert "cooldownSeconds 45" in (await pages.get("/channels")).text
    response = await pages.send(
        "/endpoints/new",
        url="http://127.0.0.1:9999/x",
        signatures="standard",
        channel="orders",
        failureThreshold="7",
        requestsInFlight="3",
        paused="on",
    )
    page = await pages.shown_after(response)
    circuit = (
        "opens after 7 failures in a row, for 45 s to 10 min; when it closes, 5 to 100 parked deliveries a second are "
        "released; 5 d of failures disable the endpoint"
    )
    for shown in (circuit, "<dt>Concurrent requests</dt><dd>3</dd>"):
        assert shown in page.text
    [endpoint] = await pages.api.walk("/v1/endpoints")
    at = f"/endpoints/{endpoint['endpointGid']}/edit"
    assert (endpoint["status"], endpoint["circuit"]["settings"]) == ("paused", {"failureThreshold": 7})
    form = (await pages.get(at)).text
    assert 'name="failureThreshold" type="text" value="7"' in form and 'name="paused"' not in form
    refused = await pages.send(at, url=endpoint["url"], signatures="standard", requestsInFlight="0")
    assert refused.status_code == 422 and 'id="h-requestsInFlight" class="mistake"' in refused.text
    assert (await pages.send(at, url=endpoint["url"], signatures="standard", cooldown="2 min")).status_code == 303
    [endpoint] = await pages.api.walk("/v1/endpoints")
    assert (endpoint["circuit"]["settings"], endpoint["maxInFlight"]) == ({"cooldownSeconds": 120}, None)
    assert (await pages.send("/channels/orders/edit", failureThreshold="9")).status_code == 303
    assert (await pages.api.get("/v1/channels/orders")).json()["circuit"] == {"failureThreshold": 9}


async def test_a_raised_alert_is_shown_on_the_overview_and_at_the_endpoint(pages: Pages) -> None:
    gid = (await pages.api.endpoint(alerts={"successRateBelow": 0.95, "latencyAboveMs": None}))["endpointGid"]
    await pages.api.change_rows(
        "INSERT INTO endpoint_alerts (endpoint_gid, tenant_gid, level, raised, version, updated_at) "
        "SELECT gid, tenant_gid, 'degraded', :raised, 1, CURRENT_TIMESTAMP FROM endpoint",
        raised=json.dumps(
            {"success_rate": {"since": now().isoformat(), "value": 0.5, "threshold": 0.95, "quietSince": None}}
        ),
    )
    await pages.api.change_rows("UPDATE circuit SET state = 'open', failures = 5")
    await pages.sign_in()
    page = (await pages.get(f"/endpoints/{gid}")).text
    assert "Alert: too many attempts fail, 0.5 with a limit of 0.95" in page
    assert '<dd>95 % <span class="quiet">own</span>' in page
    assert "Alert: too many attempts fail" in (await pages.get("/")).text


async def test_a_subscription_to_events_can_ask_for_the_payloads_of_dead_letters(pages: Pages) -> None:
    endpoint = (await pages.api.endpoint())["endpointGid"]
    await pages.api.channel()
    await pages.sign_in()
    page = f"/endpoints/{endpoint}"
    assert "<option>everhook.events" in (await pages.get(page)).text
    refused = await pages.send(f"{page}/subscriptions", channel="orders", includePayload="on")
    assert refused.status_code == 422 and "is for subscriptions to everhook.events" in refused.text
    assert (
        await pages.send(f"{page}/subscriptions", channel="everhook.events", includePayload="on")
    ).status_code == 303
    assert "with payloads of dead letters" in (await pages.get(page)).text
