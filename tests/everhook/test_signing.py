"""Signatures, checked against published vectors, by another's library, and by the plain definition."""

import base64
import hashlib
import hmac
import re
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from everhook.signing import ALL_SCHEMES, SignatureScheme, new_secret, secret_key, signature_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
KEY_A, KEY_B, KEY_C = bytes(range(32)), bytes(range(24)), bytes(range(64))

BODIES = [BODY, b"", b"{}", '{"name":"Zoë ☃"}'.encode(), b'{ "spaced" :\t1.0e400 }\n', b'{"u":"\\u0041\\ud83d\\ude00"}']


def headers_of(
    scheme: SignatureScheme, body: bytes, keys: list[bytes], *, timestamp: int = TIMESTAMP
) -> dict[str, str]:
    return dict(signature_headers(MESSAGE, timestamp, body, keys, [scheme]))


def hexmac(key: bytes, signed: bytes) -> str:
    return hmac.new(key, signed, hashlib.sha256).hexdigest()


def test_the_published_vector_of_standard_webhooks_holds() -> None:
    assert headers_of(SignatureScheme.STANDARD, BODY, [secret_key(SECRET)]) == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": str(TIMESTAMP),
        "webhook-signature": SIGNATURE,
    }


@pytest.mark.parametrize("body", [body for body in BODIES if body])
def test_the_reference_library_verifies_what_we_sign(body: bytes) -> None:
    secret = new_secret()
    headers = headers_of(SignatureScheme.STANDARD, body, [secret_key(secret)], timestamp=int(time.time()))
    Webhook(secret).verify(body, headers, json_parse=False)


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_the_reference_library_refuses_what_was_changed_on_the_way(changed: str) -> None:
    secret, now = new_secret(), int(time.time())
    headers = headers_of(SignatureScheme.STANDARD, BODY, [secret_key(secret)], timestamp=now)
    if changed in headers:
        headers[changed] = str(now - 1) if changed == "webhook-timestamp" else "msg_other"
    body = BODY + b" " if changed == "body" else BODY
    verifier = Webhook(new_secret() if changed == "secret" else secret)
    with pytest.raises(WebhookVerificationError):
        verifier.verify(body, headers, json_parse=False)


def test_during_a_rotation_either_secret_verifies() -> None:
    secrets = [new_secret(), new_secret()]
    headers = headers_of(SignatureScheme.STANDARD, BODY, [secret_key(s) for s in secrets], timestamp=int(time.time()))
    for secret in secrets:
        Webhook(secret).verify(BODY, headers, json_parse=False)


@pytest.mark.parametrize("keys", [[KEY_A], [KEY_A, KEY_B], [KEY_C, KEY_A, KEY_B]], ids=len)
@pytest.mark.parametrize("body", BODIES)
def test_every_scheme_is_what_the_design_says_for_every_secret_newest_first(keys: list[bytes], body: bytes) -> None:
    stamped = str(TIMESTAMP).encode() + b"." + body
    named = MESSAGE.encode() + b"." + stamped
    assert signature_headers(MESSAGE, TIMESTAMP, body, keys) == [
        ("webhook-id", MESSAGE),
        ("webhook-timestamp", "1614265330"),
        (
            "webhook-signature",
            " ".join(f"v1,{base64.b64encode(bytes.fromhex(hexmac(k, named))).decode()}" for k in keys),
        ),
        ("x-webhook-signature", ",".join(["t=1614265330", *(f"v1={hexmac(k, stamped)}" for k in keys)])),
        ("x-npayload-signature", ",".join(f"sha256={hexmac(k, body)}" for k in keys)),
    ]


@pytest.mark.parametrize(
    ("schemes", "names"),
    [
        ([], []),
        ([SignatureScheme.STANDARD], ["webhook-id", "webhook-timestamp", "webhook-signature"]),
        ([SignatureScheme.TIMESTAMPED], ["x-webhook-signature"]),
        ([SignatureScheme.NPAYLOAD], ["x-npayload-signature"]),
        ([SignatureScheme.NPAYLOAD, SignatureScheme.TIMESTAMPED], ["x-webhook-signature", "x-npayload-signature"]),
    ],
)
def test_an_endpoint_gets_the_schemes_it_chose(schemes: list[SignatureScheme], names: list[str]) -> None:
    assert [name for name, _ in signature_headers(MESSAGE, TIMESTAMP, BODY, [KEY_A], schemes)] == names


def test_all_three_schemes_are_the_default() -> None:
    assert set(ALL_SCHEMES) == set(SignatureScheme)
    assert signature_headers(MESSAGE, TIMESTAMP, BODY, [KEY_A]) == signature_headers(
        MESSAGE, TIMESTAMP, BODY, [KEY_A], frozenset(SignatureScheme)
    )


def test_a_new_secret_is_32_random_bytes_behind_its_prefix() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret) for secret in secrets)
    assert {len(secret_key(secret)) for secret in secrets} == {32}


@pytest.mark.parametrize("length", [24, 32, 64])
def test_a_secret_of_the_lengths_that_standard_webhooks_allows_is_taken(length: int) -> None:
    key = bytes(range(length))
    assert secret_key("whsec_" + base64.b64encode(key).decode()) == key


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2 LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSé",
        "whsec_whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    ],
)
def test_what_is_not_a_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError):
        secret_key(secret)
