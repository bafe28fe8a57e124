"""Signatures, checked against published vectors, by another's library, and by the plain definition."""

import base64
import binascii
import hashlib
import hmac
import re
import time

import pytest
import standardwebhooks
import svix
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from everhook.signing.schemes import (
    DEFAULT_SCHEMES,
    SignatureScheme,
    ed25519_key,
    new_private_key,
    new_secret,
    public_key,
    secret_key,
    signature_headers,
)

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIMESTAMP = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
PRIVATE_KEY = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
PUBLIC_KEY = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
SIGNATURE_V1A = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
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


def test_the_published_vector_of_ed25519_holds() -> None:
    """Svix's, in the tests of its worker."""
    assert public_key(PRIVATE_KEY) == PUBLIC_KEY
    keys = [ed25519_key(PRIVATE_KEY)]
    headers = signature_headers(MESSAGE, TIMESTAMP, BODY, [], [SignatureScheme.STANDARD], keys)
    assert dict(headers)["webhook-signature"] == SIGNATURE_V1A


def test_ed25519_signs_in_the_standard_scheme_alone_and_after_the_secrets() -> None:
    keys = [ed25519_key(PRIVATE_KEY), ed25519_key(new_private_key())]
    plain = signature_headers(MESSAGE, TIMESTAMP, BODY, [secret_key(SECRET), KEY_A])
    more = signature_headers(MESSAGE, TIMESTAMP, BODY, [secret_key(SECRET), KEY_A], ed25519_keys=keys)
    changed = [name for (name, value), (_, other) in zip(plain, more, strict=True) if value != other]
    assert changed == ["webhook-signature"]
    signatures = dict(more)["webhook-signature"].split()
    assert [one.partition(",")[0] for one in signatures] == ["v1", "v1", "v1a", "v1a"]
    assert (signatures[0], signatures[2]) == (SIGNATURE, SIGNATURE_V1A)


def test_libraries_that_know_only_secrets_pass_over_ed25519() -> None:
    secret, moment = new_secret(), int(time.time())
    keys = [ed25519_key(new_private_key())]
    headers = dict(signature_headers(MESSAGE, moment, BODY, [secret_key(secret)], ed25519_keys=keys))
    standardwebhooks.Webhook(secret).verify(BODY, headers, json_parse=False)
    svix.Webhook(secret).verify(BODY, headers)
    without = {**headers, "webhook-signature": headers["webhook-signature"].split()[1]}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY, without, json_parse=False)


def test_a_new_private_key_is_random_and_says_its_public_key() -> None:
    keys = {new_private_key() for _ in range(20)}
    assert len(keys) == 20
    for key in keys:
        assert re.fullmatch(r"whsk_[A-Za-z0-9+/]{86}==", key)
        raw = base64.b64decode(key.removeprefix("whsk_"))
        assert base64.b64decode(public_key(key).removeprefix("whpk_")) == raw[32:]


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
def test_each_scheme_signs_with_every_secret_newest_first(keys: list[bytes], body: bytes) -> None:
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


def test_a_receiver_written_for_svix_accepts_only_the_svix_headers() -> None:
    secret, sent_at = new_secret(), int(time.time())
    headers = dict(signature_headers(MESSAGE, sent_at, BODY, [secret_key(secret)], [SignatureScheme.SVIX]))
    assert set(headers) == {"svix-id", "svix-timestamp", "svix-signature"}
    svix.Webhook(secret).verify(BODY, headers)
    with pytest.raises(svix.WebhookVerificationError):
        svix.Webhook(secret).verify(BODY + b" ", headers)


def test_all_schemes_but_that_of_svix_are_the_default() -> None:
    assert {*DEFAULT_SCHEMES, SignatureScheme.SVIX} == set(SignatureScheme)
    assert signature_headers(MESSAGE, TIMESTAMP, BODY, [KEY_A]) == signature_headers(
        MESSAGE, TIMESTAMP, BODY, [KEY_A], frozenset(DEFAULT_SCHEMES)
    )


def test_a_new_secret_is_its_prefix_and_32_random_bytes() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret) for secret in secrets)
    assert {len(secret_key(secret)) for secret in secrets} == {32}


@pytest.mark.parametrize("length", [24, 32, 64])
def test_a_secret_of_the_lengths_that_standard_webhooks_allows_is_taken(length: int) -> None:
    key = bytes(range(length))
    assert secret_key("whsec_" + base64.b64encode(key).decode()) == key


PREFIX = "must begin with `whsec_`"
LENGTH = "must have 24 to 64 bytes in base64, not "
ALPHABET = "that is not in the alphabet of base64"


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("", PREFIX),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", PREFIX),
        ("WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", PREFIX),
        (" whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", PREFIX),
        ("whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", f"{PREFIX} (whpk_… is an Ed25519 key)"),
        ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", f"{PREFIX} (whsk_… is an Ed25519 key)"),
        ("whsec_", f"{LENGTH}0"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), f"{LENGTH}23"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), f"{LENGTH}65"),
        ("whsec_" + base64.b64encode(bytes(32)).decode().rstrip("="), "wrong padding: its base64 must end with 1 `=`"),
        ("whsec_" + base64.b64encode(bytes(31)).decode().rstrip("="), "wrong padding: its base64 must end with 2 `=`"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw==", "wrong padding: its base64 must end without `=`"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwM", "is not valid base64"),
        ("whsec_MfKQ=r8GKYqrTwjUPD8ILPZIo2LaLaSw", "has `=` at character 11"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS-", "not URL-safe base64"),
        ("whsec_whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "not URL-safe base64"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", f"position 39 {ALPHABET}"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2 LaLaSw", f"position 33 {ALPHABET}"),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSé", f"position 38 {ALPHABET}"),
    ],
)
def test_an_invalid_secret_is_refused_and_the_message_names_the_error_without_the_secret(
    secret: str, message: str
) -> None:
    with pytest.raises(ValueError) as refused:
        secret_key(secret)
    assert message in str(refused.value)
    assert not any(part in str(refused.value) for part in ("MfKQ", "LaLa", "AAAA"))


@given(st.text("AbZ09+/=-_ \n", max_size=60))
def test_the_base64_of_a_secret_is_decoded_as_by_pythons_strict_decoder(encoded: str) -> None:
    try:
        expected = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        expected = b""
    try:
        key = secret_key("whsec_" + encoded)
    except ValueError:
        key = b""
    assert key == (expected if 24 <= len(expected) <= 64 else b"")
