"""Settings that operators edit: alerts, event types, tenants. Without a browser, and with Temporal stopped."""

import json
import re
from html import unescape
from typing import Any

import pytest

from testing.api import created, ok
from tests.dashboard.conftest import Pages, browsing

SCHEMA = {"type": "object", "required": ["note"], "properties": {"note": {"type": "string"}}}
FIELD_OF_ALERTS = {
    "alertSuccessRate": "95 %",
    "alertLatency": "never",
    "alertOver": "30 min",
    "alertAttempts": "50",
    "alertDeadLetters": "0",
}
ALERTS = {
    "successRateBelow": 0.95,
    "latencyAboveMs": None,
    "overMinutes": 30,
    "minAttempts": 50,
    "deadLettersAbove": 0,
}


def mistakes(page: str) -> dict[str, str]:
    """The errors of the fields of a page. Each is marked for assistive technology, too."""
    found = {name: unescape(said) for name, said in re.findall(r'id="h-(\w+)" class="mistake">([^<]*)<', page)}
    for name in found:
        assert re.search(rf'id="f-{name}"[^>]* aria-describedby="h-{name}" aria-invalid="true"', page), name
    return found


def written(page: str, field: str) -> str:
    """The value of a field of a form."""
    area = re.search(rf'<textarea id="f-{field}"[^>]*>(.*?)</textarea>', page, re.DOTALL)
    line = re.search(rf'<input id="f-{field}"[^>]*? value="([^"]*)"', page)
    assert area or line, field
    return unescape((area or line)[1])  # type: ignore[index]


async def audited(pages: Pages) -> list[tuple[str, str, dict[str, Any]]]:
    rows = await pages.api.rows("SELECT action, subject, detail FROM audit_entry ORDER BY gid")
    return [(row.action, row.subject, json.loads(row.detail)) for row in rows]


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        ("policy", {"delaysSeconds": [1, -5]}),
        ("policy", {"preset": "of a newer version"}),
        ("policy", "brisk"),
        ("circuit", {"failureThreshold": "many", "cooldownSeconds": "long", "releasePerSecond": "fast"}),
        ("auth", {"kind": "of a newer version"}),
    ],
    ids=["negative", "newer", "not an object", "circuit", "auth"],
)
async def test_stored_settings_that_would_be_refused_today_hide_no_page(
    pages: Pages, column: str, stored: object
) -> None:
    await pages.api.channel()
    gid = (await pages.api.endpoint(channel="orders"))["endpointGid"]
    for table in ("endpoint", "channel") if column != "auth" else ("endpoint",):
        await pages.api.change_rows(f"UPDATE {table} SET {column} = :stored", stored=json.dumps(stored))
    await pages.sign_in()
    for path in ("/channels", "/channels/orders/edit", "/endpoints", f"/endpoints/{gid}", f"/endpoints/{gid}/edit"):
        assert (await pages.get(path)).status_code == 200, path


# Alerts


async def test_limits_for_alerts_of_an_endpoint_are_shown_with_their_source_and_edited(pages: Pages) -> None:
    await pages.api.channel()
    gid = (await pages.api.endpoint(tenant="acme", alerts={"minAttempts": 7}))["endpointGid"]
    ok(await pages.api.patch("/v1/tenants/acme", {"alerts": {"successRateBelow": 0.5, "minAttempts": 9}}))
    await pages.sign_in()
    shown = (await pages.get(f"/endpoints/{gid}")).text
    for value, source in (("50 %", "from the tenant"), ("7", "own"), ("100", "default")):
        assert f'<dd>{value} <span class="quiet">{source}</span>' in shown
    form = (await pages.get(f"/endpoints/{gid}/edit")).text
    assert written(form, "alertAttempts") == "7" and "Empty: 9, from the tenant" in form
    url = written(form, "url")
    saved = await pages.send(f"/endpoints/{gid}/edit", url=url, signatures="standard", **FIELD_OF_ALERTS)
    assert saved.status_code == 303
    assert ok(await pages.api.get(f"/v1/endpoints/{gid}"))["alerts"] == ALERTS
    form = (await pages.get(f"/endpoints/{gid}/edit")).text
    assert {name: written(form, name) for name in FIELD_OF_ALERTS} == FIELD_OF_ALERTS
    assert (await pages.send(f"/endpoints/{gid}/edit", url=url, signatures="standard")).status_code == 303
    assert ok(await pages.api.get(f"/v1/endpoints/{gid}"))["alerts"] is None


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("alertSuccessRate", "many"),
        ("alertSuccessRate", "0"),
        ("alertSuccessRate", "101 %"),
        ("alertSuccessRate", "NaN"),
        ("alertLatency", "0"),
        ("alertLatency", "2 min"),
        ("alertOver", "never"),
        ("alertOver", "2 h"),
        ("alertOver", "soon"),
        ("alertAttempts", "never"),
        ("alertAttempts", "2.5"),
        ("alertAttempts", "1e999"),
        ("alertDeadLetters", "-1"),
    ],
)
async def test_an_invalid_limit_is_marked_and_kept(pages: Pages, field: str, wrong: str) -> None:
    created(await pages.api.post("/v1/tenants", {"name": "acme"}))
    await pages.sign_in()
    for path in ("/endpoints/new", "/tenants/acme/edit"):
        fields = {"url": "http://127.0.0.1:9999/", "signatures": "standard", "name": "acme"}
        refused = await pages.send(path, **fields, **{field: wrong})
        assert refused.status_code == 422 and list(mistakes(refused.text)) == [field], path
        assert written(refused.text, field) == wrong


async def test_a_customer_sets_the_limits_of_its_endpoints_in_the_portal(pages: Pages) -> None:
    await pages.api.channel()
    gid = (await pages.api.endpoint(tenant="acme"))["endpointGid"]
    link = created(await pages.api.post("/v1/tenants/acme/portal-link"))["url"]
    await pages.http.post("/portal/open", data={"token": link.rpartition("/")[2]})
    assert "default" in (await pages.get(f"/portal/endpoints/{gid}")).text
    url = written((await pages.get(f"/portal/endpoints/{gid}/edit")).text, "url")
    path = f"/portal/endpoints/{gid}/edit"
    assert (await pages.send(path, url=url, signatures="standard", alertDeadLetters="5")).status_code == 303
    assert ok(await pages.api.get(f"/v1/endpoints/{gid}"))["alerts"] == {"deadLettersAbove": 5}
    assert (await pages.get("/portal/tenants")).status_code == 404


async def test_an_inbox_has_limits_for_alerts_too(pages: Pages) -> None:
    await pages.sign_in()
    form = {"mode": "inbox", "inboxName": "Managers", "alertDeadLetters": "0"}
    assert (await pages.send("/endpoints/new", **form)).status_code == 303
    (inbox,) = ok(await pages.api.get("/v1/endpoints"))["data"]
    assert inbox["alerts"] == {"deadLettersAbove": 0}


# Tenants


async def test_a_tenant_is_created_found_and_edited(pages: Pages) -> None:
    await pages.sign_in()
    assert (await pages.send("/tenants/new", name="acme", publishRate="9/minute", **FIELD_OF_ALERTS)).status_code == 303
    found = await pages.get("/tenants?search=acme")
    assert found.status_code == 303
    path = found.headers["location"]
    shown = (await pages.get(path)).text
    assert "9/minute" in shown and '<dd>95 % <span class="quiet">own</span>' in shown
    form = (await pages.get(f"{path}/edit")).text
    assert {name: written(form, name) for name in FIELD_OF_ALERTS} == FIELD_OF_ALERTS
    gid = path.rpartition("/")[2]
    tenant = ok(await pages.api.get(f"/v1/tenants/{gid}"))
    assert (tenant["name"], tenant["publishRate"], tenant["alerts"]) == ("acme", "9/minute", ALERTS)
    assert (await pages.send(f"{path}/edit", name="acme2", alertOver="5 min")).status_code == 303
    tenant = ok(await pages.api.get(f"/v1/tenants/{gid}"))
    assert (tenant["name"], tenant["publishRate"], tenant["alerts"]) == ("acme2", None, {"overMinutes": 5})
    before = await audited(pages)
    assert [(action, detail) for action, _, detail in before] == [
        ("tenant.created", {"name": "acme", "publishRate": "9/minute"}),
        ("tenant.changed", {"alerts": ALERTS}),
        ("tenant.changed", {"publishRate": None}),
        ("tenant.changed", {"alerts": {"overMinutes": 5}}),
        ("tenant.renamed", {"from": "acme", "to": "acme2"}),
    ]
    assert (await pages.send(f"{path}/edit", name="acme2", alertOver="5 min")).status_code == 303
    assert await audited(pages) == before


async def test_an_invalid_tenant_is_marked_at_its_field_and_changes_nothing(pages: Pages) -> None:
    for name in ("acme", "globex"):
        created(await pages.api.post("/v1/tenants", {"name": name}))
    await pages.sign_in()
    before = await audited(pages)
    for path in ("/tenants/new", "/tenants/globex/edit"):
        for field, wrong in (("name", "acme"), ("name", "no spaces"), ("publishRate", "often")):
            fields = {"name": "initech", "publishRate": "5/hour", "alertOver": "5 min"} | {field: wrong}
            refused = await pages.send(path, **fields)
            assert refused.status_code == 422 and list(mistakes(refused.text)) == [field], (path, wrong)
            assert {name: written(refused.text, name) for name in fields} == fields
    refused = await pages.send("/tenants/new", name="no spaces", publishRate="often", alertSuccessRate="101 %")
    assert sorted(mistakes(refused.text)) == ["alertSuccessRate", "name", "publishRate"]
    assert await audited(pages) == before
    assert "No tenant has this name" in (await pages.get("/tenants?search=initech")).text
    assert (await pages.get("/tenants/initech")).status_code == 404


async def test_tenants_are_for_admins(pages: Pages) -> None:
    """As in the API."""
    created(await pages.api.post("/v1/tenants", {"name": "acme"}))
    key = created(await pages.api.post("/v1/api-keys", {"name": "reader", "scopes": ["read"]}))["key"]
    async with browsing(pages.api) as reader:
        await reader.sign_in(key)
        for path in ("/tenants", "/tenants/new", "/tenants/acme", "/tenants/acme/edit"):
            assert (await reader.get(path)).status_code == 403
        assert 'href="/tenants"' not in (await reader.get("/endpoints")).text


# Event types


async def test_an_event_type_is_created_edited_archived_and_restored(pages: Pages) -> None:
    await pages.sign_in()
    name = "note/made:here"
    fields = {"description": "It is <b>described</b>.", "schema": json.dumps(SCHEMA), "example": '{"note": "é"}'}
    assert (await pages.send("/event-types/-/new", name=name, **fields, deprecated="on")).status_code == 303
    path = f"/v1/event-types/{name}"
    made = ok(await pages.api.get(path))
    assert (made["schema"], made["example"], made["deprecated"]) == (SCHEMA, {"note": "é"}, True)
    form = (await pages.get(f"/event-types/-/edit/{name}")).text
    assert json.loads(written(form, "schema")) == SCHEMA and json.loads(written(form, "example")) == {"note": "é"}
    assert 'name="deprecated" checked' in form
    fields |= {"example": '{"note": "", "n": true}'}
    assert (await pages.send(f"/event-types/-/edit/{name}", **fields)).status_code == 303
    assert (await pages.send(f"/event-types/-/edit/{name}", **fields)).status_code == 303
    fields |= {"example": '{"note": "", "n": 1}'}  # which Python considers equal
    assert (await pages.send(f"/event-types/-/edit/{name}", **fields)).status_code == 303
    changed = ok(await pages.api.get(path))
    assert (changed["example"], changed["deprecated"]) == ({"note": "", "n": 1}, False)
    for archived in ("yes", "no"):
        assert (await pages.send(f"/event-types/{name}", archived=archived)).status_code == 303
        assert ok(await pages.api.get(path))["archived"] == (archived == "yes")
    assert [(action, detail.get("fields")) for action, _, detail in await audited(pages)] == [
        ("event_type.created", None),
        ("event_type.changed", ["deprecated", "example"]),
        ("event_type.changed", ["example"]),
        ("event_type.changed", ["archived"]),
        ("event_type.changed", ["archived"]),
    ]


@pytest.mark.parametrize(
    ("field", "wrong", "said"),
    [
        ("name", "no spaces", "characters"),
        ("name", "taken", "is in the catalogue already"),
        ("name", "openapi.json", "another use"),
        ("schema", '{"type": }', "expected a JSON value at line 1, column 10"),
        ("schema", "3", "is a JSON object, or true or false"),
        ("schema", '{"type": "text"}', "schema.type: "),
        ("schema", '{"properties": {"timeout": {"type": "text"}}}', "schema.properties.timeout.type: "),
        ("schema", '{"$ref": "https://example.com/"}', "only references within the schema"),
        ("schema", '{"maximum": NaN}', "cannot hold"),
        ("schema", "[" * 100_000, "is nested too deeply"),
        ("example", "{", "is not valid JSON"),
        ("example", '{"note": 1}', "example.note: "),
        ("example", '"\\ud800"', "UTF-8"),
        ("description", "d" * 1001, "1000"),
    ],
)
async def test_an_invalid_event_type_is_marked_at_its_field_and_no_input_is_lost(
    pages: Pages, field: str, wrong: str, said: str
) -> None:
    created(await pages.api.post("/v1/event-types", {"name": "taken", "schema": SCHEMA}))
    await pages.sign_in()
    fields = {"name": "note", "description": "Words", "schema": json.dumps(SCHEMA), "example": '{"note": "x"}'}
    paths = ["/event-types/-/new"] if field == "name" else ["/event-types/-/new", "/event-types/-/edit/taken"]
    for path in paths:
        sent = fields | {field: wrong}
        refused = await pages.send(path, **sent, deprecated="on")
        assert refused.status_code == 422
        (message,) = mistakes(refused.text).values()
        assert list(mistakes(refused.text)) == [field] and said in message, message
        kept = sent if path.endswith("new") else {name: text for name, text in sent.items() if name != "name"}
        assert {name: written(refused.text, name) for name in kept} == kept
        assert 'name="deprecated" checked' in refused.text
    assert [action for action, _, _ in await audited(pages)] == ["event_type.created"]


async def test_a_schema_of_the_largest_size_is_edited(pages: Pages) -> None:
    schema = {"properties": {f"p{number:05}": {"type": "string"} for number in range(1_900)}}
    created(await pages.api.post("/v1/event-types", {"name": "large", "schema": schema}))
    await pages.sign_in()
    text = written((await pages.get("/event-types/-/edit/large")).text, "schema").replace("\n", "\r\n")
    assert len(text) > 64 * 1024
    assert (await pages.send("/event-types/-/edit/large", schema=text, description="New")).status_code == 303
    large = ok(await pages.api.get("/v1/event-types/large"))
    assert (large["description"], large["schema"]) == ("New", schema)


async def test_event_types_are_imported_after_a_preview(pages: Pages) -> None:
    body = {"description": "Made", "requestBody": {"content": {"application/json": {"schema": SCHEMA}}}}
    document = {"openapi": "3.1.0", "webhooks": {"note.made": {"post": body}, "timeout": {"post": {}}}}
    created(await pages.api.post("/v1/event-types", {"name": "timeout"}))
    await pages.sign_in()
    path, text = "/event-types/-/import", json.dumps(document, indent=2)
    preview = await pages.send(path, document=text, action="preview")
    assert preview.status_code == 200 and written(preview.text, "document") == text
    assert "Created: 1</dt><dd><code>note.made" in preview.text
    assert "Unchanged: 1</dt><dd><code>timeout" in preview.text
    assert len(ok(await pages.api.get("/v1/event-types"))["data"]) == 1
    assert (await pages.send(path, document=text, action="import")).status_code == 303
    assert ok(await pages.api.get("/v1/event-types/note.made"))["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "is required"),
        ("openapi: 3.1.0", "is not valid JSON"),
        ('{"openapi": "3.0.0"}', "document.openapi: is not 3.1"),
        ('{"openapi": "3.1.0", "webhooks": {"timeout": {"post": 3}}}', "document.webhooks.timeout.post: is an object"),
        ('{"openapi": "3.1.0", "x": "' + "e" * 4_200_000 + '"}', "at most 4194304 are accepted"),
    ],
)
async def test_a_document_that_is_refused_is_kept_with_the_reason(pages: Pages, document: str, said: str) -> None:
    await pages.sign_in()
    refused = await pages.send("/event-types/-/import", document=document, action="import")
    assert refused.status_code == 422
    assert said in mistakes(refused.text)["document"] and written(refused.text, "document") == document


async def test_only_admins_change_the_catalogue(pages: Pages) -> None:
    created(await pages.api.post("/v1/event-types", {"name": "note"}))
    key = created(await pages.api.post("/v1/api-keys", {"name": "reader", "scopes": ["read"]}))["key"]
    async with browsing(pages.api) as reader:
        await reader.sign_in(key)
        for path in ("/event-types/-/new", "/event-types/-/import", "/event-types/-/edit/note"):
            assert (await reader.get(path)).status_code == 403
            assert (await reader.send(path, name="other")).status_code == 403
        for path in ("/event-types", "/event-types/note"):
            assert "/event-types/-/" not in (await reader.get(path)).text


async def test_the_gates_of_a_channel_are_shown_in_words_and_edited_by_its_form(pages: Pages) -> None:
    options = {"name": "Managers & co", "task": {"dueSeconds": 7_200}}
    inbox = created(await pages.api.post("/v1/endpoints", {"mode": "inbox", "options": options}))["endpointGid"]
    gates = [{"inbox": inbox}, {"inbox": inbox, "filter": {"n": {"$gt": 1}}, "task": {"onDue": "decline"}}]
    await pages.sign_in()
    assert (await pages.send("/channels/new", name="orders", gates=json.dumps(gates))).status_code == 303

    async def stored() -> Any:
        return ok(await pages.api.get("/v1/channels/orders"))["gates"]

    assert await stored() == gates
    page = (await pages.get("/channels")).text
    steps = [
        unescape(re.sub("<[^>]+>", "", step)) for step in re.findall('<li>(<a href="/endpoints/ep_.*?)</li>', page)
    ]
    assert steps == [
        "Managers & co within 2 h; then the step is a dead letter, and the message waits",
        'Managers & co, if the payload matches {"n": {"$gt": 1}}, within 2 h; then it is declined',
    ]
    form = (await pages.get("/channels/orders/edit")).text
    assert json.loads(written(form, "gates")) == gates
    for unchanged in (written(form, "gates"), ""):
        assert (await pages.send("/channels/orders/edit", gates=unchanged)).status_code == 303
    assert await stored() == gates
    audited = await pages.api.rows("SELECT detail FROM audit_entry WHERE action = 'channel.changed'")
    assert not any("gates" in row.detail for row in audited)
    for wrong in ("[", "{}", '[{"inbox": "ep_none"}]', f'[{{"inbox": "{inbox}", "task": {{"dueSeconds": 1}}}}]'):
        refused = await pages.send("/channels/orders/edit", gates=wrong)
        assert refused.status_code == 422 and 'id="h-gates" class="mistake"' in refused.text, wrong
        assert written(refused.text, "gates") == wrong
    assert (await pages.send("/channels/orders/edit", gates=json.dumps(gates[:1]))).status_code == 303
    assert await stored() == gates[:1]
    assert (await pages.send("/channels/orders/edit", gates="[]")).status_code == 303
    assert await stored() is None
