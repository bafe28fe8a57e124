"""Secrets over HTTP: rotation, Ed25519, and TLS settings, with nothing shown that ought not to be."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from everhook.signing.schemes import new_secret, secret_key
from testing.api import JSON, ON_SHARED, RECEIVER_URL, UNKNOWN_SUFFIX, Api, assert_problem, created, ok
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


async def test_a_secret_of_the_callers_own_is_taken(api: Api) -> None:
    endpoint = await api.endpoint()
    for length in (24, 64):
        assert (await rotate(api, endpoint, {"secret": whsec(length)}))["secret"] == whsec(length)


async def test_without_grace_no_older_secret_is_left(api: Api) -> None:
    endpoint = await api.endpoint()
    await rotate(api, endpoint)
    assert (await rotate(api, endpoint, {"gracePeriodSeconds": 0}))["previousUntil"] is None
    assert await api.count("endpoint_secret") == 1


async def test_repeating_a_rotation_is_sane(api: Api) -> None:
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


async def test_an_endpoint_has_no_public_key_until_it_wants_one(api: Api) -> None:
    endpoint = await api.endpoint()
    assert (endpoint["ed25519"], endpoint["publicKeys"]) == (False, [])

    changed = ok(await api.patch(path_of(endpoint), {"ed25519": True}))

    assert changed == ok(await api.get(path_of(endpoint)))
    (key,) = changed["publicKeys"]
    assert changed["ed25519"] and key["expiresAt"] is None
    assert len(base64.b64decode(key["publicKey"].removeprefix("whpk_"))) == 32
    assert ok(await api.patch(path_of(endpoint), {"ed25519": True}))["publicKeys"] == [key]
    assert (await api.walk("/v1/endpoints"))[0]["publicKeys"] == [key]


async def test_a_public_key_may_be_had_from_the_start(api: Api) -> None:
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


async def test_ed25519_switched_off_leaves_no_public_key(api: Api) -> None:
    endpoint = await api.endpoint(ed25519=True)
    await rotate(api, endpoint)
    changed = ok(await api.patch(path_of(endpoint), {"ed25519": False}))
    assert (changed["ed25519"], changed["publicKeys"]) == (False, [])
    assert await api.rows("SELECT kind FROM endpoint_secret GROUP BY kind") == [("hmac",)]


async def test_ed25519_needs_the_scheme_that_carries_it(api: Api) -> None:
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


async def test_tls_settings_given_anew_replace_all_and_null_clears_them(
    api: Api, authority: Authority, ours: Pair
) -> None:
    tls = {"ca": authority.pem, "clientCertificate": ours.certificate, "clientKey": ours.key}
    endpoint = await api.endpoint(tls=tls)

    changed = ok(await api.patch(path_of(endpoint), {"tls": {"ca": authority.pem}}))
    assert changed["tls"] == {"ca": authority.pem, "clientCertificate": None}
    assert await api.rows("SELECT tls_key FROM endpoint") == [(None,)]
    assert ok(await api.patch(path_of(endpoint), {"description": "new"}))["tls"] == changed["tls"]
    assert ok(await api.patch(path_of(endpoint), {"tls": None}))["tls"] is None
    assert await api.rows("SELECT tls_ca, tls_certificate, tls_key FROM endpoint") == [(None, None, None)]


async def test_a_deleted_endpoint_leaves_no_key_behind(api: Api, ours: Pair) -> None:
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
        "a key beside the certificate": (
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


async def test_an_endpoint_may_bring_its_own_secret(api: Api) -> None:
    secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

    assert (await api.endpoint(secret=secret))["secret"] == secret
    assert (await api.endpoint())["secret"] != secret
    for wrong in ("MDEy", "whsec_MDEy", "whsec_" + "!" * 40, 5):
        body = {"url": "http://127.0.0.1:9999/", "secret": wrong}
        problem = assert_problem(await api.post("/v1/endpoints", body), 422, "secret")
        assert str(wrong) not in problem["detail"] or wrong == 5
    assert (await api.rows("SELECT count(*) FROM endpoint"))[0][0] == 2
