"""Endpoints that Everhook handles itself: their options, and the URL of a chat, which is a secret."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from everhook.settings import Settings
from everhook.storage.encryption import ENDPOINT_SECRET
from everhook.storage.keyring import KeyRing
from testing.api import JSON, MASTER_KEY, ON_SHARED, Api, assert_problem, created, ok, running_api
from tests.api.conftest import copied

URL = "http://127.0.0.1:9999/services/T00/s3cr3t"
MASKED = "http://127.0.0.1:9999/…"
EMAIL: JSON = {"kind": "email", "to": ["ops@acme.example", "assignees"]}
CHAT: JSON = {"kind": "chat", "url": URL}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mailing(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """The API with the address of an SMTP server, which does not run."""
    settings = copied(migrated_file, tmp_path_factory.mktemp("mailing"))
    changes = {"smtp_url": "smtp://127.0.0.1:1", "smtp_from": "hooks@acme.example", "smtp_domains": "ACME.example"}
    async with running_api(Settings(**settings.model_dump() | changes)) as running:
        yield running


def internal(handler: Any, **body: Any) -> JSON:
    return {"mode": "internal", "options": {"handler": handler}, **body}


@ON_SHARED
async def test_an_internal_endpoint_is_created_shown_and_listed(mailing: Api) -> None:
    handler = EMAIL | {"subject": "Order {order.id}", "body": "See {messageGid}"}
    await mailing.channel()
    made = created(await mailing.post("/v1/endpoints", internal(handler, channel="orders", rateLimit=5)))
    assert (made["mode"], made["url"], made["rateLimit"]) == ("internal", None, 5)
    assert made["options"] == {"handler": handler}
    shown = ok(await mailing.get(f"/v1/endpoints/{made['endpointGid']}"))
    assert shown["options"] == made["options"]
    assert [each["endpointGid"] for each in ok(await mailing.get("/v1/endpoints"))["data"]] == [made["endpointGid"]]
    published = await mailing.publish({"order": {"id": 1}})
    assert [each["endpointGid"] for each in published["deliveries"]] == [made["endpointGid"]]
    tested = await mailing.post(f"/v1/endpoints/{made['endpointGid']}/test")
    assert tested.status_code == 202


@ON_SHARED
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"mode": "internal"}, "options.handler"),
        ({"mode": "internal", "options": {}}, "options.handler"),
        ({"mode": "internal", "options": {"leaseSeconds": 60}}, "options.leaseSeconds"),
        ({"mode": "poll", "options": {"handler": EMAIL}}, "options.handler"),
        (internal({}), "options.handler.kind"),
        (internal({"kind": "sms"}), "options.handler.kind"),
        (internal({"kind": "email"}), "options.handler.to"),
        (internal(EMAIL | {"to": []}), "options.handler.to"),
        (internal(EMAIL | {"to": "ops@acme.example"}), "options.handler.to"),
        (internal(EMAIL | {"to": [f"a{index}@acme.example" for index in range(51)]}), "options.handler.to"),
        (
            internal(EMAIL | {"to": ["a@acme.example", "b@acme.example\r\nBcc: c@acme.example"]}),
            "options.handler.to[1]",
        ),
        (internal(EMAIL | {"to": ["Ann <ann@acme.example>"]}), "options.handler.to[0]"),
        (internal(EMAIL | {"to": ["ann@evil.example"]}), "options.handler.to[0]"),
        (internal(EMAIL | {"subject": "a\nBcc: c@acme.example"}), "options.handler.subject"),
        (internal(EMAIL | {"subject": "a" * 201}), "options.handler.subject"),
        (internal(EMAIL | {"body": " "}), "options.handler.body"),
        (internal(EMAIL | {"body": "a" * 10_001}), "options.handler.body"),
        (internal(EMAIL | {"url": URL}), "options.handler.url"),
        (internal(EMAIL | {"cc": ["ops@acme.example"]}), "options.handler.cc"),
        (internal({"kind": "chat"}), "options.handler.url"),
        (internal({"kind": "chat", "url": "https://169.254.169.254/x"}), "options.handler.url"),
        (internal({"kind": "chat", "url": MASKED}), "options.handler.url"),
        (internal({"kind": "reminder", "to": ["ops@acme.example"]}), "options.handler.to"),
        (internal({"kind": "escalation", "text": "x"}), "options.handler.text"),
        (internal(EMAIL, url="https://a.example/"), "url"),
        (internal(EMAIL, headers={"a": "b"}), "headers"),
        (internal(EMAIL, format="payload"), "format"),
    ],
)
async def test_wrong_options_are_refused_by_field(mailing: Api, body: JSON, field: str) -> None:
    before = await mailing.count("endpoint")
    assert_problem(await mailing.post("/v1/endpoints", body), 422, field)
    assert await mailing.count("endpoint") == before


async def test_without_an_smtp_server_no_email_endpoint_is_created(api: Api) -> None:
    problem = assert_problem(await api.post("/v1/endpoints", internal(EMAIL)), 422, "options.handler.kind")
    assert "EVERHOOK_SMTP_URL" in problem["detail"]


async def secret_urls(api: Api) -> list[str]:
    ring = KeyRing([MASTER_KEY])
    rows = await api.rows("SELECT secret, gid FROM endpoint_secret WHERE kind = 'handler_url'")
    return [ENDPOINT_SECRET.decrypt(ring, row.secret, row.gid) for row in rows]


async def test_the_url_of_a_chat_is_encrypted_masked_and_stays_until_it_is_replaced(api: Api) -> None:
    response = await api.post("/v1/endpoints", internal(CHAT | {"text": "{type}"}))
    made = created(response)
    at = f"/v1/endpoints/{made['endpointGid']}"
    assert made["options"]["handler"]["url"] == MASKED
    assert await secret_urls(api) == [URL]

    changed = ok(await api.patch(at, {"options": {"handler": made["options"]["handler"] | {"text": "new"}}}))
    assert changed["options"]["handler"]["text"] == "new"
    assert await secret_urls(api) == [URL]
    assert_problem(await api.post(at + "/secret/rotate", {"gracePeriodSeconds": 0}), 422, "secret")
    assert await secret_urls(api) == [URL]
    ok(await api.patch(at, {"options": {"handler": {"kind": "chat", "url": "https://localhost:8443/other/s3cr3t"}}}))
    assert await secret_urls(api) == ["https://localhost:8443/other/s3cr3t"]
    assert ok(await api.get(at))["options"]["handler"]["url"] == "https://localhost:8443/…"
    assert_problem(await api.patch(at, {"options": {"handler": {"kind": "reminder"}}}), 422, "options.handler.kind")
    assert_problem(await api.patch(at, {"options": {}}), 422, "options.handler")
    ok(await api.patch(at, {"rateLimit": 3}))

    for table in ("endpoint", "audit_entry", "endpoint_secret", "operational_event"):
        assert "s3cr3t" not in str(await api.rows(f"SELECT * FROM {table}"))
    assert "s3cr3t" not in response.text + (await api.get("/v1/audit")).text
    assert (await api.delete(at)).status_code == 204
    assert await secret_urls(api) == []


async def test_the_response_to_a_bad_request_does_not_have_the_url(api: Api) -> None:
    for handler in (CHAT | {"text": ""}, CHAT | {"to": ["a"]}, {"kind": "chat", "url": [URL]}):
        refused = await api.post("/v1/endpoints", internal(handler))
        assert refused.status_code == 422
        assert "s3cr3t" not in refused.text
