"""Sealing secrets: what opens, what does not, and what a rotation leaves readable."""

import base64

import pytest

from everhook.storage.keyring import KeyRing, TamperedCiphertext, UnknownMasterKey, new_master_key

PLACE = ("endpoint_secret", "secret", "sec_1")


def test_an_encrypted_value_is_decrypted_in_its_place() -> None:
    ring = KeyRing([new_master_key()])
    assert ring.decrypt(ring.encrypt("whsec_x", *PLACE), *PLACE) == "whsec_x"


def test_two_boxes_of_one_secret_differ_and_show_nothing_of_it() -> None:
    ring = KeyRing([new_master_key()])
    first, second = ring.encrypt("whsec_visible", *PLACE), ring.encrypt("whsec_visible", *PLACE)
    assert first != second
    assert b"visible" not in base64.b64decode(first.split(".")[2])


def test_a_box_moved_to_another_row_does_not_open() -> None:
    ring = KeyRing([new_master_key()])
    ciphertext = ring.encrypt("whsec_x", *PLACE)
    with pytest.raises(TamperedCiphertext):
        ring.decrypt(ciphertext, "endpoint_secret", "secret", "sec_2")


@pytest.mark.parametrize("position", [0, 5, -5])
def test_an_altered_box_does_not_open(position: int) -> None:
    ring = KeyRing([new_master_key()])
    version, key_id, encoded = ring.encrypt("whsec_x", *PLACE).split(".")
    blob = bytearray(base64.b64decode(encoded))
    blob[position] ^= 1
    with pytest.raises(TamperedCiphertext):
        ring.decrypt(f"{version}.{key_id}.{base64.b64encode(blob).decode()}", *PLACE)


@pytest.mark.parametrize("ciphertext", ["", "v2.x.y", "plain text"])
def test_invalid_ciphertext_is_refused(ciphertext: str) -> None:
    with pytest.raises(TamperedCiphertext):
        KeyRing([new_master_key()]).decrypt(ciphertext, *PLACE)


def test_after_a_rotation_old_boxes_open_and_new_ones_are_sealed_with_the_new_key() -> None:
    old, new = new_master_key(), new_master_key()
    before = KeyRing([old]).encrypt("whsec_x", *PLACE)
    ring = KeyRing([new, old])
    assert ring.decrypt(before, *PLACE) == "whsec_x"
    assert not ring.is_current(before)
    after = ring.encrypt("whsec_x", *PLACE)
    assert ring.is_current(after)
    assert KeyRing([new]).decrypt(after, *PLACE) == "whsec_x"


def test_a_missing_key_is_named_and_not_mistaken_for_damage() -> None:
    ciphertext = KeyRing([new_master_key()]).encrypt("whsec_x", *PLACE)
    with pytest.raises(UnknownMasterKey, match=ciphertext.split(".")[1]):
        KeyRing([new_master_key()]).decrypt(ciphertext, *PLACE)


@pytest.mark.parametrize("keys", [[], ["short"], ["AAAA"], [base64.b64encode(b"x" * 31).decode()]])
def test_a_ring_of_wrong_keys_is_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key"):
        KeyRing(keys)
