"""The inbox in the dashboard and the portal, and links to one task. Temporal is stopped: deciding does not need it."""

import base64
import json
import re
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog

from api.dashboard.sessions import TASK_LINK
from api.dashboard.task_form import BUTTONS, button
from everhook.inbox.tasks import TaskKind, default_outcomes
from everhook.receipts.receipt import claims_of
from testing.api import JSON, Api, assert_problem, created, ok
from tests.dashboard.conftest import Pages

FORM = {
    "type": "object",
    "required": ["costCentre", "amount"],
    "properties": {
        "costCentre": {"type": "string", "maxLength": 6, "title": "Cost centre", "description": "As in the ledger"},
        "amount": {"type": "integer", "minimum": 1, "maximum": 500},
        "share": {"type": "number", "exclusiveMaximum": 1},
        "urgent": {"type": "boolean"},
        "plant": {"type": "string", "enum": ["Bonn", "Kiel"], "default": "Kiel"},
        "from": {"type": "string", "format": "date"},
    },
}
FILLED = {"data.costCentre": "4711", "data.amount": "20", "data.share": "0.5", "data.urgent": "false"}


async def inbox(api: Api, tenant: str | None = None, name: str = "Managers", channel: str = "orders") -> str:
    body = {"mode": "inbox", "channel": channel, "tenant": tenant}
    options = {"name": name, "groups": {"finance": ["bo"]}}
    gid: str = created(await api.post("/v1/endpoints", body | {"options": options}))["endpointGid"]
    return gid


async def task_of(api: Api, endpoint: str) -> str:
    """The newest task of an inbox."""
    gid: str = ok(await api.get("/v1/tasks", inbox=endpoint))["data"][0]["taskGid"]
    return gid


async def ask(api: Api, **task: Any) -> str:
    """Publish a message on its own channel that opens a task in a new inbox. Returns the gid of the task."""
    channel = f"orders-{await api.count('channel')}"
    await api.channel(channel)
    endpoint = await inbox(api, channel=channel)
    await api.publish({"orderId": 1042}, channel, task={"title": "Approve order 1042?", **task})
    return await task_of(api, endpoint)


async def link(api: Api, gid: str, assignee: str = "ann") -> str:
    """The path of a link to a task."""
    made = created(await api.post(f"/v1/tasks/{gid}/links", {"assignee": assignee}))
    return "/" + str(made["url"]).split("/", 3)[3]


async def submit(pages: Pages, path: str, outcome: str, **fields: str) -> httpx.Response:
    """The form of a link, as its page sends it."""
    body = {"form_token": await pages.token(path), "version": "1", "outcome": outcome, **fields}
    return await pages.http.post(path, data=body, headers={"origin": "null"})


async def of_task(api: Api, gid: str) -> JSON:
    return ok(await api.get(f"/v1/tasks/{gid}"))


# Links


async def test_opening_a_link_decides_nothing_and_its_form_decides_once(pages: Pages) -> None:
    gid = await ask(pages.api, assignees=["ann"])
    path = await link(pages.api, gid)
    for method in ("GET", "HEAD", "OPTIONS"):
        await pages.http.request(method, f"{path}?outcome=approved&version=1")
    page = await pages.get(path)
    assert "Approve order 1042?" in page.text and "1042" in page.text
    assert 'value="approved">Approve</button>' in page.text
    assert 'value="rejected" formnovalidate>Reject</button>' in page.text and "Required to press Reject<" in page.text
    assert (await of_task(pages.api, gid))["state"] == "open"
    done = await submit(pages, path, "approved", comment="fine")
    assert (done.status_code, done.headers["location"]) == (303, path)
    again = await pages.get(path)
    assert "Decided by" in again.text and "<form" not in again.text
    shown = await of_task(pages.api, gid)
    assert (shown["decidedBy"], shown["outcome"], shown["comment"]) == ("ann", "approved", "fine")
    claims = claims_of((await pages.api.rows("SELECT jws FROM receipt"))[0].jws) or {}
    assert (claims["decision"]["identifiedBy"], claims["decision"]["keyGid"]) == ("link", None)
    audit = ok(await pages.api.get("/v1/audit", subject=gid))["data"]
    assert {each["action"] for each in audit} == {"task.link_created", "task.decided"}
    assert path[3:] not in str(audit)


def test_every_outcome_that_tasks_have_by_default_has_a_button_that_says_what_to_do() -> None:
    assert {each["name"] for kind in TaskKind for each in default_outcomes(kind)} == BUTTONS.keys()
    assert button("sent_back") == "Sent back"


async def test_a_task_that_an_earlier_version_stored_with_nulls_has_its_pages(pages: Pages) -> None:
    await pages.sign_in()
    gid = await ask(pages.api, assignees=["ann"])
    path = await link(pages.api, gid)
    document = (await of_task(pages.api, gid))["task"]
    nulls = dict.fromkeys(("title", "description", "form", "links", "excludeRequester", "reminders", "escalation"))
    await pages.api.change_rows("UPDATE task SET document = :document", document=json.dumps(document | nulls))
    for where in ("/inbox", f"/inbox/{gid}", path):
        response = await pages.get(where)
        assert (response.status_code, "Untitled<" in response.text) == (200, True), where
    assert (await submit(pages, path, "approved")).status_code == 303
    assert (await pages.get(f"/inbox/{gid}")).status_code == 200


async def test_a_form_that_is_sent_twice_decides_once_and_another_decision_says_who_was_first(pages: Pages) -> None:
    gid = await ask(pages.api, assignees=["ann", "bo"])
    path, theirs = await link(pages.api, gid), await link(pages.api, gid, "bo")
    body = {"form_token": await pages.token(path), "version": "1", "outcome": "approved"}
    late = {"form_token": await pages.token(theirs), "version": "1", "outcome": "rejected", "comment": "no"}
    responses = [await pages.http.post(path, data=body) for _ in range(2)]
    assert [each.status_code for each in responses] == [303, 303]
    refused = await pages.http.post(theirs, data=late)
    assert refused.status_code == 409
    assert "was decided already: approved" in refused.text
    assert await pages.api.count("attempt") == 1


async def test_a_link_is_for_one_person_and_one_task(pages: Pages) -> None:
    gid = await ask(pages.api, assignees=["ann", "group:finance"])
    other = await ask(pages.api, assignees=["ann"])
    for assignee in ("eve", "group:finance"):
        refused = await pages.api.post(f"/v1/tasks/{gid}/links", {"assignee": assignee})
        assert_problem(refused, 422, "assignee")
    path, theirs = await link(pages.api, gid), await link(pages.api, other)
    token = await pages.token(theirs)
    response = await pages.http.post(path, data={"form_token": token, "version": "1", "outcome": "approved"})
    assert response.status_code == 403
    header, claims, signature = path[3:].split(".")
    forged = base64.urlsafe_b64decode(claims + "==").replace(gid.encode(), other.encode())
    altered = f"/t/{header}.{base64.urlsafe_b64encode(forged).decode().rstrip('=')}.{signature}"
    for wrong in (altered, path[:-2], f"/t/{await _session(pages)}"):
        assert (await pages.get(wrong)).status_code == 410
        assert (await pages.http.post(wrong, data={"outcome": "approved"})).status_code == 410
    assert [(await of_task(pages.api, each))["state"] for each in (gid, other)] == ["open", "open"]
    assert (await submit(pages, await link(pages.api, gid, "bo"), "approved")).status_code == 303


async def _session(pages: Pages) -> str:
    """Another kind of token with the same signature."""
    return (await pages.sign_in()).cookies["everhook_session"]


async def test_an_expired_link_is_410_and_says_what_to_do(pages: Pages) -> None:
    gid = await ask(pages.api, dueSeconds=40 * 86_400)
    made = created(await pages.api.post(f"/v1/tasks/{gid}/links", {"assignee": "ann"}))
    days = await pages.api.rows("SELECT julianday(:at) - julianday('now') AS days", at=made["expiresAt"])
    assert 29.9 < days[0].days <= 30
    subject = f"{(await pages.api.rows('SELECT tenant_gid FROM task'))[0].tenant_gid} {gid} ann"
    sessions = pages.api.app.state.dashboard.sessions
    for ends_in, status in ((60, 200), (-60, 410)):
        path = f"/t/{sessions.issue(TASK_LINK, subject, timedelta(seconds=ends_in))[0]}"
        assert (await pages.get(path)).status_code == status
    for response in (await pages.get(path), await pages.http.post(path, data={"outcome": "approved"})):
        assert response.status_code == 410
        assert "ask for a new one" in response.text


@pytest.mark.parametrize("state", ["expired", "cancelled"])
async def test_the_link_of_a_task_that_ended_otherwise_is_410(pages: Pages, state: str) -> None:
    gid = await ask(pages.api)
    path = await link(pages.api, gid)
    await pages.api.change_rows("UPDATE task SET state = :state", state=state)
    assert (await pages.get(path)).status_code == 410
    refused = await pages.api.post(f"/v1/tasks/{gid}/links", {"assignee": "ann"})
    assert assert_problem(refused, 409)["type"] == "/problems/already-decided"


async def test_a_person_who_handed_a_task_over_cannot_decide_it_by_link(pages: Pages) -> None:
    gid = await ask(pages.api, assignees=["ann"])
    path = await link(pages.api, gid)
    body = {"form_token": await pages.token(path), "version": "2", "outcome": "approved"}
    ann = await pages.api.key("admin", name="ann")
    ok(await ann.post(f"/v1/tasks/{gid}/delegate", {"to": "bo"}))
    for response in (await pages.get(path), await pages.http.post(path, data=body)):
        assert response.status_code == 410
        assert "handed over" in response.text
    assert (await of_task(pages.api, gid))["state"] == "open"


async def test_a_link_leaves_no_traces(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = await ask(pages.api, links=[{"title": "Order", "url": "https://shop.example/1042"}])
    path = await link(pages.api, gid)
    with structlog.testing.capture_logs() as logs:
        page = await pages.get(path)

        async def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("everhook.inbox.store.find", broken)
        assert (await pages.get(path)).status_code == 500
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"
    assert "script-src 'self'; style-src 'self'" in page.headers["content-security-policy"]
    assert re.findall(r"<style|<script(?![^>]*src=)| on[a-z]+=| style=", page.text) == []
    assert 'rel="noopener noreferrer external"' in page.text
    assert any(each["event"] == "unhandled error" for each in logs)
    assert path[3:] not in str(logs)


async def test_only_those_who_have_the_tenant_make_links(pages: Pages) -> None:
    gid = await ask(pages.api)
    endpoint = (await of_task(pages.api, gid))["inbox"]
    for key in (await pages.api.key("read"), await pages.api.key(f"tasks:{endpoint}")):
        assert_problem(await key.post(f"/v1/tasks/{gid}/links", {"assignee": "ann"}), 403)
    pages.api.app.state.dashboard.settings.dev = False
    try:
        refused = await pages.api.post(f"/v1/tasks/{gid}/links", {"assignee": "ann"})
        assert assert_problem(refused, 409)["type"] == "/problems/not-configured"
    finally:
        pages.api.app.state.dashboard.settings.dev = True
    assert await pages.api.rows("SELECT 1 FROM audit_entry WHERE action = 'task.link_created'") == []


async def test_the_link_of_a_tenant_that_is_erased_opens_nothing(pages: Pages) -> None:
    gid = await ask(pages.api)
    path = await link(pages.api, gid)
    await pages.api.change_rows("UPDATE tenant SET erasing_since = CURRENT_TIMESTAMP")
    assert (await pages.get(path)).status_code == 410


# The form


async def test_a_form_has_the_limits_of_its_schema(pages: Pages) -> None:
    page = (await pages.get(await link(pages.api, await ask(pages.api, form=FORM)))).text
    assert re.search(
        r'name="data.costCentre" type="text" value="" autocomplete="off" required aria-\S+ maxlength="6"', page
    )
    assert re.search(r'name="data.amount" type="number"[^>]* required min="1" max="500" step="1"', page)
    assert re.search(r'name="data.share" type="number"[^>]* step="any"', page)
    assert re.search(r'name="data.from" type="date"', page)
    assert '<option value="Kiel" selected>' in page
    assert page.index("disabled hidden") < page.index('name="outcome"')  # Enter in a field decides nothing


async def test_errors_are_shown_at_each_field_and_the_input_is_kept(pages: Pages) -> None:
    gid = await ask(pages.api, form=FORM)
    path = await link(pages.api, gid)
    typed = FILLED | {"data.costCentre": "47114711", "data.amount": "many", "data.share": "2", "data.urgent": ""}
    response = await submit(pages, path, "approved", comment="<b>typed</b>", **typed)
    assert response.status_code == 422
    wrong = re.findall(r'id="f-data-\d-h" class="mistake">([^<]*)', response.text)
    assert wrong == [
        "takes at most 6 characters",
        "is not a whole number, or has too many digits",
        "has to be less than 1",
    ]
    assert response.text.count('aria-invalid="true"') == 3
    assert 'value="47114711"' in response.text and "&lt;b&gt;typed&lt;/b&gt;" in response.text
    assert '<option value="Kiel" selected>' not in response.text  # it was left empty
    assert (await submit(pages, path, "rejected")).text.count('id="h-comment" class="mistake"') == 1
    assert (await submit(pages, path, "none")).status_code == 422
    assert (await of_task(pages.api, gid))["state"] == "open"


async def test_form_input_is_converted_to_the_types_of_the_schema(pages: Pages) -> None:
    gid = await ask(pages.api, form=FORM)
    more = {"data.plant": "Bonn", "data.from": "2026-12-01"}
    assert (await submit(pages, await link(pages.api, gid), "approved", **FILLED, **more)).status_code == 303
    data = {"costCentre": "4711", "amount": 20, "share": 0.5, "urgent": False, "plant": "Bonn", "from": "2026-12-01"}
    assert (await of_task(pages.api, gid))["data"] == data


async def test_a_rejection_needs_no_form(pages: Pages) -> None:
    gid = await ask(pages.api, form=FORM)
    response = await submit(pages, await link(pages.api, gid), "rejected", comment="too expensive")
    assert response.status_code == 303
    shown = await of_task(pages.api, gid)
    assert (shown["outcome"], shown["data"]) == ("rejected", None)


async def test_a_link_serves_those_whom_another_inbox_asks_after_an_escalation(pages: Pages) -> None:
    gid = await ask(pages.api, assignees=["ann"])
    options = {"name": "Directors", "task": {"assignees": ["dee"]}}
    other = created(await pages.api.post("/v1/endpoints", {"mode": "inbox", "options": options}))["endpointGid"]
    await pages.api.change_rows("UPDATE task SET escalated_to = :other WHERE gid = :gid", gid=gid, other=other)
    path = await link(pages.api, gid, "dee")
    assert (await submit(pages, path, "approved")).status_code == 303
    assert (await of_task(pages.api, gid))["decidedBy"] == "dee"


# The inbox


async def test_the_inbox_shows_what_asks_the_viewer_first(pages: Pages) -> None:
    await pages.sign_in()
    assert "Nothing is asked" in (await pages.get("/inbox")).text
    await ask(pages.api, title="Not for me", assignees=["bo"])
    gid = await ask(pages.api, title="For me", assignees=["environment"])
    late = await ask(pages.api, title="Too late", assignees=["bo"])
    await pages.api.change_rows("UPDATE task SET due_at = '2026-01-01 00:00:00.000000' WHERE gid = :gid", gid=late)
    page = (await pages.get("/inbox")).text
    assert page.index("Waiting for you") < page.index("For me") < page.index("Others") < page.index("Not for me")
    assert page.count(gid) == 1
    assert page.count('class="pill bad">overdue') == 1
    assert '<span class="count">' in page
    overdue = (await pages.get("/inbox?state=overdue")).text
    assert "Too late" in overdue and "For me" not in overdue
    endpoint = (await of_task(pages.api, gid))["inbox"]
    only = (await pages.get(f"/inbox?state=any&inbox={endpoint}")).text
    assert "For me" in only and "Not for me" not in only
    assert "Nothing matches" in (await pages.get("/inbox?state=decided")).text


async def test_a_task_is_decided_in_the_dashboard_with_its_receipt(pages: Pages) -> None:
    gid = await ask(pages.api, form=FORM)
    await pages.sign_in()
    wrong = await pages.send(f"/inbox/{gid}/decide", outcome="approved", version="1")
    assert (wrong.status_code, wrong.text.count(">is required<")) == (422, 2)
    done = await pages.send(f"/inbox/{gid}/decide", outcome="approved", version="1", **FILLED)
    assert done.status_code == 303
    page = (await pages.get(done.headers["location"])).text
    shown = await of_task(pages.api, gid)
    assert f"/receipts/{shown['receiptGid']}" in page and "Cost centre" in page
    receipt = await pages.get(f"/receipts/{shown['receiptGid']}")
    assert receipt.status_code == 200 and f'<span aria-current="page">{shown["receiptGid"]}</span>' in receipt.text
    claims = claims_of((await pages.api.rows("SELECT jws FROM receipt"))[0].jws) or {}
    assert claims["decision"]["identifiedBy"] == "session"
    late = await pages.send(f"/inbox/{gid}/decide", outcome="rejected", version="1", comment="no")
    assert late.status_code == 409 and "was decided already: approved" in late.text


async def test_a_task_that_changed_meanwhile_is_shown_anew(pages: Pages) -> None:
    gid = await ask(pages.api)
    await pages.sign_in()
    await pages.api.change_rows("UPDATE task SET version = 4 WHERE gid = :gid", gid=gid)
    response = await pages.send(f"/inbox/{gid}/decide", outcome="rejected", version="1", comment="typed")
    assert response.status_code == 409
    assert 'name="version" value="4"' in response.text and ">typed</textarea>" in response.text
    assert "has changed since you read it" in response.text


async def test_a_task_is_handed_over_and_commented_on(pages: Pages) -> None:
    gid = await ask(pages.api, assignees=["environment"])
    await pages.sign_in()
    for path, field in (("comment", "remark"), ("delegate", "to")):
        wrong = await pages.send(f"/inbox/{gid}/{path}", **{field: " "})
        assert wrong.status_code == 422 and f'id="h-{field}" class="mistake"' in wrong.text
        long = await pages.send(f"/inbox/{gid}/{path}", **{field: "x" * 2_001})
        assert long.status_code == 422 and "takes at most" in long.text
    assert (await pages.send(f"/inbox/{gid}/comment", remark="asked the supplier")).status_code == 303
    assert (await pages.send(f"/inbox/{gid}/delegate", to="bo", note="on leave")).status_code == 303
    page = (await pages.get(f"/inbox/{gid}")).text
    assert "asked the supplier" in page and "on leave" in page
    why = f"Only bo may decide {gid}."
    assert f"{why} Sign in with the key of an assignee." in page and 'name="outcome"' not in page
    assert '<span title="with EVERHOOK_API_KEY">admin' in page and "environment" not in page
    refused = await pages.send(f"/inbox/{gid}/decide", outcome="approved", version="2")
    assert refused.status_code == 403 and why in refused.text


async def test_a_quorum_says_that_others_have_to_agree(pages: Pages) -> None:
    gid = await ask(pages.api, quorum=2)
    await pages.sign_in()
    done = await pages.send(f"/inbox/{gid}/decide", outcome="approved", version="1")
    page = (await pages.get(done.headers["location"])).text
    assert "More people have to agree" in page and 'name="outcome"' not in page


async def test_the_pages_about_a_decision_lead_to_each_other(pages: Pages) -> None:
    gid = await ask(pages.api)
    await pages.sign_in()
    before = await of_task(pages.api, gid)
    delivery = f"/deliveries/{before['deliveryGid']}"
    assert f'href="/inbox/{gid}"' in (await pages.get(delivery)).text
    await pages.send(f"/inbox/{gid}/decide", outcome="approved", version="1")
    page = (await pages.get(delivery)).text
    assert f'href="/inbox/{gid}"' in page and "<span>None</span>" not in page
    receipt = (await pages.get(f"/receipts/{(await of_task(pages.api, gid))['receiptGid']}")).text
    assert "taskGid" not in receipt
    for label in ("Decided by", "Identified by", "SHA-256 of the payload"):
        assert f"<dt>{label}</dt>" in receipt


async def test_the_steps_of_a_gate_lead_to_their_tasks(pages: Pages) -> None:
    await pages.api.channel()
    endpoints = [await inbox(pages.api, name=name) for name in ("Managers", "Finance")]
    published = await pages.api.publish({"n": 1}, gates=[{"inbox": each} for each in endpoints])
    gid = await task_of(pages.api, endpoints[0])
    await pages.sign_in()
    page = (await pages.get(f"/messages/{published['messageGid']}")).text
    assert page.count(f'href="/inbox/{gid}"') == 1 and page.count('href="/inbox/') == 1


async def test_the_history_of_a_task_is_in_the_order_of_time(pages: Pages) -> None:
    gid = await ask(pages.api, quorum=3)
    await pages.sign_in()
    await pages.send(f"/inbox/{gid}/decide", outcome="approved", version="1", comment="first")
    await pages.send(f"/inbox/{gid}/comment", remark="second")
    page = (await pages.get(f"/inbox/{gid}")).text
    assert page.index(">first<") < page.index(">second<")


async def test_a_task_names_the_inbox_that_it_was_escalated_to(pages: Pages) -> None:
    gid = await ask(pages.api, assignees=["ann"])
    other = await inbox(pages.api, name="Directors", channel="everhook.tasks")
    note = [{"kind": "escalated", "to": other, "at": "2026-01-31T12:00:00Z"}]
    lost = [note[0] | {"to": "ep_lost", "error": "there is no such inbox"}]
    await pages.sign_in()
    for notes, to, shown in ((note, other, ("to Directors", "Directors: everyone")), (lost, None, ("no such inbox",))):
        await pages.api.change_rows(
            "UPDATE task SET notes = :notes, escalated_to = :to WHERE gid = :gid",
            gid=gid,
            notes=json.dumps(notes),
            to=to,
        )
        page = (await pages.get(f"/inbox/{gid}")).text
        for text in shown:
            assert text in page


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("expired", "No one decided"),
        ("endpoint_deleted", "The inbox was deleted"),
        ("payload_erased", "The payload was erased"),
    ],
)
async def test_a_task_that_ended_without_a_decision_says_why(pages: Pages, reason: str, text: str) -> None:
    gid = await ask(pages.api)
    path = await link(pages.api, gid)
    await pages.sign_in()
    await pages.api.change_rows("UPDATE task SET state = 'expired' WHERE gid = :gid", gid=gid)
    await pages.api.change_rows("UPDATE delivery SET status = 'dead_lettered', reason = :reason", reason=reason)
    page = (await pages.get(f"/inbox/{gid}")).text
    assert text in page and page.count("replay of the dead letter") == (reason == "expired")
    ended = await pages.get(path)
    assert ended.status_code == 410 and text in ended.text


async def test_text_of_a_task_is_escaped(pages: Pages) -> None:
    hostile = "<script>alert(1)</script>"
    form = {"type": "object", "title": hostile, "properties": {hostile: {"type": "string", "title": hostile}}}
    gid = await ask(pages.api, title=hostile, description=hostile, form=form)
    await pages.sign_in()
    for path in ("/inbox", f"/inbox/{gid}", await link(pages.api, gid)):
        assert hostile not in (await pages.get(path)).text


async def test_a_key_for_one_inbox_opens_its_tasks_and_nothing_else(pages: Pages) -> None:
    gid = await ask(pages.api)
    other = await ask(pages.api)
    endpoint = (await of_task(pages.api, gid))["inbox"]
    ann = created(await pages.api.post("/v1/api-keys", {"name": "ann", "scopes": [f"tasks:{endpoint}"]}))["key"]
    signed_in = await pages.sign_in(ann)
    assert signed_in.headers["location"] == "/inbox"
    page = (await pages.get("/inbox")).text
    assert gid in page and other not in page
    assert re.findall(r'<li><a href="(/[^"]*)"', page) == ["/inbox"]
    for path in ("/", "/deliveries", "/endpoints", "/keys", f"/receipts/{gid}"):
        assert (await pages.get(path)).status_code == 403
    for path in (f"/inbox/{other}", "/portal/inbox"):
        assert (await pages.get(path)).status_code in (401, 404)
    token = await pages.token("/inbox")
    body = {"form_token": token, "outcome": "approved", "version": "1"}
    assert (await pages.http.post(f"/inbox/{other}/decide", data=body)).status_code == 404
    assert (await pages.http.post(f"/endpoints/{endpoint}/pause", data=body)).status_code == 403
    assert (await pages.http.post(f"/inbox/{gid}/decide", data=body)).status_code == 303
    assert (await of_task(pages.api, gid))["decidedBy"] == "ann"
    assert "/receipts/" not in (await pages.get(f"/inbox/{gid}")).text
    assert (await pages.http.post("/sign-out", data={"form_token": token})).status_code == 303


async def test_a_read_only_user_sees_tasks_without_their_forms(pages: Pages) -> None:
    gid = await ask(pages.api)
    reader = created(await pages.api.post("/v1/api-keys", {"name": "eve", "scopes": ["read"]}))["key"]
    await pages.sign_in(reader)
    page = (await pages.get(f"/inbox/{gid}")).text
    assert 'name="outcome"' not in page and 'name="remark"' not in page
    token = await pages.token("/inbox")
    body = {"form_token": token, "outcome": "approved", "version": "1"}
    assert (await pages.http.post(f"/inbox/{gid}/decide", data=body)).status_code == 403


async def test_a_portal_shows_the_tasks_of_its_tenant_to_the_person_whom_the_link_names(pages: Pages) -> None:
    api = pages.api
    await api.channel()
    gids = {}
    for tenant in ("acme", "globex"):
        endpoint = await inbox(api, tenant)
        await api.publish({"n": 1}, tenant=tenant, task={"title": f"Ask {tenant}", "assignees": ["ann"]})
        gids[tenant] = await task_of(api, endpoint)
    asked = {"person": "ann"}
    made = created(await api.post("/v1/tenants/acme/portal-link", asked))["url"]
    await pages.http.post("/portal/open", data={"token": made.rpartition("/")[2]})
    page = (await pages.get("/portal/inbox")).text
    assert "Waiting for you" in page and "Ask acme" in page and "Ask globex" not in page
    assert (await pages.get(f"/portal/inbox/{gids['globex']}")).status_code == 404
    shown = await pages.get(f"/portal/inbox/{gids['acme']}")
    assert 'name="outcome"' in shown.text
    done = await pages.send(f"/portal/inbox/{gids['acme']}/decide", outcome="approved", version="1")
    assert done.status_code == 303
    assert (await of_task(api, gids["acme"]))["decidedBy"] == "ann"
    anonymous = created(await api.post("/v1/tenants/globex/portal-link"))["url"]
    await pages.http.post("/portal/open", data={"token": anonymous.rpartition("/")[2]})
    assert "Open the portal by a link for an assignee." in (await pages.get(f"/portal/inbox/{gids['globex']}")).text


async def test_tokens_of_links_are_of_their_own_kind(pages: Pages) -> None:
    path = await link(pages.api, await ask(pages.api))
    sessions = pages.api.app.state.dashboard.sessions
    assert sessions.read(TASK_LINK, path[3:]) is not None
    for kind in ("dashboard", "portal", "portal-link"):
        assert sessions.read(kind, path[3:]) is None


# Endpoints


async def test_an_inbox_is_created_and_edited_by_a_form(pages: Pages) -> None:
    await pages.sign_in()
    fields = {"mode": "inbox", "inboxName": "Managers", "assignees": "ann\nbo", "dueHours": "48"}
    wrong = await pages.send("/endpoints/new", **fields | {"assignees": "ann\ngroup:finance"})
    assert wrong.status_code == 422 and "the inbox has no group finance" in wrong.text
    assert 'id="h-assignees" class="mistake"' in wrong.text
    assert "whsec_" not in (await pages.shown_after(await pages.send("/endpoints/new", **fields))).text
    (row,) = await pages.api.rows("SELECT gid FROM endpoint")
    options = ok(await pages.api.get(f"/v1/endpoints/{row.gid}"))["options"]
    assert options["task"] == {"assignees": ["ann", "bo"], "dueSeconds": 172_800}
    kept = {"name": "Managers", "task": {"kind": "review", "assignees": ["ann"]}, "groups": {"finance": ["bo"]}}
    ok(await pages.api.patch(f"/v1/endpoints/{row.gid}", {"options": kept}))
    form = (await pages.get(f"/endpoints/{row.gid}/edit")).text
    assert 'value="Managers"' in form and ">ann</textarea>" in form and 'name="leaseSeconds"' not in form
    assert (await pages.send(f"/endpoints/{row.gid}/edit", inboxName="Finance", dueHours="1.5")).status_code == 303
    options = ok(await pages.api.get(f"/v1/endpoints/{row.gid}"))["options"]
    assert options["groups"] == {"finance": ["bo"]}
    assert (options["name"], options["task"]) == ("Finance", {"kind": "review", "dueSeconds": 5_400})
    hours = [({"inboxName": "x", "dueHours": text}, "dueHours") for text in ("soon", "nan", "inf", "0")]
    for body, field in (({"inboxName": ""}, "inboxName"), *hours):
        wrong = await pages.send(f"/endpoints/{row.gid}/edit", **body)
        assert wrong.status_code == 422 and f'id="h-{field}" class="mistake"' in wrong.text
    page = (await pages.get(f"/endpoints/{row.gid}")).text
    assert "Maximum leased" not in page and f"/inbox?state=open&amp;inbox={row.gid}" in page
