"""The operations that each scope permits: every operation of the document is tried with every kind of key."""

from ipaddress import ip_network

import pytest
import pytest_asyncio

from api.callers import client_address
from testing.api import ON_SHARED, Api, assert_problem, ok, openapi_document
from tests.api.walking import OF_SENDERS, PUBLISHING, RECEIVING, REPLAYING, Operation, World, make_world, operations

OPERATIONS = {operation.name: operation for operation in operations(openapi_document())}
FOR_ADMINS = ("/v1/tenants", "/v1/api-keys")
OF_TENANTS = (
    "/v1/endpoints", "/v1/subscriptions", "/v1/deliveries", "/v1/dead-letters", "/v1/batches", "/v1/audit", "/v1/tasks",
)  # fmt: skip
KEYS = ["publish", "read", "tenant"]


def is_open(operation: Operation, key: str) -> bool:
    if operation.path in PUBLISHING:
        return key == "publish"
    if operation.path in REPLAYING:
        return key in ("publish", "tenant")
    if operation.path in OF_SENDERS:
        return True
    if operation.path.startswith(FOR_ADMINS) or key == "publish":
        return False
    if operation.path in RECEIVING:
        return key == "tenant"
    return operation.method == "GET" or (key == "tenant" and operation.path.startswith(OF_TENANTS))


class Callers:
    def __init__(self, admin: Api, world: World, keys: dict[str, Api]) -> None:
        self.admin, self.world, self.keys = admin, world, keys


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def callers(shared: Api) -> Callers:
    world = await make_world(shared, "acme")
    keys = {"publish": await shared.key("publish"), "read": await shared.key("read")}
    return Callers(shared, world, keys | {"tenant": await shared.key(tenant="acme")})


@ON_SHARED
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.method == "GET"])
async def test_a_key_reads_what_its_scopes_permit(callers: Callers, name: str, key: str) -> None:
    response = await OPERATIONS[name].request(callers.world).send(callers.keys[key])

    assert (response.status_code == 403) != is_open(OPERATIONS[name], key), response.text


@ON_SHARED
@pytest.mark.parametrize(
    ("name", "key"),
    [(n, k) for n, o in OPERATIONS.items() for k in KEYS if o.method != "GET" and not is_open(o, k)],
)
async def test_a_change_that_a_key_may_not_make_is_a_403_and_changes_nothing(
    callers: Callers, name: str, key: str
) -> None:
    tables = ("channel", "endpoint", "subscription", "delivery", "message", "tenant", "api_key", "audit_entry")
    before = [await callers.admin.rows(f"SELECT * FROM {table}") for table in tables]

    problem = assert_problem(await OPERATIONS[name].request(callers.world).send(callers.keys[key]), 403)

    assert "`admin`" in problem["detail"]
    assert ("`publish`" in problem["detail"]) == (OPERATIONS[name].path in PUBLISHING | REPLAYING)
    assert [await callers.admin.rows(f"SELECT * FROM {table}") for table in tables] == before


@ON_SHARED
async def test_a_key_without_the_scope_is_refused_before_its_body_is_read(callers: Callers) -> None:
    async def body() -> object:
        raise AssertionError("the body was read")
        yield b""

    http = callers.keys["read"].http
    assert_problem(await http.post("/v1/channels/orders/messages", content=body()), 403)  # type: ignore[arg-type]


@ON_SHARED
async def test_a_publisher_publishes_to_all_and_to_one(callers: Callers) -> None:
    publisher = callers.keys["publish"]

    assert (await publisher.publish({"n": 1}))["deliveries"]
    assert (await publisher.publish({"n": 1}, tenant="acme"))["deliveries"]


@ON_SHARED
async def test_scopes_add_up(callers: Callers) -> None:
    both = await callers.admin.key("publish", "read")

    assert (await both.publish({"n": 1}))["messageGid"]
    assert ok(await both.get("/v1/messages"))["data"]
    assert_problem(await both.post("/v1/channels", {"name": "x"}), 403)


@ON_SHARED
async def test_an_admins_key_may_call_everything(callers: Callers) -> None:
    admin = await callers.admin.key("admin")

    for name, operation in OPERATIONS.items():
        if operation.method == "GET":
            assert (await operation.request(callers.world).send(admin)).status_code not in (401, 403), name
    assert (await admin.channel("of-an-admin"))["name"]
    assert (await admin.publish({"n": 1}))["messageGid"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "client"),
    [
        ("203.0.113.7", [], [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], [], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1"], [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.1", ["1.2.3.4", "198.51.100.1"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1", " 10.0.0.2"], ["10.0.0.0/8"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3", "10.0.0.2"], ["10.0.0.0/8"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1", "unknown"], ["10.0.0.0/8"], "10.0.0.1"),
        ("10.0.0.1", [""], ["10.0.0.0/8"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["2001:db8::7"], ["10.0.0.0/8"], "2001:db8::7"),
        ("2001:db8::1", ["198.51.100.1"], ["10.0.0.0/8", "2001:db8::/64"], "198.51.100.1"),
        (None, ["198.51.100.1"], ["10.0.0.0/8"], None),
    ],
)
def test_the_client_address_is_taken_from_trusted_proxies_only(
    peer: str | None, forwarded: list[str], trusted: list[str], client: str | None
) -> None:
    assert client_address(peer, forwarded, [ip_network(network) for network in trusted]) == client
