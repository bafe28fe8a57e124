"""Secrets over HTTP: rotation, Ed25519, and TLS settings, without showing secrets again."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everhook.delivery.snapshot_store import DestinationCache
from everhook.signing.schemes import new_secret, secret_key
from everhook.storage.keyring import KeyRing
from testing.api import JSON, MASTER_KEY, ON_SHARED, RECEIVER_URL, UNKNOWN_SUFFIX, Api, assert_problem, created, ok
from testing.certificates import Authority, Pair, encrypted, self_signed

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def ours(authority: Authority) -> Pair:
    return authority.issue("everhook")


def path_of(endpoint: JSON) -> str:
    return f"/v1/endpoints/{endpoint['endpointGid']}"


async def rotate(api: Api, endpoint: JSON, body: Any = None) -> JSON:
    return ok(await api.post(f"{path_of(endpoint)}/secret/rotate", body))


def whsec(length: int) -> str:
    return "whsec_" + base64.b64encode(bytes(range(length))).decode()


# Rotation


@pytest.mark.parametrize("body", [None, {}])
async def test_a_rotation_shows_a_new_secret_once_and_says_when_the_old_one_ends(api: Api, body: Any) -> None:
    endpoint = await api.endpoint()
    before = ok(await api.get(path_of(endpoint)))

    rotated = await rotate(api, endpoint, body)

    assert rotated["endpointGid"] == endpoint["endpointGid"]
    assert len(secret_key(rotated["secret"])) == 32
    assert rotated["secret"] != endpoint["secret"]
    until = datetime.fromisoformat(rotated["previousUntil"])
    assert abs(until - datetime.now(UTC) - DAY) < timedelta(minutes=1)
    response = await api.get(path_of(endpoint))
    assert rotated["secret"] not in response.text
    assert {key for key in before if before[key] != ok(response)[key]} == {"updatedAt"}


async def test_a_secret_given_by_the_caller_is_accepted(api: Api) -> None:
    endpoint = await api.endpoint()
    for length in (24, 64):
        assert (await rotate(api, endpoint, {"secret": whsec(length)}))["secret"] == whsec(length)


async def test_without_grace_no_older_secret_is_left(api: Api) -> None:
    endpoint = await api.endpoint()
    await rotate(api, endpoint)
    assert (await rotate(api, endpoint, {"gracePeriodSeconds": 0}))["previousUntil"] is None
    assert await api.count("endpoint_secret") == 1


async def test_repeating_a_rotation_with_the_same_secret_adds_none(api: Api) -> None:
    endpoint, mine = await api.endpoint(), {"secret": new_secret(), "gracePeriodSeconds": 3600}
    first, second = await rotate(api, endpoint, mine), await rotate(api, endpoint, mine)
    assert first == second
    assert await api.count("endpoint_secret") == 2


async def test_an_eleventh_live_secret_is_a_conflict_and_changes_nothing(api: Api) -> None:
    endpoint = await api.endpoint()
    for _ in range(9):
        await rotate(api, endpoint)
    before = await api.rows("SELECT gid, expires_at FROM endpoint_secret ORDER BY gid")

    problem = assert_problem(await api.post(f"{path_of(endpoint)}/secret/rotate"), 409)

    assert "gracePeriodSeconds 0" in problem["detail"]
    assert await api.rows("SELECT gid, expires_at FROM endpoint_secret ORDER BY gid") == before


@ON_SHARED
@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"secret": ""}, "secret"),
        ({"secret": "hunter2-hunter2"}, "secret"),
        ({"secret": whsec(23)}, "secret"),
        ({"secret": whsec(65)}, "secret"),
        ({"secret": whsec(32).removeprefix("whsec_")}, "secret"),
        ({"secret": 7}, "secret"),
        ({"gracePeriodSeconds": -1}, "gracePeriodSeconds"),
        ({"gracePeriodSeconds": 604_801}, "gracePeriodSeconds"),
        ({"gracePeriodSeconds": 1.5}, "gracePeriodSeconds"),
        ({"gracePeriodSeconds": None}, "gracePeriodSeconds"),
        ({"grace": 1}, "grace"),
    ],
)
async def test_a_bad_rotation_names_the_field_and_does_not_repeat_the_secret(
    shared: Api, body: dict[str, Any], named: str
) -> None:
    response = await shared.post(f"/v1/endpoints/ep_{UNKNOWN_SUFFIX}/secret/rotate", body)
    assert_problem(response, 422, named)
    secret = body.get("secret")
    assert not isinstance(secret, str) or not secret or secret not in response.text


@ON_SHARED
async def test_the_longest_grace_is_taken_and_an_unknown_endpoint_is_not_found(shared: Api) -> None:
    path = f"/v1/endpoints/ep_{UNKNOWN_SUFFIX}/secret/rotate"
    assert_problem(await shared.post(path, {"gracePeriodSeconds": 604_800}), 404)
    assert_problem(await shared.post(path), 404)


async def test_a_deleted_endpoint_has_no_secret_to_rotate(api: Api) -> None:
    endpoint = await api.endpoint()
    await api.delete(path_of(endpoint))
    assert_problem(await api.post(f"{path_of(endpoint)}/secret/rotate"), 404)
    assert await api.count("endpoint_secret") == 0


# Ed25519


async def test_an_endpoint_has_no_public_key_until_ed25519_is_enabled(api: Api) -> None:
    endpoint = await api.endpoint()
    assert (endpoint["ed25519"], endpoint["publicKeys"]) == (False, [])

    changed = ok(await api.patch(path_of(endpoint), {"ed25519": True}))

    assert changed == ok(await api.get(path_of(endpoint)))
    (key,) = changed["publicKeys"]
    assert changed["ed25519"] and key["expiresAt"] is None
    assert len(base64.b64decode(key["publicKey"].removeprefix("whpk_"))) == 32
    assert ok(await api.patch(path_of(endpoint), {"ed25519": True}))["publicKeys"] == [key]
    assert (await api.walk("/v1/endpoints"))[0]["publicKeys"] == [key]


async def test_an_endpoint_can_be_created_with_a_public_key(api: Api) -> None:
    endpoint = created(await api.post("/v1/endpoints", {"url": RECEIVER_URL, "ed25519": True}))
    assert endpoint["ed25519"] and len(endpoint["publicKeys"]) == 1
    assert ok(await api.get(path_of(endpoint)))["publicKeys"] == endpoint["publicKeys"]


async def test_a_rotation_makes_a_new_key_pair_too_and_shows_both_public_keys(api: Api) -> None:
    endpoint = await api.endpoint(ed25519=True)
    (old,) = endpoint["publicKeys"]

    rotated = await rotate(api, endpoint)

    new, same = rotated["publicKeys"]
    assert (new["expiresAt"], same["publicKey"]) == (None, old["publicKey"])
    assert new["publicKey"] != old["publicKey"] and same["expiresAt"] == rotated["previousUntil"]
    assert ok(await api.get(path_of(endpoint)))["publicKeys"] == [new, same]


async def test_disabling_ed25519_removes_the_public_key(api: Api) -> None:
    endpoint = await api.endpoint(ed25519=True)
    await rotate(api, endpoint)
    changed = ok(await api.patch(path_of(endpoint), {"ed25519": False}))
    assert (changed["ed25519"], changed["publicKeys"]) == (False, [])
    assert await api.rows("SELECT kind FROM endpoint_secret GROUP BY kind") == [("hmac",)]


async def test_ed25519_requires_the_standard_signature_scheme(api: Api) -> None:
    body = {"url": RECEIVER_URL, "signatures": ["npayload"], "ed25519": True}
    assert_problem(await api.post("/v1/endpoints", body), 422, "ed25519")
    assert await api.count("endpoint") == 0

    without = await api.endpoint(signatures=["timestamped"])
    assert_problem(await api.patch(path_of(without), {"ed25519": True}), 422, "ed25519")
    assert ok(await api.patch(path_of(without), {"ed25519": True, "signatures": ["standard"]}))["ed25519"]

    assert_problem(await api.patch(path_of(without), {"signatures": ["npayload"]}), 422, "signatures")
    assert_problem(await api.patch(path_of(without), {"ed25519": None}), 422, "ed25519")
    assert not ok(await api.patch(path_of(without), {"ed25519": False, "signatures": ["npayload"]}))["ed25519"]


# TLS


async def test_tls_settings_are_kept_and_the_key_is_never_shown(api: Api, authority: Authority, ours: Pair) -> None:
    tls = {"ca": authority.pem, "clientCertificate": ours.certificate, "clientKey": ours.key}

    endpoint = created(await api.post("/v1/endpoints", {"url": RECEIVER_URL, "tls": tls}))

    shown = {"ca": authority.pem, "clientCertificate": ours.certificate}
    assert endpoint["tls"] == shown
    response = await api.get(path_of(endpoint))
    assert ok(response)["tls"] == shown
    inside = ours.key.splitlines()[1]
    assert inside not in response.text
    ((kept,),) = await api.rows("SELECT tls_key FROM endpoint")
    assert inside not in kept and kept.startswith("v1.")


async def test_new_tls_settings_replace_all_and_null_clears_them(api: Api, authority: Authority, ours: Pair) -> None:
    tls = {"ca": authority.pem, "clientCertificate": ours.certificate, "clientKey": ours.key}
    endpoint = await api.endpoint(tls=tls)

    changed = ok(await api.patch(path_of(endpoint), {"tls": {"ca": authority.pem}}))
    assert changed["tls"] == {"ca": authority.pem, "clientCertificate": None}
    assert await api.rows("SELECT tls_key FROM endpoint") == [(None,)]
    assert ok(await api.patch(path_of(endpoint), {"description": "new"}))["tls"] == changed["tls"]
    assert ok(await api.patch(path_of(endpoint), {"tls": None}))["tls"] is None
    assert await api.rows("SELECT tls_ca, tls_certificate, tls_key FROM endpoint") == [(None, None, None)]


async def test_deleting_an_endpoint_deletes_its_keys(api: Api, ours: Pair) -> None:
    endpoint = await api.endpoint(tls={"clientCertificate": ours.certificate, "clientKey": ours.key})
    await api.delete(path_of(endpoint))
    assert await api.rows("SELECT tls_key FROM endpoint") == [(None,)]


def bad_tls(ours: Pair, other: Pair) -> dict[str, tuple[Any, str]]:
    certificate, key = ours.certificate, ours.key
    return {
        "no PEM": ({"ca": "hunter2"}, "tls.ca"),
        "empty": ({"ca": ""}, "tls.ca"),
        "not ASCII": ({"ca": "\ud800"}, "tls.ca"),
        "too long": ({"ca": "x" * (32 * 1024 + 1)}, "tls.ca"),
        "a key for a CA": ({"ca": key}, "tls.ca"),
        "a key among CAs": ({"ca": certificate + key}, "tls.ca"),
        "a key next to the certificate": (
            {"clientCertificate": certificate + key, "clientKey": key},
            "tls.clientCertificate",
        ),
        "no key": ({"clientCertificate": certificate}, "tls.clientCertificate"),
        "no certificate": ({"clientKey": key}, "tls.clientCertificate"),
        "another's key": ({"clientCertificate": certificate, "clientKey": other.key}, "tls.clientCertificate"),
        "an encrypted key": (
            {"clientCertificate": certificate, "clientKey": encrypted(key)},
            "tls.clientCertificate",
        ),
        "a key with a NUL": ({"clientCertificate": certificate, "clientKey": f"{key}\0"}, "tls.clientKey"),
        "no key at all": ({"clientCertificate": certificate, "clientKey": "ü"}, "tls.clientKey"),
        "an unknown field": ({"verify": False}, "tls.verify"),
        "no object": ("off", "tls"),
    }


async def test_tls_settings_that_cannot_be_used_name_the_field_and_repeat_no_key(api: Api, ours: Pair) -> None:
    endpoint = await api.endpoint()
    for name, (tls, named) in bad_tls(ours, self_signed("other")).items():
        made = await api.post("/v1/endpoints", {"url": RECEIVER_URL, "tls": tls})
        changed = await api.patch(path_of(endpoint), {"description": "new", "tls": tls})
        for response in (made, changed):
            assert_problem(response, 422, named)
            assert "PRIVATE KEY" not in response.text and "hunter2" not in response.text, name
    assert await api.count("endpoint") == 1
    assert ok(await api.get(path_of(endpoint)))["description"] == ""


async def test_an_endpoint_can_be_created_with_a_given_secret(api: Api) -> None:
    secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

    assert (await api.endpoint(secret=secret))["secret"] == secret
    assert (await api.endpoint())["secret"] != secret
    for wrong in ("MDEy", "whsec_MDEy", "whsec_" + "!" * 40, 5):
        body = {"url": "http://127.0.0.1:9999/", "secret": wrong}
        problem = assert_problem(await api.post("/v1/endpoints", body), 422, "secret")
        assert str(wrong) not in problem["detail"] or wrong == 5
    assert (await api.rows("SELECT count(*) FROM endpoint"))[0][0] == 2


@pytest.mark.parametrize(
    "body",
    [
        {"mode": "poll"},
        {"mode": "stream"},
        {"mode": "inbox", "options": {"name": "Managers"}},
        {"mode": "internal", "options": {"handler": {"kind": "reminder"}}},
    ],
)
async def test_endpoints_without_signed_requests_have_no_secret_and_no_signatures(api: Api, body: JSON) -> None:
    endpoint = created(await api.post("/v1/endpoints", body))
    assert (endpoint["secret"], endpoint["signatures"]) == (None, None)
    assert ok(await api.get(path_of(endpoint)))["signatures"] is None
    assert await api.count("endpoint_secret") == 0
    assert_problem(await api.post(f"{path_of(endpoint)}/secret/rotate"), 422, "secret")
    assert await api.count("endpoint_secret") == 0


# Custom headers


HEADERS = {"X-Key": "v4lue-of-a-header", "X-Team": "orders"}


async def stored_headers(api: Api, endpoint: JSON) -> dict[str, str]:
    """The headers with their decrypted values, as senders read them."""
    gid = endpoint["endpointGid"]
    destination = await DestinationCache(api.database, KeyRing([MASTER_KEY])).get(gid, 1)
    return dict(destination.headers)


async def test_values_of_headers_are_shown_at_creation_to_admins_only_and_never_again(api: Api) -> None:
    created_by_admin = await api.endpoint(headers=HEADERS, tenant="acme")
    tenant = await api.key(tenant="acme")
    created_by_tenant = await tenant.endpoint(headers=HEADERS)

    assert created_by_admin["headers"] == HEADERS
    assert created_by_tenant["headers"] == dict.fromkeys(HEADERS)
    for endpoint in (created_by_admin, created_by_tenant):
        path = path_of(endpoint)
        for response in (await api.get(path), await api.get("/v1/endpoints"), await api.patch(path, {"rateLimit": 5})):
            assert response.status_code == 200 and "v4lue" not in response.text and "X-Key" in response.text
        assert await stored_headers(api, endpoint) == HEADERS
    assert "v4lue" not in str(await api.rows("SELECT * FROM endpoint"))
    assert "v4lue" not in (await api.get("/v1/audit")).text


async def test_a_repeated_creation_shows_the_values_from_an_encrypted_response(api: Api) -> None:
    body, key = {"url": RECEIVER_URL, "headers": HEADERS}, {"idempotency-key": "once"}
    first = created(await api.http.post("/v1/endpoints", json=body, headers=key))
    assert created(await api.http.post("/v1/endpoints", json=body, headers=key)) == first
    assert first["headers"] == HEADERS
    assert "v4lue" not in str(await api.rows("SELECT * FROM idempotent_response"))


async def test_headers_are_replaced_and_null_keeps_a_value(api: Api) -> None:
    endpoint = await api.endpoint(headers=HEADERS)
    path = path_of(endpoint)

    changed = ok(await api.patch(path, {"headers": {"x-key": None, "X-New": "n"}}))

    assert changed["headers"] == {"x-key": None, "X-New": None}
    assert await stored_headers(api, endpoint) == {"x-key": HEADERS["X-Key"], "X-New": "n"}
    shown = ok(await api.get(path))
    assert ok(await api.patch(path, {"headers": shown["headers"]}))["headers"] == shown["headers"]
    assert await stored_headers(api, endpoint) == {"x-key": HEADERS["X-Key"], "X-New": "n"}
    assert_problem(await api.patch(path, {"headers": {"X-Team": None}}), 422, "headers.X-Team")
    assert_problem(await api.patch(path, {"headers": {"x-key": None, "X-B": "v" * 4090}}), 422, "headers")
    assert_problem(await api.post("/v1/endpoints", {"url": RECEIVER_URL, "headers": {"X": None}}), 422, "headers.X")
    assert ok(await api.patch(path, {"headers": {}}))["headers"] == {}
    assert await api.rows("SELECT headers, header_values FROM endpoint") == [("{}", None)]


async def test_a_value_that_cannot_be_decrypted_has_to_be_given_again(api: Api) -> None:
    endpoint = await api.endpoint(headers=HEADERS)
    await api.change_rows("UPDATE endpoint SET header_values = 'v1.00000000.AAAA'")
    assert_problem(await api.patch(path_of(endpoint), {"headers": {"X-Key": None}}), 422, "headers")
    ok(await api.patch(path_of(endpoint), {"headers": {"X-Key": "new"}}))
    assert await stored_headers(api, endpoint) == {"X-Key": "new"}


@ON_SHARED
@pytest.mark.parametrize("name", ["authorization", "Authorization"])
async def test_an_authorization_header_is_refused_and_the_message_names_auth(shared: Api, name: str) -> None:
    body = {"url": RECEIVER_URL, "headers": {name: "Bearer t0ken"}}
    problem = assert_problem(await shared.post("/v1/endpoints", body), 422, f"headers.{name}")
    assert "`auth`" in problem["detail"] and "t0ken" not in str(problem)


async def test_endpoints_of_an_earlier_release_keep_their_authorization_header(api: Api) -> None:
    endpoint = await api.endpoint()
    await api.change_rows("UPDATE endpoint SET headers = :headers", headers='{"Authorization": "Basic t0ken"}')

    changed = ok(await api.patch(path_of(endpoint), {"description": "new"}))
    assert changed["headers"] == {"Authorization": None}
    assert await stored_headers(api, endpoint) == {"Authorization": "Basic t0ken"}
    ok(await api.patch(path_of(endpoint), {"headers": {"Authorization": None, "X-A": "a"}}))
    assert await stored_headers(api, endpoint) == {"Authorization": "Basic t0ken", "X-A": "a"}
    assert_problem(
        await api.patch(path_of(endpoint), {"headers": {"Authorization": "other"}}), 422, "headers.Authorization"
    )


# Authentication

BEARER = {"type": "bearer", "token": "s3cret-token"}
BASIC = {"type": "basic", "username": "everhook", "password": "s3cret"}
HEADER = {"type": "header", "name": "X-Api-Key", "value": "s3cret"}
OAUTH2 = {
    "type": "oauth2",
    "tokenUrl": "http://127.0.0.1:9999/token?a=b",
    "clientId": "everhook",
    "clientSecret": "s3cret",
    "scope": "a b",
    "audience": "https://api.example.com/",
}
SECRETS = {"token", "password", "value", "clientSecret"}


def public(auth: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in auth.items() if name not in SECRETS}


async def used_auth(api: Api, endpoint: JSON, version: int = 1) -> dict[str, str] | None:
    """The authentication with its decrypted secret, as senders use it."""
    destination = await DestinationCache(api.database, KeyRing([MASTER_KEY])).get(endpoint["endpointGid"], version)
    return {**destination.auth.shown(), "secret": destination.auth.secret} if destination.auth is not None else None


@pytest.mark.parametrize("auth", [BEARER, BASIC, HEADER, OAUTH2], ids=lambda auth: auth["type"])
async def test_auth_is_encrypted_and_its_secret_never_shown(api: Api, auth: dict[str, str]) -> None:
    secret = next(value for name, value in auth.items() if name in SECRETS)
    response = await api.post("/v1/endpoints", {"url": RECEIVER_URL, "auth": auth})
    endpoint = created(response)
    assert endpoint["auth"] == public(auth) and "s3cret" not in response.text
    for path in (path_of(endpoint), "/v1/endpoints", "/v1/audit"):
        assert "s3cret" not in (await api.get(path)).text
    assert ok(await api.get(path_of(endpoint)))["auth"] == public(auth)
    assert await used_auth(api, endpoint) == {**public(auth), "secret": secret}
    assert "s3cret" not in str(await api.rows("SELECT * FROM endpoint"))


async def test_auth_is_replaced_as_a_whole_and_removed_with_null(api: Api) -> None:
    endpoint = await api.endpoint(auth=OAUTH2)
    path = path_of(endpoint)
    assert ok(await api.patch(path, {"description": "new"}))["auth"] == public(OAUTH2)
    assert ok(await api.patch(path, {"auth": BASIC}))["auth"] == public(BASIC)
    assert ok(await api.get("/v1/audit"))["data"][0]["detail"] == {"changed": ["auth"]}
    assert await used_auth(api, endpoint, 3) == {**public(BASIC), "secret": "s3cret"}
    assert ok(await api.patch(path, {"auth": None}))["auth"] is None
    assert await used_auth(api, endpoint, 4) is None
    assert await api.rows("SELECT auth, auth_secret FROM endpoint") == [(None, None)]
    await api.patch(path, {"auth": BEARER})
    await api.delete(path)
    assert await api.rows("SELECT auth, auth_secret FROM endpoint") == [(None, None)]


@ON_SHARED
@pytest.mark.parametrize(
    ("auth", "named"),
    [
        ("s3cret", "auth"),
        ({}, "auth.type"),
        ({"type": "digest"}, "auth.type"),
        ({"type": "bearer"}, "auth.token"),
        ({"type": "bearer", "token": None}, "auth.token"),
        ({"type": "bearer", "token": ""}, "auth.token"),
        ({"type": "bearer", "token": "s3cret s3cret"}, "auth.token"),
        ({"type": "bearer", "token": "s3cret\n"}, "auth.token"),
        ({"type": "bearer", "token": "s3cret" * 1000}, "auth.token"),
        ({"type": "bearer", "token": 7}, "auth.token"),
        ({**BEARER, "username": "a"}, "auth.username"),
        ({**BEARER, "secret": "s3cret"}, "auth.secret"),
        ({"type": "basic", "password": "s3cret"}, "auth.username"),
        ({**BASIC, "username": "a:b"}, "auth.username"),
        ({**BASIC, "username": "a\n"}, "auth.username"),
        ({**BASIC, "password": "s3cret\0"}, "auth.password"),
        ({**HEADER, "name": "X Y"}, "auth.name"),
        ({**HEADER, "name": "Host"}, "auth.name"),
        ({**HEADER, "name": "webhook-signature"}, "auth.name"),
        ({**HEADER, "value": "s3cret\r\nX: 1"}, "auth.value"),
        ({**HEADER, "value": "s3cret "}, "auth.value"),
        ({**HEADER, "value": ""}, "auth.value"),
        ({**HEADER, "value": "s" * 4_096}, "auth.value"),
        ({**HEADER, "value": "s3cr\u00e9t"}, "auth.value"),
        ({"type": "oauth2", "tokenUrl": "https://1.1.1.1/", "clientId": "a"}, "auth.clientSecret"),
        ({**OAUTH2, "tokenUrl": "https://10.0.0.1/token"}, "auth.tokenUrl"),
        ({**OAUTH2, "tokenUrl": "ftp://1.1.1.1/token"}, "auth.tokenUrl"),
        ({**OAUTH2, "tokenUrl": "http://169.254.169.254/latest"}, "auth.tokenUrl"),
        ({**OAUTH2, "clientId": "\u00fc"}, "auth.clientId"),
        ({**OAUTH2, "clientSecret": "s3cret\n"}, "auth.clientSecret"),
        ({**OAUTH2, "scope": "a  b"}, "auth.scope"),
        ({**OAUTH2, "scope": 'a"b'}, "auth.scope"),
        ({**OAUTH2, "audience": ""}, "auth.audience"),
    ],
)
async def test_a_bad_auth_names_the_field_and_repeats_no_secret(shared: Api, auth: Any, named: str) -> None:
    response = await shared.post("/v1/endpoints", {"url": RECEIVER_URL, "auth": auth})
    assert_problem(response, 422, named)
    assert "s3cret" not in response.text


async def test_a_header_is_set_by_auth_or_by_headers_but_not_by_both(api: Api) -> None:
    body = {"url": RECEIVER_URL, "headers": {"X_Api_Key": "a"}, "auth": HEADER}
    assert_problem(await api.post("/v1/endpoints", body), 422, "auth")
    endpoint = await api.endpoint(auth=HEADER)
    path = path_of(endpoint)
    assert_problem(await api.patch(path, {"headers": {"x-api-key": "a"}}), 422, "headers")
    ok(await api.patch(path, {"headers": {"x-api-key": "a"}, "auth": BEARER}))
    assert_problem(await api.patch(path, {"auth": HEADER}), 422, "auth")
    await api.change_rows("UPDATE endpoint SET headers = :headers", headers='{"Authorization": "x"}')
    assert_problem(await api.patch(path, {"auth": BASIC}), 422, "auth")
    ok(await api.patch(path, {"headers": {}, "auth": BASIC}))


@ON_SHARED
@pytest.mark.parametrize("mode", ["poll", "stream", "inbox", "internal"])
async def test_only_webhooks_have_auth(shared: Api, mode: str) -> None:
    assert_problem(await shared.post("/v1/endpoints", {"mode": mode, "auth": BEARER}), 422, "auth")
