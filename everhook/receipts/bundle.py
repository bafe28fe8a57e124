"""Bundles: one JSON file with everything that is needed to verify a receipt offline, and the verification.

| type | what it shows |
|---|---|
| `everhook.receipt-bundle` | a receipt, its place in the log of a checkpoint, and that log's growth if requested |
| `everhook.consistency-bundle` | two checkpoints, and that the log of one begins with that of the other |

The verification stops at the first fault and names its place; what was proven before is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from everhook.receipts.keys import KeySet
from everhook.receipts.log.checkpoint import Checkpoint, VerifiedCheckpoint, verify_checkpoint
from everhook.receipts.log.merkle import HASH_BYTES, verify_consistency, verify_inclusion
from everhook.receipts.receipt import Receipt, VerifiedReceipt, receipt_leaf, verify_receipt
from everhook.receipts.strict_json import InvalidDocument, Members, decode_base64, encode_base64, load_json, shown

VERSION = 1
RECEIPT_BUNDLE = "everhook.receipt-bundle"
CONSISTENCY_BUNDLE = "everhook.consistency-bundle"
HELD = "held checkpoint"
"""The place of faults in the checkpoint that the reader holds."""


class UnknownBundle(InvalidDocument):
    """Not a bundle, or one of a later version: nothing can be said about it."""


@dataclass(frozen=True)
class Consistency:
    """The proof that a log of `new_size` begins with the whole log of `old_size`."""

    old_size: int
    new_size: int
    proof: Sequence[bytes]


@dataclass(frozen=True)
class BundleFinding:
    """One finding. `place` is the member of the bundle (or the file) that `text`, a sentence, is about."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True)
class Unproven:
    """What a bundle does not prove, as a sentence. With `option` of `everhook receipts verify` it can be checked."""

    text: str
    option: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.option})" if self.option else self.text


KEYS_OF_ISSUER = "that the keys are the issuer's: to check that, verify with keys that you got from it yourself"


@dataclass(frozen=True)
class BundleVerification:
    """What a bundle proves. `wrong` is the first fault; nothing after it was verified.

    `unproven` lists what even a faultless bundle does not prove, given what it was verified against. `receipt` and
    `checkpoint` (the newer one) are set once their signatures are verified.
    """

    proven: tuple[BundleFinding, ...]
    unproven: tuple[Unproven, ...] = ()
    wrong: BundleFinding | None = None
    receipt: Receipt | None = None
    checkpoint: Checkpoint | None = None

    @property
    def ok(self) -> bool:
        return self.wrong is None


def build(
    receipt: str,
    seq: int,
    proof: Sequence[bytes],
    checkpoint: str,
    jwks: Mapping[str, Any],
    consistency: Consistency | None = None,
) -> dict[str, Any]:
    """Build the bundle of a receipt. `proof` is for leaf `seq` in the log of `checkpoint`; one of the two sizes of
    `consistency` is that log's."""
    bundle: dict[str, Any] = {
        "type": RECEIPT_BUNDLE,
        "version": VERSION,
        "receipt": receipt,
        "seq": seq,
        "inclusionProof": [encode_base64(each) for each in proof],
        "checkpoint": checkpoint,
        "jwks": dict(jwks),
    }
    if consistency is not None:
        bundle["consistency"] = {
            "oldSize": consistency.old_size,
            "newSize": consistency.new_size,
            "proof": [encode_base64(each) for each in consistency.proof],
        }
    return bundle


def build_consistency(old: str, new: str, proof: Sequence[bytes], jwks: Mapping[str, Any]) -> dict[str, Any]:
    """Build the bundle that shows that two checkpoints are of one log that only grew."""
    return {
        "type": CONSISTENCY_BUNDLE,
        "version": VERSION,
        "oldCheckpoint": old,
        "newCheckpoint": new,
        "consistencyProof": [encode_base64(each) for each in proof],
        "jwks": dict(jwks),
    }


def load(text: str | bytes) -> object:
    """Parse the JSON of a bundle. Raises NotJson, or InvalidDocument for JSON with two meanings."""
    return load_json(text, "bundle")


def verify(
    bundle: object, *, body: bytes | None = None, since: str | None = None, keys: KeySet | None = None
) -> BundleVerification:
    """Verify a bundle, offline.

    `body` is the body that the receiver got. `since` is a checkpoint (the note) that the reader holds. `keys` are those
    that the reader got from the issuer directly, used instead of the bundle's own. Raises UnknownBundle.
    """
    members = _open(bundle)
    kind = _ReceiptCheck if members.text("type") == RECEIPT_BUNDLE else _ConsistencyCheck
    return kind(members, body, since, keys).run()


def _open(bundle: object) -> Members:
    try:
        members = Members(bundle, "")
        kind, version = members.text("type"), members.integer("version")
    except InvalidDocument as error:
        raise UnknownBundle("bundle", f"is none of Everhook's ({error.place or 'it'} {error.what})") from error
    if kind not in (RECEIPT_BUNDLE, CONSISTENCY_BUNDLE):
        raise UnknownBundle("type", f"{shown(kind)} is no bundle of Everhook's")
    if version != VERSION:
        raise UnknownBundle("version", f"is {version}; this program knows {VERSION}")
    return members


class _Check:
    """One verification of a bundle. Its steps yield findings in order; the first fault ends it."""

    oldest = "this checkpoint"
    receipt: VerifiedReceipt | None = None
    checkpoint: VerifiedCheckpoint | None = None

    def __init__(self, bundle: Members, body: bytes | None, since: str | None, keys: KeySet | None) -> None:
        self.bundle = bundle
        self.body = body
        self.since = since
        self.pinned = keys

    def run(self) -> BundleVerification:
        proven: list[BundleFinding] = []
        wrong: BundleFinding | None = None
        try:
            for finding in self.steps(self.pinned or KeySet.from_jwks(self.bundle.any("jwks"))):
                proven.append(finding)  # one by one: what is proven is kept if a later step fails
        except InvalidDocument as error:
            wrong = BundleFinding(error.place, error.what)
        return BundleVerification(
            proven=tuple(proven),
            unproven=tuple(self.unproven()) if wrong is None else (),
            wrong=wrong,
            receipt=self.receipt.receipt if self.receipt else None,
            checkpoint=self.checkpoint.checkpoint if self.checkpoint else None,
        )

    def steps(self, keys: KeySet) -> Iterator[BundleFinding]:
        raise NotImplementedError

    def unproven(self) -> Iterator[Unproven]:
        if self.pinned is None:
            yield Unproven(KEYS_OF_ISSUER, "--jwks")
        if self.since is None:
            claim = f"that nothing was rewritten before {self.oldest}"
            yield Unproven(f"{claim}: to check that, verify with an earlier one that you hold", "--since-checkpoint")

    def _note(self, name: str, keys: KeySet) -> VerifiedCheckpoint:
        return verify_checkpoint(self.bundle.text(name), keys, name)

    def _held(self, keys: KeySet, log: Checkpoint, place: str) -> Checkpoint | None:
        """The reader's own checkpoint, if there is one, verified to be of this log."""
        if self.since is None:
            return None
        held = verify_checkpoint(self.since, keys, HELD).checkpoint
        if held.origin != log.origin:
            raise InvalidDocument(
                f"{place}.origin", f"is the log {shown(log.origin)}, and you hold one of {shown(held.origin)}"
            )
        return held


class _ReceiptCheck(_Check):
    def steps(self, keys: KeySet) -> Iterator[BundleFinding]:
        self.receipt = verify_receipt(self.bundle.text("receipt"), keys)
        yield BundleFinding("receipt", f"is signed by the key {self.receipt.key.kid}, and unaltered since")
        self.checkpoint = self._note("checkpoint", keys)
        checkpoint = self.checkpoint.checkpoint
        yield self._own_log(checkpoint, self.receipt.receipt)
        yield self._included(checkpoint)
        if self.body is not None:
            yield _body_finding(self.body, self.receipt.receipt)
        consistency = self._consistency()
        if (held := self._held(keys, checkpoint, "checkpoint")) is not None:
            yield _grown(checkpoint, held, consistency)

    def unproven(self) -> Iterator[Unproven]:
        is_decision = self.receipt is not None and self.receipt.receipt.decision is not None
        if is_decision:
            yield Unproven("that the person decided, and no one else in this name: this is the statement of the issuer")
        else:
            yield Unproven("that the receiver agrees, or what it did with the request: this is its sender's statement")
        if self.body is None and is_decision:
            yield Unproven("what the payload said: to check that, verify with its bytes", "--body")
        elif self.body is None:
            yield Unproven("what the request said: to check that, verify with the bytes that were received", "--body")
        yield from super().unproven()

    def _own_log(self, checkpoint: Checkpoint, receipt: Receipt) -> BundleFinding:
        origin = f"{receipt.issuer}/receipts/{receipt.tenant}"
        if checkpoint.origin != origin:
            what = f"is the log {shown(checkpoint.origin)}, and the receipt belongs in {shown(origin)}"
            raise InvalidDocument("checkpoint.origin", what)
        assert self.checkpoint is not None
        counts = f"counts {_receipts(checkpoint.size)} in the log {checkpoint.origin}{_when(checkpoint)}"
        return BundleFinding(
            "checkpoint", f"{counts}, is signed by the key {self.checkpoint.key.kid}, and unaltered since"
        )

    def _included(self, checkpoint: Checkpoint) -> BundleFinding:
        seq, proof = self.bundle.integer("seq"), _hashes(self.bundle, "inclusionProof")
        if seq >= checkpoint.size:
            raise InvalidDocument("seq", f"{seq} is not in a log of {_receipts(checkpoint.size)}, counted from 0")
        leaf = receipt_leaf(self.bundle.text("receipt"))
        if not verify_inclusion(leaf, seq, checkpoint.size, proof, checkpoint.root):
            what = f"does not lead from this receipt, as number {seq}, to the root of the checkpoint"
            raise InvalidDocument("inclusionProof", f"{what}: the receipt, its number or the log was changed")
        return BundleFinding("inclusionProof", f"the receipt is number {seq} of that log, counted from 0")

    def _consistency(self) -> Consistency | None:
        if not self.bundle.has("consistency"):
            return None
        members = self.bundle.object("consistency")
        return Consistency(members.integer("oldSize"), members.integer("newSize"), _hashes(members, "proof"))


class _ConsistencyCheck(_Check):
    oldest = "the older checkpoint"

    def steps(self, keys: KeySet) -> Iterator[BundleFinding]:
        if self.body is not None:
            raise InvalidDocument("type", "is a consistency bundle: there is no receipt in it to compare a body with")
        old, new = self._note("oldCheckpoint", keys), self._note("newCheckpoint", keys)
        self.checkpoint = new
        for name, verified in (("oldCheckpoint", old), ("newCheckpoint", new)):
            head = verified.checkpoint
            counts = f"counts {_receipts(head.size)} in the log {head.origin}{_when(head)}"
            yield BundleFinding(name, f"{counts}, is signed by the key {verified.key.kid}, and unaltered since")
        yield self._only_grew(old.checkpoint, new.checkpoint)
        if (held := self._held(keys, new.checkpoint, "newCheckpoint")) is not None:
            yield _is_one_of(held, old.checkpoint, new.checkpoint)

    def _only_grew(self, old: Checkpoint, new: Checkpoint) -> BundleFinding:
        if old.origin != new.origin:
            raise InvalidDocument(
                "newCheckpoint.origin", f"is the log {shown(new.origin)}, and the old {shown(old.origin)}"
            )
        if old.size > new.size:
            what = f"the log had {_receipts(old.size)} and now {_receipts(new.size)}: it was cut"
            raise InvalidDocument("newCheckpoint.size", what)
        proof = _hashes(self.bundle, "consistencyProof")
        if not verify_consistency(old.size, old.root, new.size, new.root, proof):
            what = "does not lead from the old checkpoint to the new one: the log was rewritten, or the proof altered"
            raise InvalidDocument("consistencyProof", what)
        return BundleFinding("consistencyProof", _GREW.format(old=_receipts(old.size), new=_receipts(new.size)))


_GREW = "from {old} to {new} the log only grew: none was altered, removed or moved"


def _is_one_of(held: Checkpoint, old: Checkpoint, new: Checkpoint) -> BundleFinding:
    for place, head in (("oldCheckpoint", old), ("newCheckpoint", new)):
        if held.size == head.size:
            if held.root != head.root:
                raise InvalidDocument(f"{place}.root", _TWO_LOGS.format(size=_receipts(held.size)))
            return BundleFinding(HELD, f"is the {place} of this bundle")
    what = f"neither is the one you hold, of {_receipts(held.size)}: ask for a bundle from that size"
    raise InvalidDocument("oldCheckpoint.size", what)


_TWO_LOGS = "differs from that of the checkpoint you hold, both of {size}: the log was rewritten"


def _grown(head: Checkpoint, held: Checkpoint, consistency: Consistency | None) -> BundleFinding:
    """Verify that the log of the bundle and that of the held checkpoint are one log. Either may be the newer one."""
    if held.size == head.size:
        if held.root != head.root:
            raise InvalidDocument("checkpoint.root", _TWO_LOGS.format(size=_receipts(held.size)))
        return BundleFinding(HELD, f"has this log's size and root, {_receipts(held.size)}")
    old, new = sorted((held, head), key=lambda each: each.size)
    sizes = f"between {_receipts(held.size)}, of which you hold a checkpoint, and {_receipts(head.size)}, of this one"
    if consistency is None:
        raise InvalidDocument("consistency", f"is missing: {sizes}, nothing shows the log to be one; ask for it")
    if (consistency.old_size, consistency.new_size) != (old.size, new.size):
        found = f"is from {consistency.old_size} to {consistency.new_size}"
        raise InvalidDocument("consistency", f"{found}, and should be {sizes}; ask for that")
    if not verify_consistency(old.size, old.root, new.size, new.root, consistency.proof):
        raise InvalidDocument("consistency.proof", f"fails {sizes}: the log was rewritten, or the proof altered")
    return BundleFinding(HELD, _GREW.format(old=_receipts(old.size), new=_receipts(new.size)))


def _body_finding(body: bytes, receipt: Receipt) -> BundleFinding:
    if sha256(body).hexdigest() != receipt.request_sha256:
        raise InvalidDocument(
            "body", f"is not what was sent: SHA-256 {sha256(body).hexdigest()}, not {receipt.request_sha256}"
        )
    return BundleFinding("body", f"these {len(body)} bytes are the body of the request, to the bit")


def _hashes(members: Members, name: str) -> list[bytes]:
    return [_hash(item, f"{members.at(name)}[{number}]") for number, item in enumerate(members.items(name))]


def _hash(item: object, place: str) -> bytes:
    if not isinstance(item, str) or len(data := decode_base64(item, place)) != HASH_BYTES:
        raise InvalidDocument(place, f"should be {HASH_BYTES} bytes in base64")
    return data


def _when(checkpoint: Checkpoint) -> str:
    return "" if checkpoint.time is None else f" at {checkpoint.time:%Y-%m-%d %H:%M:%S} UTC"


def _receipts(count: int) -> str:
    return f"{count} receipt" if count == 1 else f"{count} receipts"
