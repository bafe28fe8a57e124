"""Checkpoints: the signed size and root of a tenant's log of receipts.

A checkpoint is a signed note of C2SP (c2sp.org/signed-note, c2sp.org/tlog-checkpoint), so witnesses and tools for
transparency logs can read it:

    hooks.example.com/receipts/ten_01k…       the origin: which log this is
    4711                                       how many receipts it has
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2=    the root over them, in base64
    time 2026-01-31T12:00:00.000000Z           an extension line: when it was signed

    — hooks.example.com/receipts/ten_01k… Az3grl…

The text is signed with Ed25519 by a receipt key, in the name of the origin. The text of a note ends with a line feed
and a JWS has none, so a signature of one can never be valid for the other.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from everhook.receipts.keys import KeySet, PublicKey, ReceiptKey, key_at
from everhook.receipts.log.merkle import EMPTY_ROOT, HASH_BYTES
from everhook.receipts.strict_json import InvalidDocument, decode_base64, encode_base64, format_time, parse_time, shown

_ED25519 = b"\x01"
"""The signature type of c2sp.org/signed-note for Ed25519."""

_KEY_ID_BYTES = 4
_TIME = "time "
_DASH = "\N{EM DASH} "
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_NAME = re.compile(r"[^\s+]+")
_MAX_NOTE = 64 * 1024
_MAX_SIGNATURES = 100


@dataclass(frozen=True)
class Checkpoint:
    """The head of a log. `time` is when it was signed; None if the note has no time."""

    origin: str
    size: int
    root: bytes
    time: datetime | None = None

    @property
    def text(self) -> str:
        """The signed text."""
        lines = [self.origin, str(self.size), encode_base64(self.root)]
        if self.time is not None:
            lines.append(_TIME + format_time(self.time))
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class NoteSignature:
    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class SignedNote:
    """A parsed note; nothing of it is verified."""

    text: str
    checkpoint: Checkpoint
    signatures: tuple[NoteSignature, ...]


@dataclass(frozen=True)
class VerifiedCheckpoint:
    checkpoint: Checkpoint
    key: PublicKey


def origin_of(issuer: str, tenant: str) -> str:
    """The name of a tenant's log. `issuer` is a URL without its scheme, as c2sp.org/tlog-checkpoint recommends.

    Raises ValueError for characters that are not allowed in the name of a key: white space, `+`.
    """
    origin = f"{issuer}/receipts/{tenant}"
    if "://" in issuer or not issuer or not tenant or not _is_name(origin):
        raise ValueError(f"{origin!r} cannot be the origin of a log")
    return origin


def key_id(origin: str, public: bytes) -> bytes:
    """c2sp.org/signed-note, "Ed25519 signatures"."""
    return sha256(origin.encode() + b"\n" + _ED25519 + public).digest()[:_KEY_ID_BYTES]


def verifier_key(origin: str, public: bytes) -> str:
    """The key in the format of Go's `sumdb/note` and its tools: `name+id+base64`."""
    return f"{origin}+{key_id(origin, public).hex()}+{encode_base64(_ED25519 + public)}"


def sign_checkpoint(checkpoint: Checkpoint, keys: Iterable[ReceiptKey]) -> str:
    """The signed note. The newest key for the checkpoint's time signs; the time is required. Raises NoReceiptKey."""
    if checkpoint.time is None:
        raise ValueError("a checkpoint needs a time to be signed")
    key = key_at(keys, checkpoint.time)
    signature = key_id(checkpoint.origin, key.public) + key.private.sign(checkpoint.text.encode())
    return f"{checkpoint.text}\n{_DASH}{checkpoint.origin} {encode_base64(signature)}\n"


def parse_note(note: str, place: str = "checkpoint") -> SignedNote:
    """Parse a note, strictly. Raises InvalidDocument."""
    if len(note) > _MAX_NOTE:
        raise InvalidDocument(place, "is too long for a checkpoint")
    if any(char < " " and char != "\n" for char in note):
        raise InvalidDocument(place, "has a control character other than the line feed")
    text, separator, signatures = note.rpartition("\n\n")
    if not separator:
        raise InvalidDocument(place, "has no empty line between its text and its signatures")
    text += "\n"
    return SignedNote(text, _parse_text(text, place), _parse_signatures(signatures, f"{place}.signatures"))


def verify_checkpoint(note: str, keys: KeySet, place: str = "checkpoint") -> VerifiedCheckpoint:
    """Verify the format, signature and date of a note. The caller compares its origin. Raises InvalidDocument.

    Signatures by unknown keys, such as those of witnesses, are skipped. At least one signature must be by a known key,
    and all such signatures must verify (c2sp.org/signed-note, "Signatures").
    """
    read = parse_note(note, place)
    key = _signer(read, keys, f"{place}.signatures")
    _check_date(read.checkpoint, key, f"{place}.time")
    return VerifiedCheckpoint(read.checkpoint, key)


def _signer(note: SignedNote, keys: KeySet, place: str) -> PublicKey:
    signers: list[PublicKey] = []
    origin = note.checkpoint.origin
    known = {key_id(origin, key.x): key for key in keys}
    for signature in note.signatures:
        key = known.get(signature.key_id)
        if signature.name != origin or key is None:
            continue
        if not key.verifies(signature.signature, note.text.encode()):
            raise InvalidDocument(place, f"the one of key {key.kid} does not fit the text: the checkpoint was altered")
        signers.append(key)
    if not signers:
        raise InvalidDocument(
            place, f"none is by a known key ({', '.join(key.kid for key in keys)}) in the name {shown(origin)}"
        )
    return signers[0]


def _check_date(checkpoint: Checkpoint, key: PublicKey, place: str) -> None:
    if checkpoint.time is not None:
        key.must_cover(checkpoint.time, place)
    elif key.not_after is not None:
        raise InvalidDocument(place, f"is missing, and its key {key.kid} is retired: it may have been signed since")


def _parse_text(text: str, place: str) -> Checkpoint:
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise InvalidDocument(place, "should have three lines: origin, size and root, and no empty one")
    origin, size, root, *extensions = lines
    if not _is_name(origin):
        raise InvalidDocument(f"{place}.origin", f"cannot be the name of a log: {shown(origin)}")
    if not _SIZE.fullmatch(size):
        raise InvalidDocument(
            f"{place}.size", f"should be a decimal number without leading zeros, and is {shown(size)}"
        )
    return Checkpoint(origin, int(size), _parse_root(root, int(size), f"{place}.root"), _time(extensions, place))


def _parse_root(text: str, size: int, place: str) -> bytes:
    root = decode_base64(text, place)
    if len(root) != HASH_BYTES:
        raise InvalidDocument(place, f"should be {HASH_BYTES} bytes, and is {len(root)}")
    if size == 0 and root != EMPTY_ROOT:
        raise InvalidDocument(place, "is not that of an empty log")
    return root


def _time(extensions: list[str], place: str) -> datetime | None:
    """The time of the checkpoint. Other extension lines are opaque (c2sp.org/tlog-checkpoint, "Note text")."""
    times = [line.removeprefix(_TIME) for line in extensions if line.startswith(_TIME)]
    if len(times) > 1:
        raise InvalidDocument(f"{place}.time", "is there twice")
    return parse_time(times[0], f"{place}.time") if times else None


def _parse_signatures(text: str, place: str) -> tuple[NoteSignature, ...]:
    lines = text.removesuffix("\n").split("\n")
    if not text.endswith("\n") or len(lines) > _MAX_SIGNATURES:
        raise InvalidDocument(place, f"should be 1 to {_MAX_SIGNATURES} lines, each ended by a line feed")
    return tuple(_parse_signature(line, f"{place}[{number}]") for number, line in enumerate(lines))


def _parse_signature(line: str, place: str) -> NoteSignature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not _is_name(name):
        raise InvalidDocument(place, f"should be `{_DASH}name base64`, and is {shown(line)}")
    signature = decode_base64(encoded, place)
    if len(signature) <= _KEY_ID_BYTES:
        raise InvalidDocument(place, "is too short for a key's id and a signature")
    return NoteSignature(name, signature[:_KEY_ID_BYTES], signature[_KEY_ID_BYTES:])


def _is_name(text: str) -> bool:
    """Whether c2sp.org/signed-note allows this as the name of a key."""
    return bool(_NAME.fullmatch(text)) and text.isprintable()
