"""Which callers are let in, and the responses to unknown routes and methods."""

import httpx
import pytest

from everhook.settings import Settings
from testing.api import API_KEY, ON_SHARED, Api, assert_problem, ok, running_api

PLACEHOLDERS = {"{name}": "orders", "{gid}": "ep_01m83prhbfe23sdyzab24cmhby"}
OPEN_TO_ALL = {"/livez", "/readyz", "/version", "/.well-known/jwks.json"}


@ON_SHARED
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {API_KEY}x",
        f"Bearer {API_KEY[:-1]}",
        f"Basic {API_KEY}",
        API_KEY,
        "Bearer \xe9\xe8",
    ],
)
async def test_without_a_valid_key_the_response_is_401_and_says_how_to_authenticate(
    shared: Api, header: str | None
) -> None:
    given = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    request = httpx.Request("GET", "http://everhook.test/v1/channels", headers=given)

    response = await shared.http.send(request)

    assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


async def test_every_operation_except_health_requires_the_key(api: Api) -> None:
    api.http.headers.pop("authorization")
    asked = 0
    for path, operations in api.app.openapi()["paths"].items():
        for method in operations:
            response = await api.http.request(method, _filled(path))
            if path in OPEN_TO_ALL:
                assert response.status_code == 200
            else:
                assert_problem(response, 401)
            asked += 1
    assert asked >= 30


@pytest.mark.parametrize("path", ["/v1/channels/orders/messages", "/v1/channels/orders/messages/batch"])
async def test_the_body_of_an_unauthenticated_publish_is_not_read(api: Api, path: str) -> None:
    async def body() -> object:
        raise AssertionError("the body was read")
        yield b""

    api.http.headers.pop("authorization")

    response = await api.http.post(path, content=body())  # type: ignore[arg-type]

    assert_problem(response, 401)


async def test_every_request_is_refused_if_no_key_is_set(settings: Settings) -> None:
    async with running_api(settings.model_copy(update={"api_key": None})) as api:
        assert_problem(await api.get("/v1/channels"), 401)
        assert_problem(await api.http.get("/v1/channels", headers={"authorization": "Bearer "}), 401)


@ON_SHARED
@pytest.mark.parametrize(
    ("method", "path", "methods"),
    [
        ("GET", "/nothing", None),
        ("GET", "/v1/nothing", None),
        ("GET", "/v1", None),
        ("GET", "/v2/channels", None),
        ("PUT", "/v1/channels", "GET, POST"),
        ("PUT", "/v1/endpoints/ep_1", "GET, PATCH, DELETE"),
        ("DELETE", "/v1/messages/msg_1", "GET"),
        ("POST", "/livez", "GET"),
    ],
)
async def test_unknown_routes_and_methods_are_problems_too(
    shared: Api, method: str, path: str, methods: str | None
) -> None:
    response = await shared.http.request(method, path)

    problem = assert_problem(response, 404 if methods is None else 405)
    assert response.headers.get("allow") == methods
    if methods is not None:
        assert problem["detail"] == f"{path} has no {method}; it takes {methods.replace(', ', ' and ')}."
    elif path.startswith("/v1"):
        assert problem["detail"].startswith(f"There is no {path}; ")


async def test_a_key_is_compared_as_a_whole_and_the_scheme_in_any_case(api: Api) -> None:
    response: httpx.Response = await api.http.get("/v1/channels", headers={"authorization": f"bearer {API_KEY}"})

    assert [channel["name"] for channel in ok(response)["data"]] == ["everhook.events", "everhook.tasks"]


def _filled(path: str) -> str:
    for placeholder, value in PLACEHOLDERS.items():
        path = path.replace(placeholder, value)
    return path.replace("circuit/{command}", "circuit/trip").replace("{command}", "pause")


@ON_SHARED
async def test_a_missing_key_and_a_wrong_key_have_different_messages(shared: Api) -> None:
    none = assert_problem(await shared.http.get("/v1/channels", headers={"authorization": ""}), 401)
    wrong = assert_problem(await shared.presenting("ek_wrong").get("/v1/channels"), 401)

    assert "No API key was given" in none["detail"]
    assert "This API key is not valid" in wrong["detail"]


@ON_SHARED
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/channels"), ("GET", "/deliveries/dlv_1"), ("POST", "/endpoints")]
)
async def test_a_call_without_the_version_is_refused_with_the_versioned_path(
    shared: Api, method: str, path: str
) -> None:
    problem = assert_problem(await shared.http.request(method, path), 404)
    assert f"/v1{path}" in problem["detail"]

    page = await shared.http.get("/channels", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["location"].partition("?")[0]) == (303, "/sign-in")
