"""Endpoints, from creation to deletion; the commands to their circuits are in `test_endpoint_commands.py`."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from everhook.settings import Settings
from everhook.signing.schemes import secret_key
from testing.api import ON_SHARED, RECEIVER_URL, UNKNOWN_SUFFIX, Api, assert_problem, created, ok, running_api

UNKNOWN = f"ep_{UNKNOWN_SUFFIX}"


async def test_an_endpoint_is_created_with_every_field(api: Api) -> None:
    await api.channel()
    said = {
        "url": "http://127.0.0.1:9999/hook?a=b",
        "tenant": "acme",
        "description": "orders, mirrored",
        "policy": {"delaysSeconds": [1, 2.5], "timeoutSeconds": 3},
        "rateLimit": 2.5,
        "signatures": ["standard", "npayload"],
        "format": "cloudevents",
        "headers": {"X-Team": "a b"},
        "metadata": {"owner": {"name": "ü", "ids": [1, None, True]}},
    }

    endpoint = created(await api.post("/v1/endpoints", {**said, "channel": "orders", "events": ["order.*"]}))

    assert {key: endpoint[key] for key in said} == said
    assert endpoint["status"] == "enabled"
    closed = {"state": "closed", "failures": 0, "failingSince": None, "until": None, "settings": None}
    assert endpoint["circuit"] == closed
    shown = {key: value for key, value in endpoint.items() if key not in ("secret", "subscriptionGid")}
    shown["headers"] = {"X-Team": None}
    assert ok(await api.get(f"/v1/endpoints/{endpoint['endpointGid']}")) == shown
    subscription = ok(await api.get(f"/v1/subscriptions/{endpoint['subscriptionGid']}"))
    assert (subscription["channel"], subscription["events"]) == ("orders", ["order.*"])
    assert subscription["endpointGid"] == endpoint["endpointGid"]


async def test_a_url_and_events_are_enough_and_subscribe_to_the_channel_default(api: Api) -> None:
    body = {"url": RECEIVER_URL, "events": ["invoice.created", "invoice.paid"]}

    first, second = created(await api.post("/v1/endpoints", body)), created(await api.post("/v1/endpoints", body))

    assert [channel["name"] for channel in await api.walk("/v1/channels")] == [
        "default",
        "everhook.events",
        "everhook.tasks",
    ]
    paid = await api.publish(1, "default", type="invoice.paid")
    void = await api.publish(1, "default", type="invoice.void")
    gids = {first["endpointGid"], second["endpointGid"]}
    assert {delivery["endpointGid"] for delivery in paid["deliveries"]} == gids
    assert void["deliveries"] == []


async def test_a_url_alone_creates_no_subscription(api: Api) -> None:
    endpoint = await api.endpoint()

    assert endpoint["subscriptionGid"] is None
    assert endpoint["tenant"] == "default"
    assert (await api.count("subscription"), await api.count("channel")) == (0, 2), "only the channels of events exist"


async def test_an_unknown_channel_is_named_and_nothing_is_created(api: Api) -> None:
    body = {"url": RECEIVER_URL, "channel": "ordres", "events": ["order.*"], "tenant": "acme"}

    assert_problem(await api.post("/v1/endpoints", body), 422, "channel")

    assert [await api.count(table) for table in ("endpoint", "subscription", "channel")] == [0, 0, 2]
    assert await api.rows("SELECT name FROM tenant WHERE name = 'acme'") == []


async def test_the_secret_is_shown_at_creation_and_never_again(api: Api) -> None:
    await api.channel()
    endpoint = await api.endpoint(channel="orders")
    secret, gid = endpoint["secret"], endpoint["endpointGid"]
    assert len(secret_key(secret)) == 32
    message = await api.publish()

    for response in [
        await api.get(f"/v1/endpoints/{gid}"),
        await api.get("/v1/endpoints"),
        await api.patch(f"/v1/endpoints/{gid}", {"description": "new"}),
        await api.get("/v1/subscriptions"),
        await api.get(f"/v1/messages/{message['messageGid']}"),
        await api.get(f"/v1/deliveries/{message['deliveries'][0]['deliveryGid']}"),
    ]:
        assert "secret" not in ok(response)
        assert secret not in response.text
        assert secret.removeprefix("whsec_") not in response.text


async def test_each_endpoint_has_its_own_secret(api: Api) -> None:
    assert (await api.endpoint())["secret"] != (await api.endpoint())["secret"]


@ON_SHARED
@pytest.mark.parametrize(
    "url",
    [
        "",
        "hook",
        "/hook",
        "//127.0.0.1:9999/",
        "ftp://127.0.0.1:9999/",
        "file:///etc/passwd",
        "https://",
        "https:///hook",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com/#part",
        "https://example.com/#",
        "https://example.com:22/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:99999/",
        "https://example.com:port/",
        "https://example.com/a b",
        "https://example.com/\r\nhost: x",
        "https://example.com/\x00",
        "https://exa\\mple.com/",
        "https://10.0.0.1/",
        "https://192.168.1.1/",
        "https://172.16.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fd00::1]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "http://1.1.1.1:8080/",
        "https://example.com/" + "x" * 2048,
        "\ud800",
        None,
        7,
        ["https://example.com/"],
    ],
)
async def test_a_url_that_must_not_be_sent_to_is_refused(shared: Api, url: object) -> None:
    assert_problem(await shared.post("/v1/endpoints", {"url": url}), 422, "url")
    assert await shared.count("endpoint") == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:9999/", "https://127.0.0.1/", "https://localhost/"])
async def test_without_an_allow_list_loopback_is_refused_as_any_private_address(settings: Settings, url: str) -> None:
    async with running_api(settings.model_copy(update={"egress_allow": [], "egress_http": False})) as api:
        assert_problem(await api.post("/v1/endpoints", {"url": url}), 422, "url")


async def test_a_name_that_resolves_to_a_private_address_is_refused_without_showing_the_address(
    settings: Settings,
) -> None:
    async with running_api(settings.model_copy(update={"egress_allow": []})) as api:
        problem = assert_problem(await api.post("/v1/endpoints", {"url": "https://localhost/"}), 422, "url")

    for part in ("127.0.0", "::1", "loopback"):
        assert part not in str(problem)


@pytest.mark.parametrize(
    ("url", "setting"),
    [
        ("https://10.1.2.3/secret-path?key=secret", "EVERHOOK_EGRESS_ALLOW"),
        ("https://localhost/secret-path", "EVERHOOK_EGRESS_ALLOW"),
        ("http://example.com/secret-path", "EVERHOOK_EGRESS_HTTP"),
        ("https://example.com:22/secret-path", "EVERHOOK_EGRESS_PORTS"),
        ("https://example.com:99999/secret-path", None),
        ("https://user:secret@10.1.2.3/", None),
        ("ftp://example.com/secret-path", None),
    ],
)
async def test_the_log_names_the_setting_that_would_permit_a_refused_url(
    settings: Settings, url: str, setting: str | None
) -> None:
    strict = settings.model_copy(update={"egress_allow": [], "egress_http": False})
    async with running_api(strict) as api:
        with capture_logs() as lines:
            for _ in range(3):
                assert_problem(await api.post("/v1/endpoints", {"url": url, "tenant": "acme"}), 422, "url")
    hints = [line for line in lines if line["event"].startswith("an endpoint's URL was refused")]
    assert [line["setting"] for line in hints] == ([setting] if setting else [])
    assert all(line["host"] and line["host"] in url for line in hints)
    assert "secret" not in str(lines)


async def test_each_tenant_has_its_refused_urls_logged(settings: Settings) -> None:
    async with running_api(settings.model_copy(update={"egress_allow": []})) as api:
        with capture_logs() as lines:
            for tenant in ("acme", "other", "acme"):
                await api.post("/v1/endpoints", {"url": "https://10.1.2.3/", "tenant": tenant})
    assert [line["tenant"] for line in lines if "setting" in line] == ["acme", "other"]


async def test_a_url_is_stored_in_its_normal_form(api: Api) -> None:
    endpoint = await api.endpoint("HTTP://127.0.0.1:09999")

    assert endpoint["url"] == "http://127.0.0.1:9999/"


@ON_SHARED
@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("description", "x" * 1001, "description"),
        ("description", "a\x00b", "description"),
        ("description", "\ud800", "description"),
        ("description", 7, "description"),
        ("tenant", "a b", "tenant"),
        ("tenant", "a\n", "tenant"),
        ("channel", "a/b", "channel"),
        ("events", ["order .*"], "events[0]"),
        ("events", ["order.*", "*created"], "events[1]"),
        ("events", ["order.**.added"], "events[0]"),
        ("events", ["x" * 131], "events[0]"),
        ("events", ["a\n"], "events[0]"),
        ("events", "order.*", "events"),
        ("events", ["a"] * 101, "events"),
        ("rateLimit", 0, "rateLimit"),
        ("rateLimit", -1, "rateLimit"),
        ("rateLimit", 1001, "rateLimit"),
        ("rateLimit", float("nan"), "rateLimit"),
        ("rateLimit", float("inf"), "rateLimit"),
        ("rateLimit", "fast", "rateLimit"),
        ("signatures", [], "signatures"),
        ("signatures", ["md5"], "signatures[0]"),
        ("format", "xml", "format"),
        ("metadata", {str(n): n for n in range(51)}, "metadata"),
        ("metadata", {"a": float("nan")}, "metadata"),
        ("metadata", {"a": "\ud800"}, "metadata"),
        ("metadata", {"\ud800": 1}, "metadata"),
        ("metadata", {"a": "x" * 16 * 1024}, "metadata"),
        ("metadata", [], "metadata"),
        ("headers", {"a": 1}, "headers.a"),
        ("secret", "whsec_mine", "secret"),
        ("ratelimit", 1, "ratelimit"),
        ("\ud800", 1, None),
    ],
)
async def test_a_bad_field_is_named_and_nothing_is_created(
    shared: Api, field: str, value: object, named: str | None
) -> None:
    response = await shared.post("/v1/endpoints", {"url": RECEIVER_URL, field: value})

    assert_problem(response, 422, named)
    assert await shared.count("endpoint") == 0


@ON_SHARED
@pytest.mark.parametrize("depth", [33, 300, 900, 100_000])
async def test_metadata_that_nests_too_deeply_to_be_returned_is_refused(shared: Api, depth: int) -> None:
    bomb = f'{{"url":"{RECEIVER_URL}","metadata":{{"a":{"[" * depth}{"]" * depth}}}}}'

    response = await shared.http.post("/v1/endpoints", content=bomb, headers={"content-type": "application/json"})

    assert_problem(response, 422 if depth < 1000 else 400)
    assert await shared.count("endpoint") == 0


RESERVED = [
    "Host", "content-length", "Transfer-Encoding", "Connection", "Authorization", "Cookie", "Content-Type",
    "User-Agent", "webhook-id", "Webhook-Signature", "X-Webhook-Event", "x-npayload-signature", "traceparent",
    "X-Idempotency-Key", "x-forwarded-for", "Proxy-Authorization", "sec-fetch-site", "X-Everhook-Anything",
]  # fmt: skip


async def test_headers_that_everhook_sets_are_refused(api: Api) -> None:
    for name in RESERVED:
        body = {"url": RECEIVER_URL, "headers": {"X-Mine": "fine", name: "x"}}
        assert_problem(await api.post("/v1/endpoints", body), 422, f"headers.{name}")
    assert await api.count("endpoint") == 0


@ON_SHARED
@pytest.mark.parametrize(
    "name",
    ["X_Forwarded_For", "x_forwarded-host", "X.Forwarded.For", "webhook_id", "WEBHOOK_signature", "Content_Length",
     "transfer_encoding", "X_Real_IP", "user.agent", "proxy_authorization", "x!forwarded!for", "X~Everhook~Any"],
)  # fmt: skip
async def test_a_header_that_is_equal_to_one_of_everhook_after_case_folding_is_refused(shared: Api, name: str) -> None:
    """CGI and WSGI pass `X_Forwarded_For` and `X-Forwarded-For` on under one name."""
    body = {"url": RECEIVER_URL, "headers": {"X_Mine": "fine", name: "x"}}

    problem = assert_problem(await shared.post("/v1/endpoints", body), 422, f"headers.{name}")

    assert name.lower().translate(str.maketrans("_.!~", "----")) in problem["detail"]


@ON_SHARED
@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\n", "\r", "a\x00b", "\t", "ü", "\x7f"])
async def test_a_header_value_that_could_break_out_is_refused(shared: Api, value: str) -> None:
    assert_problem(
        await shared.post("/v1/endpoints", {"url": RECEIVER_URL, "headers": {"X-A": value}}), 422, "headers.X-A"
    )


@ON_SHARED
@pytest.mark.parametrize("name", ["", "a b", "a:", "X-A\n", "X\r\nB", "ü", "a\x00", "x" * 101])
async def test_an_invalid_header_name_is_refused(shared: Api, name: str) -> None:
    assert_problem(await shared.post("/v1/endpoints", {"url": RECEIVER_URL, "headers": {name: "v"}}), 422, "headers")


async def test_headers_are_few_and_short(api: Api) -> None:
    many = {f"X-{n}": "v" for n in range(21)}
    assert_problem(await api.post("/v1/endpoints", {"url": RECEIVER_URL, "headers": many}), 422, "headers")
    long = {"X-A": "v" * 4096}
    assert_problem(await api.post("/v1/endpoints", {"url": RECEIVER_URL, "headers": long}), 422, "headers")


async def test_a_change_affects_only_the_fields_that_are_given(api: Api) -> None:
    endpoint = await api.endpoint(description="old", rateLimit=5, headers={"X-A": "1"}, policy={"preset": "brisk"})
    path = f"/v1/endpoints/{endpoint['endpointGid']}"
    before = ok(await api.get(path))

    changed = ok(await api.patch(path, {"description": "new", "url": "http://127.0.0.1:9998/other"}))

    assert changed == ok(await api.get(path))
    differing = {key for key in before if before[key] != changed[key]}
    assert differing == {"description", "url", "updatedAt"}
    assert (changed["description"], changed["url"]) == ("new", "http://127.0.0.1:9998/other")


async def test_null_clears_an_optional_field(api: Api) -> None:
    endpoint = await api.endpoint(rateLimit=5, policy={"preset": "brisk"})
    path = f"/v1/endpoints/{endpoint['endpointGid']}"

    changed = ok(await api.patch(path, {"rateLimit": None, "policy": None}))

    assert (changed["rateLimit"], changed["policy"]) == (None, None)
    assert ok(await api.get(path)) == changed


@pytest.mark.parametrize("field", ["url", "description", "signatures", "format", "headers", "metadata"])
async def test_null_is_refused_for_a_required_field(api: Api, field: str) -> None:
    endpoint = await api.endpoint()
    path = f"/v1/endpoints/{endpoint['endpointGid']}"
    before = ok(await api.get(path))

    assert_problem(await api.patch(path, {field: None}), 422, field)
    assert ok(await api.get(path)) == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"headers": {"Host": "x"}}, "headers.Host"),
        ({"policy": {"preset": "slow"}}, "policy.preset"),
        ({"metadata": {"a": "\ud800"}}, "metadata"),
        ({"tenant": "other"}, "tenant"),
        ({"secret": "whsec_x"}, "secret"),
        ({"endpointGid": "ep_x"}, "endpointGid"),
        ({"status": "paused"}, "status"),
    ],
)
async def test_a_bad_change_changes_nothing(api: Api, changes: dict[str, Any], named: str) -> None:
    endpoint = await api.endpoint()
    path = f"/v1/endpoints/{endpoint['endpointGid']}"
    before = ok(await api.get(path))

    assert_problem(await api.patch(path, {"description": "new", **changes}), 422, named)
    assert ok(await api.get(path)) == before


async def test_endpoints_are_listed_newest_first_and_by_tenant(api: Api) -> None:
    gids = [(await api.endpoint(tenant=tenant))["endpointGid"] for tenant in ("a", "b", "a", "b", "a")]

    assert [e["endpointGid"] for e in await api.walk("/v1/endpoints", limit=2)] == gids[::-1]
    of_a = await api.walk("/v1/endpoints", limit=2, tenant="a")
    assert [e["endpointGid"] for e in of_a] == gids[::-2]
    assert {e["tenant"] for e in of_a} == {"a"}
    assert await api.walk("/v1/endpoints", tenant="nobody") == []


async def test_deleting_an_endpoint_deletes_its_subscriptions_and_secrets(api: Api) -> None:
    await api.channel()
    kept, gone = await api.endpoint(channel="orders"), await api.endpoint(channel="orders")
    before = await api.publish()
    path = f"/v1/endpoints/{gone['endpointGid']}"

    response = await api.delete(path)

    assert (response.status_code, response.content) == (204, b"")
    assert_problem(await api.get(path), 404)
    assert_problem(await api.patch(path, {"description": "x"}), 404)
    assert_problem(await api.delete(path), 404)
    assert [e["endpointGid"] for e in await api.walk("/v1/endpoints")] == [kept["endpointGid"]]
    assert [s["endpointGid"] for s in await api.walk("/v1/subscriptions")] == [kept["endpointGid"]]
    assert await api.count("endpoint_secret") == 1
    after = await api.publish()
    assert len(before["deliveries"]) == 2
    assert [d["endpointGid"] for d in after["deliveries"]] == [kept["endpointGid"]]


@ON_SHARED
@pytest.mark.parametrize("gid", [UNKNOWN, "ep_x", "x", f"msg_{UNKNOWN_SUFFIX}", "%20", "ü"])
async def test_an_unknown_resource_is_not_found(shared: Api, gid: str) -> None:
    assert_problem(await shared.get(f"/v1/endpoints/{gid}"), 404)
    assert_problem(await shared.patch(f"/v1/endpoints/{gid}", {"description": "x"}), 404)
    assert_problem(await shared.delete(f"/v1/endpoints/{gid}"), 404)
    assert_problem(await shared.post(f"/v1/endpoints/{gid}/pause"), 404)
    assert_problem(await shared.post(f"/v1/endpoints/{gid}/circuit/trip"), 404)


async def test_a_nul_in_a_gid_is_refused_before_the_database_sees_it(api: Api) -> None:
    assert_problem(await api.get("/v1/endpoints/ep_%00"), 422, "gid")


async def test_unknown_commands_are_refused(api: Api) -> None:
    gid = (await api.endpoint())["endpointGid"]

    assert_problem(await api.post(f"/v1/endpoints/{gid}/explode"), 404)
    assert_problem(await api.post(f"/v1/endpoints/{gid}/circuit/pause"), 404)
