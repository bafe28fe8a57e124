"""What a receiver checks, against what we sign."""

import pytest

from everhook.signing.schemes import SignatureScheme, new_secret, secret_key, signature_headers
from everhook.signing.verify import TOLERANCE_S, verify

SECRET, OTHER = new_secret(), new_secret()
BODY, MOMENT = b'{"a": 1}', 1_769_860_800
SCHEMES = list(SignatureScheme)


def signed(*secrets: str, schemes: list[SignatureScheme] = SCHEMES, at: int = MOMENT) -> dict[str, str]:
    return dict(signature_headers("msg_1", at, BODY, [secret_key(secret) for secret in secrets], schemes))


def test_our_signature_is_genuine_in_every_scheme() -> None:
    verification = verify(signed(SECRET), BODY, [SECRET], MOMENT)
    assert verification.is_genuine
    assert list(verification.schemes) == SCHEMES


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_scheme_is_enough(scheme: SignatureScheme) -> None:
    assert list(verify(signed(SECRET, schemes=[scheme]), BODY, [SECRET], MOMENT).schemes) == [scheme]


def test_during_a_rotation_either_secret_will_do_at_either_end() -> None:
    assert verify(signed(OTHER, SECRET), BODY, [SECRET], MOMENT).is_genuine
    assert verify(signed(SECRET), BODY, [OTHER, SECRET], MOMENT).is_genuine


@pytest.mark.parametrize("scheme", SCHEMES)
def test_another_secret_or_another_body_is_no_signature(scheme: SignatureScheme) -> None:
    headers = signed(SECRET, schemes=[scheme])
    assert f"{scheme}: no signature matches" in verify(headers, BODY, [OTHER], MOMENT).why
    assert not verify(headers, BODY + b" ", [SECRET], MOMENT).is_genuine


def test_one_wrong_signature_among_right_ones_is_wrong() -> None:
    headers = signed(SECRET) | {"x-npayload-signature": "sha256=00"}
    assert not verify(headers, BODY, [SECRET], MOMENT).is_genuine


@pytest.mark.parametrize("scheme", [SignatureScheme.STANDARD, SignatureScheme.TIMESTAMPED])
@pytest.mark.parametrize("off", [TOLERANCE_S + 1, -TOLERANCE_S - 1])
def test_signatures_outside_the_tolerance_are_refused(scheme: SignatureScheme, off: int) -> None:
    headers = signed(SECRET, schemes=[scheme])
    assert "was signed" in verify(headers, BODY, [SECRET], MOMENT + off).why
    assert verify(headers, BODY, [SECRET], MOMENT + off // 2).is_genuine


@pytest.mark.parametrize("timestamp", ["", "soon", "1e9", "٣", "9" * 20])
def test_an_invalid_timestamp_is_reported(timestamp: str) -> None:
    headers = signed(SECRET, schemes=[SignatureScheme.STANDARD]) | {"webhook-timestamp": timestamp}
    assert verify(headers, BODY, [SECRET], MOMENT).why == "standard: it has no timestamp"


def test_a_request_without_a_signature_is_not_genuine() -> None:
    assert verify({"webhook-id": "msg_1"}, BODY, [SECRET], MOMENT).why == "it is not signed"


def test_a_non_ascii_signature_is_invalid_and_raises_nothing() -> None:
    headers = signed(SECRET, schemes=[SignatureScheme.STANDARD]) | {"webhook-signature": "v1,é"}
    assert not verify(headers, BODY, [SECRET], MOMENT).is_genuine


def test_an_invalid_secret_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="whsec_"):
        verify(signed(SECRET), BODY, ["hunter2"], MOMENT)
