"""Secrets at rest: AES-256-GCM under a ring of master keys, each box bound to the row it belongs to.

A box is `v1.<key id>.<base64 of nonce and ciphertext>`. The associated data names table, column and row, so a box that
was moved to another row does not open. The newest key seals; every key of the ring opens what it sealed.
"""

import base64
import binascii
import hashlib
import secrets
from collections.abc import Sequence
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from everhook.errors import ConfigurationError
from everhook.settings import Settings

KEY_BYTES = 32
NONCE_BYTES = 12
_VERSION = "v1"


class DecryptionError(Exception):
    """A box stays shut. That is a fault of ours, whoever the secret belongs to."""


class UnknownMasterKey(DecryptionError):
    """The master key that sealed a box is not in the ring."""


class TamperedCiphertext(DecryptionError):
    """A box that was altered, or belongs to another row."""


def new_master_key() -> str:
    """A key as it stands in `EVERHOOK_MASTER_KEYS`."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


class KeyRing:
    """Master keys, the newest first. Raises ValueError for a key that is not 32 bytes in base64."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("a key ring needs a key")
        decoded = [_decode(key) for key in keys]
        self._boxes = {_key_id(key): AESGCM(key) for key in decoded}
        self._newest = _key_id(decoded[0])

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The ring of `EVERHOOK_MASTER_KEYS`. Raises ConfigurationError where it is missing or cannot be used."""
        keys = [key.get_secret_value() for key in settings.master_keys]
        if not keys:
            raise ConfigurationError(
                "set EVERHOOK_MASTER_KEYS, which secrets are sealed with: openssl rand -base64 32 makes one"
            )
        try:
            return cls(keys)
        except ValueError as error:
            raise ConfigurationError(f"EVERHOOK_MASTER_KEYS: {error}") from error

    def encrypt(self, secret: str, *place: str) -> str:
        """Seal a secret for `place`: table, column and row."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._boxes[self._newest].encrypt(nonce, secret.encode(), _associated(place))
        return self.current + base64.b64encode(nonce + sealed).decode()

    def decrypt(self, ciphertext: str, *place: str) -> str:
        """The secret in a box. Raises UnknownMasterKey or TamperedCiphertext; neither tells what is inside."""
        version, _, rest = ciphertext.partition(".")
        key_id, _, encoded = rest.partition(".")
        if version != _VERSION:
            raise TamperedCiphertext(f"a box of unknown version {version[:8]!r}")
        if key_id not in self._boxes:
            raise UnknownMasterKey(f"no master key {key_id} in the ring")
        try:
            blob = base64.b64decode(encoded, validate=True)
            opened = self._boxes[key_id].decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], _associated(place))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise TamperedCiphertext("a box that was altered, or belongs elsewhere") from error
        return opened.decode()

    @property
    def current(self) -> str:
        """How a box begins that the newest key sealed."""
        return f"{_VERSION}.{self._newest}."

    def is_current(self, ciphertext: str) -> bool:
        return ciphertext.startswith(self.current)


def _decode(key: str) -> bytes:
    try:
        decoded = base64.b64decode(key, validate=True)
    except binascii.Error as error:
        raise ValueError("a master key is 32 bytes in base64") from error
    if len(decoded) != KEY_BYTES:
        raise ValueError("a master key is 32 bytes in base64")
    return decoded


def _key_id(key: bytes) -> str:
    """Eight hex digits that name a key without telling of it."""
    return hashlib.sha256(b"everhook master key id\0" + key).hexdigest()[:8]


def _associated(place: Sequence[str]) -> bytes:
    return "\0".join(place).encode()
