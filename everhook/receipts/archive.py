"""Archives: one file with a whole range of a tenant's log, which verifies on its own. Pure, except for the file.

A gzip file of lines. The first is a JSON object, the header; each other line is one receipt (its JWS), in the order of
the log. The header has the checkpoint at the end of the range, and the roots of the perfect subtrees before it
(`peaks`), so that the root over everything can be computed from the file and compared with the checkpoint.
"""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from everhook.receipts.bundle import KEYS_OF_ISSUER, BundleFinding, BundleVerification, Unproven, build
from everhook.receipts.keys import KeySet
from everhook.receipts.log.checkpoint import VerifiedCheckpoint, verify_checkpoint
from everhook.receipts.log.merkle import (
    HASH_BYTES,
    LeafRange,
    Peaks,
    inclusion_ranges,
    root_of,
)
from everhook.receipts.receipt import VerifiedReceipt, receipt_leaf, verify_receipt
from everhook.receipts.strict_json import InvalidDocument, Members, decode_base64, encode_base64, load_json

ARCHIVE = "everhook.receipt-archive"
VERSION = 1
GZIP = b"\x1f\x8b"
MAX_LINE = 1024 * 1024
SUFFIX = ".receipts.gz"
ADVANCE = 1_000
"""Receipts from one report of progress to the next."""


@dataclass(frozen=True)
class ArchiveHeader:
    """`start` and `end`: the range of the log, half open. `peaks`: the roots of the perfect subtrees of the leaves
    before it. `previous`: the checkpoint at `start`; None at the beginning of the log."""

    start: int
    end: int
    peaks: tuple[bytes, ...]
    checkpoint: str
    previous: str | None
    jwks: dict[str, Any]

    def to_json(self) -> str:
        return json.dumps(
            {
                "type": ARCHIVE,
                "version": VERSION,
                "start": self.start,
                "end": self.end,
                "peaks": [encode_base64(each) for each in self.peaks],
                "checkpoint": self.checkpoint,
                "previousCheckpoint": self.previous,
                "jwks": self.jwks,
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )

    @classmethod
    def parse(cls, line: str) -> "ArchiveHeader":
        """Raises InvalidDocument."""
        members = Members(load_json(line, "header"), "")
        if members.text("type") != ARCHIVE or members.integer("version") != VERSION:
            raise InvalidDocument("header", f"is not of an {ARCHIVE} of version {VERSION}")
        jwks, previous = members.any("jwks"), members.any("previousCheckpoint")
        if not isinstance(jwks, dict) or not (previous is None or isinstance(previous, str)):
            raise InvalidDocument("header", "has no keys, or a checkpoint that is no text")
        peaks = [decode_base64(str(item), f"peaks[{n}]") for n, item in enumerate(members.items("peaks"))]
        header = cls(
            members.integer("start"), members.integer("end"), tuple(peaks), members.text("checkpoint"), previous, jwks
        )
        header._check()
        return header

    def _check(self) -> None:
        if self.start >= self.end:
            raise InvalidDocument("end", "is not after the start")
        if any(len(peak) != HASH_BYTES for peak in self.peaks) or len(self.peaks) != self.start.bit_count():
            raise InvalidDocument("peaks", f"are not those of {self.start} receipts")
        if (self.previous is None) != (self.start == 0):
            raise InvalidDocument("previousCheckpoint", "is missing, or there is one at the beginning of the log")


def file_name(start: int, end: int) -> str:
    return f"{start:012d}-{end:012d}{SUFFIX}"


def write_archive(path: Path, header: ArchiveHeader, receipts: Iterable[str]) -> None:
    """Write an archive to a new file, and to disk. Raises OSError, also if there is a file of this name."""
    with path.open("xb") as raw:
        with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
            for line in (header.to_json(), *receipts):
                file.write(line.encode() + b"\n")
        raw.flush()
        os.fsync(raw.fileno())


def rename_on_disk(old: Path, new: Path) -> None:
    """Rename a file within its directory. The name, and that of the directory, are on disk when this returns."""
    old.replace(new)
    for directory in (new.parent, new.parent.parent):
        opened = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        hashed = sha256()
        while chunk := file.read(1 << 20):
            hashed.update(chunk)
    return hashed.hexdigest()


def have_same_receipts(one: Path, other: Path) -> bool:
    """Whether two archives have the same range of the same log. Their keys and compression may differ. Raises
    OSError."""
    try:
        header, receipts = read_archive(one)
        its_header, its_receipts = read_archive(other)
        return replace(header, jwks={}) == replace(its_header, jwks={}) and all(
            mine == its for mine, its in zip_longest(receipts, its_receipts)
        )
    except InvalidDocument:
        return False


def is_archive(path: Path) -> bool:
    """Whether a file is compressed, as archives are and bundles are not. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def read_archive(path: Path) -> tuple[ArchiveHeader, Iterator[str]]:
    """The header, and the receipts as they are read. Raises OSError, and InvalidDocument, also while reading."""
    lines = _lines(path)
    try:
        first = next(lines)
    except StopIteration:
        raise InvalidDocument("header", "is missing") from None
    return ArchiveHeader.parse(first), lines


def _lines(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rb") as file:
            while line := file.readline(MAX_LINE):
                if not line.endswith(b"\n"):
                    raise InvalidDocument("archive", "is cut off, or has a line that is too long")
                yield line[:-1].decode()
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise InvalidDocument("archive", f"is damaged: {error}") from error


class ArchiveCheck:
    """The verification of one archive, receipt by receipt, in bounded memory."""

    def __init__(self, header: ArchiveHeader, pinned: KeySet | None = None) -> None:
        self._pinned = pinned
        self.header = header
        self.keys = pinned or KeySet.from_jwks(header.jwks)
        self.checkpoint = self._verified("checkpoint", header.checkpoint, header.end)
        self._peaks = Peaks(header.start, header.peaks)
        if header.previous is not None:
            previous = self._verified("previousCheckpoint", header.previous, header.start)
            if previous.checkpoint.origin != self.checkpoint.checkpoint.origin:
                raise InvalidDocument("previousCheckpoint.origin", "is that of another log")
            if previous.checkpoint.root != self._peaks.root():
                raise InvalidDocument("peaks", "do not lead to the root of the previous checkpoint")

    def _verified(self, place: str, note: str, size: int) -> VerifiedCheckpoint:
        found = verify_checkpoint(note, self.keys, place)
        if found.checkpoint.size != size:
            raise InvalidDocument(f"{place}.size", f"is {found.checkpoint.size} and not {size}")
        return found

    def take(self, jws: str) -> VerifiedReceipt:
        """Verify the next receipt. Raises InvalidDocument."""
        place = f"receipt {self._peaks.size}"
        if self._peaks.size >= self.header.end:
            raise InvalidDocument(place, "is after the end of the archive's range")
        found = verify_receipt(jws, self.keys, place)
        if f"{found.receipt.issuer}/receipts/{found.receipt.tenant}" != self.checkpoint.checkpoint.origin:
            raise InvalidDocument(place, "belongs to another log")
        self._peaks.append(receipt_leaf(jws))
        return found

    def finish(self) -> None:
        """Verify that the receipts are all of the range, and those of the checkpoint. Raises InvalidDocument."""
        if self._peaks.size != self.header.end:
            raise InvalidDocument(f"receipt {self._peaks.size}", "is missing, and all after it")
        if self._peaks.root() != self.checkpoint.checkpoint.root:
            raise InvalidDocument(
                "checkpoint.root", "is not that of these receipts: one was altered, replaced or moved"
            )


def verify_archive(
    path: Path, pinned: KeySet | None = None, advance: Callable[[int], None] = lambda _more: None
) -> BundleVerification:
    """Verify a whole archive, offline. `advance` is called with the number of receipts verified since the last call.
    Raises OSError."""
    try:
        header, receipts = read_archive(path)
        check = ArchiveCheck(header, pinned)
        while some := list(islice(receipts, ADVANCE)):
            for jws in some:
                check.take(jws)
            advance(len(some))
        check.finish()
    except InvalidDocument as error:
        return BundleVerification(proven=(), wrong=BundleFinding(error.place, error.what))
    head = check.checkpoint
    return BundleVerification(
        proven=(
            BundleFinding(
                "checkpoint",
                f"counts {head.checkpoint.size} receipts in the log {head.checkpoint.origin}, is signed by the key "
                f"{head.key.kid}, and unaltered since",
            ),
            BundleFinding(
                "receipts",
                f"these {header.end - header.start} are numbers {header.start} to {header.end - 1} of that log, "
                "counted from 0; each is signed and unaltered, and none is missing",
            ),
        ),
        unproven=() if pinned else (Unproven(KEYS_OF_ISSUER, "--jwks"),),
        checkpoint=head.checkpoint,
    )


def bundle_from(path: Path, receipt_gid: str) -> dict[str, Any] | None:
    """Build the bundle of one archived receipt from the archive alone; None if it is not in there. Raises OSError and
    InvalidDocument. The caller verifies the bundle."""
    header, receipts = read_archive(path)
    keys = KeySet.from_jwks(header.jwks)
    leaves, found = [], None
    for seq, jws in enumerate(receipts, header.start):
        if found is None and verify_receipt(jws, keys, f"receipt {seq}").receipt.gid == receipt_gid:
            found = seq, jws
        leaves.append(receipt_leaf(jws))
    if found is None:
        return None
    seq, jws = found
    spans = _spans(header)
    proof = [_root(header, spans, leaves, each) for each in inclusion_ranges(seq, header.end)]
    return build(jws, seq, proof, header.checkpoint, header.jwks)


def _spans(header: ArchiveHeader) -> dict[LeafRange, bytes]:
    """The leaves that each peak covers: perfect subtrees, largest first."""
    spans, start, left = {}, 0, header.start
    for peak in header.peaks:
        width = 1 << left.bit_length() - 1
        spans[LeafRange(start, start + width)] = peak
        start, left = start + width, left - width
    return spans


def _root(header: ArchiveHeader, spans: dict[LeafRange, bytes], leaves: list[bytes], wanted: LeafRange) -> bytes:
    """The root of a range that a proof needs. It begins at a peak, or within the archive."""
    if wanted.start >= header.start:
        return root_of(leaves[wanted.start - header.start : wanted.end - header.start])
    before = [peak for span, peak in spans.items() if wanted.start <= span.start and span.end <= wanted.end]
    subtree = Peaks(min(wanted.end, header.start) - wanted.start, before)
    for leaf in leaves[: max(0, wanted.end - header.start)]:
        subtree.append(leaf)
    return subtree.root()
