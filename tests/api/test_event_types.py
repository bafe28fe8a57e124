"""The catalogue of event types, and channels that check messages against it."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from everhook.observability.metrics import REGISTRY
from testing.api import ON_SHARED, Api, accepted, assert_problem, created, ok

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"lines": {"type": "array", "items": {"properties": {"price": {"type": "number"}}}}},
    "required": ["id"],
}
EXAMPLE = {"id": 1, "lines": [{"price": 9.5}]}
WRONG = {"id": 1, "lines": [{"price": 9.5}, {"price": "a secret"}]}
AT = "payload.lines[1].price"
DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]


async def event_type(api: Api, name: str = "order.created", **body: Any) -> dict[str, Any]:
    return created(await api.post("/v1/event-types", {"name": name, "schema": SCHEMA, "example": EXAMPLE, **body}))


@pytest.fixture
async def checked(api: Api) -> AsyncIterator[Api]:
    """`orders` rejects, `drafts` warns."""
    await event_type(api)
    await api.channel("orders", validation="reject")
    await api.channel("drafts", validation="warn")
    await api.endpoint(channel="orders")
    yield api


# The catalogue


async def test_an_event_type_is_created_shown_listed_changed_and_deleted(api: Api) -> None:
    made = await event_type(api, description="A customer has ordered.")

    assert ok(await api.get("/v1/event-types/order.created")) == made
    assert (made["schema"], made["example"], made["deprecated"], made["archived"]) == (SCHEMA, EXAMPLE, False, False)
    (listed,) = await api.walk("/v1/event-types")
    assert listed["hasSchema"] and "schema" not in listed and "example" not in listed
    changed = ok(await api.patch("/v1/event-types/order.created", {"deprecated": True, "example": None}))
    assert (changed["deprecated"], changed["example"], changed["schema"]) == (True, None, SCHEMA)
    assert (await api.delete("/v1/event-types/order.created")).status_code == 204
    assert_problem(await api.get("/v1/event-types/order.created"), 404)
    assert_problem(await api.delete("/v1/event-types/order.created"), 404)
    assert_problem(await api.patch("/v1/event-types/order.created", {"archived": True}), 404)
    actions = [row.action for row in await api.rows("SELECT action FROM audit_entry ORDER BY gid")]
    assert actions == ["event_type.created", "event_type.changed", "event_type.deleted"]


async def test_names_of_event_types_follow_the_rule_for_types_of_messages(api: Api) -> None:
    for name in ("a/b:c", "Z", "m" * 128):
        await event_type(api, name)
        assert ok(await api.get(f"/v1/event-types/{name.replace('/', '%2F')}"))["name"] == name

    assert [each["name"] for each in await api.walk("/v1/event-types", limit=1)] == ["Z", "a/b:c", "m" * 128]


@ON_SHARED
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "openapi.json"}, "name"),
        ({"name": "a", "schema": []}, "schema"),
        ({"name": "a", "schema": {"$ref": "https://example.com/s.json"}}, "schema.$ref"),
        ({"name": "a", "schema": {"type": "thing"}}, "schema.type"),
        ({"name": "a", "schema": {"pattern": "(?=a)"}}, "schema.pattern"),
        ({"name": "a", "schema": SCHEMA, "example": {}}, "example"),
        ({"name": "a", "schema": SCHEMA, "example": {"id": 1, "lines": [{"price": "x"}]}}, "example.lines[0].price"),
        ({"name": "a", "example": "x" * 40_000}, "example"),
        ({"name": "a", "example": DEEP}, "example"),
        ({"name": "a", "deprecated": "yes"}, "deprecated"),
        ({"name": "a", "description": "x" * 1_001}, "description"),
        ({"name": "a", "shcema": {}}, "shcema"),
    ],
)
async def test_an_invalid_field_is_named(shared: Api, body: dict[str, Any], field: str) -> None:
    problem = assert_problem(await shared.post("/v1/event-types", body), 422)

    assert field in [error["field"] for error in problem["errors"]] or problem["detail"].startswith(field), problem
    assert await shared.count("event_type") == 0


async def test_a_change_is_checked_as_a_whole(api: Api) -> None:
    await event_type(api)
    path = "/v1/event-types/order.created"

    assert_problem(await api.patch(path, {"schema": {"type": "string"}}), 422, "example")
    assert_problem(await api.patch(path, {"example": {}}), 422, "example")
    assert_problem(await api.patch(path, {"deprecated": None}), 422, "deprecated")
    assert_problem(await api.patch(path, {}), 422, "body")
    changed = ok(await api.patch(path, {"schema": {"type": "string"}, "example": "text"}))
    assert (changed["schema"], changed["example"]) == ({"type": "string"}, "text")


async def test_a_name_is_taken_once(api: Api) -> None:
    await event_type(api)

    problem = assert_problem(await api.post("/v1/event-types", {"name": "order.created"}), 409)
    assert problem["type"] == "/problems/event-type-exists"


async def test_a_tenant_sees_what_is_not_archived_and_changes_nothing(api: Api) -> None:
    await event_type(api)
    await event_type(api, "order.old", archived=True)
    await api.post("/v1/tenants", {"name": "acme"})
    tenant = await api.key(tenant="acme")

    assert [each["name"] for each in await tenant.walk("/v1/event-types")] == ["order.created"]
    assert [each["name"] for each in await api.walk("/v1/event-types", archived="true")] == ["order.old"]
    assert ok(await tenant.get("/v1/event-types/order.created"))["schema"] == SCHEMA
    assert_problem(await tenant.get("/v1/event-types/order.old"), 404)
    assert_problem(await tenant.patch("/v1/event-types/order.created", {"archived": True}), 403)
    assert list(ok(await tenant.get("/v1/event-types/openapi.json"))["webhooks"]) == ["order.created"]


async def test_the_document_of_one_catalogue_is_imported_into_another(api: Api) -> None:
    await event_type(api, description="A customer has ordered.")
    await event_type(api, "order.paid", schema=None, example=None, deprecated=True)
    document = ok(await api.get("/v1/event-types/openapi.json"))
    for name in ("order.created", "order.paid"):
        await api.delete(f"/v1/event-types/{name}")

    tried = ok(await api.post("/v1/event-types/import", {"document": document, "dryRun": True}))
    assert tried == {"created": ["order.created", "order.paid"], "changed": [], "unchanged": []}
    assert await api.count("event_type") == 0
    assert ok(await api.post("/v1/event-types/import", {"document": document})) == tried
    assert ok(await api.get("/v1/event-types/openapi.json")) == document
    document["webhooks"]["order.paid"]["post"]["description"] = "Paid."
    again = ok(await api.post("/v1/event-types/import", {"document": document}))
    assert again == {"created": [], "changed": ["order.paid"], "unchanged": ["order.created"]}


async def test_an_import_is_all_or_none(api: Api) -> None:
    def webhook(schema: Any) -> Any:
        return {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}}

    document = {"openapi": "3.1.0", "webhooks": {"a": webhook(True), "b": webhook({"$ref": "https://example.com"})}}

    problem = assert_problem(await api.post("/v1/event-types/import", {"document": document}), 422)

    assert problem["errors"][0]["field"] == "document.webhooks.b.schema.$ref"
    assert await api.count("event_type") == 0


# Channels that check


async def test_a_payload_that_does_not_fit_is_rejected_where_it_is_wrong(checked: Api) -> None:
    accepted(await checked.try_publish({"type": "order.created", "payload": EXAMPLE}))

    problem = assert_problem(await checked.try_publish({"type": "order.created", "payload": WRONG}), 422, AT)

    assert problem["type"] == "/problems/payload-does-not-fit"
    assert "secret" not in json.dumps(problem)
    assert await checked.count("message") == 1


@pytest.mark.parametrize("name", ["order.unknown", "order.archived"])
async def test_a_type_that_is_not_in_the_catalogue_is_rejected(checked: Api, name: str) -> None:
    await event_type(checked, "order.archived", archived=True)

    problem = assert_problem(await checked.try_publish({"type": name, "payload": EXAMPLE}), 422, "type")

    assert problem["type"] == "/problems/unknown-event-type"
    shown = await checked.publish(EXAMPLE, "drafts", type=name)
    assert shown["validationError"].startswith("type: is ")


async def test_a_batch_with_one_that_does_not_fit_is_rejected_as_a_whole(checked: Api) -> None:
    messages = [{"type": "order.created", "payload": payload} for payload in (EXAMPLE, WRONG)]

    problem = assert_problem(await checked.try_batch(messages), 422)

    assert problem["errors"][0]["field"] == f"messages[1].{AT}"
    assert await checked.count("message") == 0
    (first, second) = accepted(await checked.try_batch(messages, "drafts"))["data"]
    assert "validationError" not in first and second["validationError"].startswith(AT)


async def test_transactional_and_scheduled_messages_take_the_same_path(checked: Api) -> None:
    messages = [
        {"channel": channel, "type": "order.created", "payload": payload}
        for channel, payload in (("drafts", WRONG), ("orders", EXAMPLE), ("orders", WRONG))
    ]
    before = count("reject", "payload")
    problem = assert_problem(await checked.post("/v1/messages/transactional", {"messages": messages}), 422)
    assert problem["errors"][0]["field"] == f"messages[2].{AT}"
    assert (await checked.count("message"), count("reject", "payload")) == (0, before + 1)
    warned, fits = accepted(await checked.post("/v1/messages/transactional", {"messages": messages[:2]}))["data"]
    assert warned["validationError"].startswith(AT) and "validationError" not in fits

    later = {"type": "order.created", "payload": WRONG, "delaySeconds": 600}
    assert_problem(await checked.try_publish(later), 422, AT)
    assert accepted(await checked.try_publish(later, "drafts"))["validationError"].startswith(AT)


async def test_an_invalid_payload_is_flagged_and_counted_on_a_channel_that_warns(checked: Api) -> None:
    before = count("warn", "payload"), count("reject", "payload")
    published = await checked.publish(WRONG, "drafts")
    assert_problem(await checked.try_publish({"type": "order.created", "payload": WRONG}), 422)

    assert published["validationError"].startswith(f"{AT}: is not of type")
    assert (count("warn", "payload"), count("reject", "payload")) == (before[0] + 1, before[1] + 1)
    shown = ok(await checked.get(f"/v1/messages/{published['messageGid']}"))
    assert shown["validationError"] == published["validationError"]
    (listed,) = await checked.walk("/v1/messages")
    assert listed["validationError"] == published["validationError"]
    assert (await checked.delete(f"/v1/messages/{published['messageGid']}/payload")).status_code == 204
    assert ok(await checked.get(f"/v1/messages/{published['messageGid']}"))["validationError"] is None


def count(validation: str, fault: str) -> float:
    labels = {"validation": validation, "fault": fault}
    return REGISTRY.get_sample_value("everhook_validation_failures_total", labels) or 0.0


async def test_a_change_of_the_schema_or_the_channel_counts_for_the_next_message(checked: Api) -> None:
    accepted(await checked.try_publish({"type": "order.created", "payload": EXAMPLE}))
    ok(await checked.patch("/v1/event-types/order.created", {"schema": {"type": "string"}, "example": "a"}))
    assert_problem(await checked.try_publish({"type": "order.created", "payload": EXAMPLE}), 422, "payload")

    assert ok(await checked.patch("/v1/channels/orders", {"validation": "off"}))["validation"] == "off"
    accepted(await checked.try_publish({"type": "order.created", "payload": EXAMPLE}))
    ok(await checked.patch("/v1/channels/orders", {"validation": "reject"}))
    assert_problem(await checked.try_publish({"type": "order.created", "payload": EXAMPLE}), 422, "payload")


async def test_a_repeated_publish_is_accepted_even_if_the_schema_has_changed_since(checked: Api) -> None:
    body = {"type": "order.created", "payload": EXAMPLE, "idempotencyKey": "k"}
    first = accepted(await checked.try_publish(body))
    ok(await checked.patch("/v1/event-types/order.created", {"schema": False, "example": None}))

    again = accepted(await checked.try_publish(body))

    assert (again["messageGid"], again["duplicate"]) == (first["messageGid"], True)
    assert_problem(await checked.try_publish({**body, "payload": WRONG}), 409)


async def test_the_validation_of_a_channel_is_one_of_three(api: Api) -> None:
    assert (await api.channel())["validation"] == "off"

    assert_problem(await api.post("/v1/channels", {"name": "x", "validation": "maybe"}), 422, "validation")
    assert_problem(await api.patch("/v1/channels/orders", {"validation": None}), 422, "validation")
    assert_problem(await api.patch("/v1/channels/everhook.events", {"validation": "warn"}), 422, "validation")


async def test_without_validation_the_catalogue_is_not_read(api: Api) -> None:
    await event_type(api, schema=False, example=None)
    await api.channel()
    await api.change_rows("DROP TABLE event_type")

    await api.publish(WRONG)


async def test_a_test_message_is_the_example_of_an_event_type(checked: Api) -> None:
    endpoint = await checked.endpoint()
    path = f"/v1/endpoints/{endpoint['endpointGid']}/test"

    sent = accepted(await checked.post(path, {"type": "order.created"}))

    message = ok(await checked.get(f"/v1/messages/{sent['messageGid']}"))
    assert (message["type"], message["channel"], message["payload"]) == ("order.created", "everhook.test", EXAMPLE)
    assert_problem(await checked.post(path, {"type": "order.unknown"}), 422, "type")
    ok(await checked.patch("/v1/event-types/order.created", {"example": None}))
    assert_problem(await checked.post(path, {"type": "order.created"}), 422, "type")
    accepted(await checked.post(path))
