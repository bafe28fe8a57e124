"""Encryption at rest: AES-256-GCM with a ring of master keys. Each ciphertext is bound to its row.

A ciphertext is `v1.<key id>.<base64 of nonce and ciphertext>`. The associated data names table, column and row, so a
ciphertext that was moved to another row cannot be decrypted. The newest key encrypts; every key of the ring decrypts
what was encrypted with it.
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
    """A value cannot be decrypted. This is a fault of the installation, not of the owner of the secret."""


class UnknownMasterKey(DecryptionError):
    """The master key that the value was encrypted with is not in the ring."""


class TamperedCiphertext(DecryptionError):
    """The value was altered, or belongs to another row."""


def new_master_key() -> str:
    """A new key in the format of `EVERHOOK_MASTER_KEYS`."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


class KeyRing:
    """Master keys, newest first. Raises ValueError for a key that is not 32 bytes in base64."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise ValueError("a key ring needs a key")
        decoded = [_decode(key) for key in keys]
        self._ciphers = {_key_id(key): AESGCM(key) for key in decoded}
        self._newest = _key_id(decoded[0])

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The ring of `EVERHOOK_MASTER_KEYS`. Raises ConfigurationError if it is missing or invalid."""
        keys = [key.get_secret_value() for key in settings.master_keys]
        if not keys:
            raise ConfigurationError(
                "set EVERHOOK_MASTER_KEYS, the keys that encrypt secrets; `openssl rand -base64 32` creates one"
            )
        try:
            return cls(keys)
        except ValueError as error:
            raise ConfigurationError(f"EVERHOOK_MASTER_KEYS: {error}") from error

    def encrypt(self, secret: str, *place: str) -> str:
        """Encrypt a secret for `place`: table, column and row."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        encrypted = self._ciphers[self._newest].encrypt(nonce, secret.encode(), _associated(place))
        return self.current + base64.b64encode(nonce + encrypted).decode()

    def decrypt(self, ciphertext: str, *place: str) -> str:
        """Decrypt a secret. Raises UnknownMasterKey or TamperedCiphertext; neither contains the secret."""
        version, _, rest = ciphertext.partition(".")
        key_id, _, encoded = rest.partition(".")
        if version != _VERSION:
            raise TamperedCiphertext(f"a ciphertext of unknown version {version[:8]!r}")
        if key_id not in self._ciphers:
            raise UnknownMasterKey(f"no master key {key_id} in the ring")
        try:
            blob = base64.b64decode(encoded, validate=True)
            secret = self._ciphers[key_id].decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], _associated(place))
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise TamperedCiphertext("the ciphertext was altered, or belongs to another row") from error
        return secret.decode()

    @property
    def current(self) -> str:
        """The prefix of ciphertexts of the newest key."""
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
    """Eight hex digits that name a key without revealing it."""
    return hashlib.sha256(b"everhook master key id\0" + key).hexdigest()[:8]


def _associated(place: Sequence[str]) -> bytes:
    return "\0".join(place).encode()
