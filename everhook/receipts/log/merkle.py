"""The Merkle tree of RFC 9162 section 2.1 (SHA-256): roots, inclusion proofs, consistency proofs.

A proof consists of the roots of a few ranges of leaves (`inclusion_ranges`, `consistency_ranges`). They are computed
from a `HashStore`, which stores the hash of every leaf, and the root of every complete *block*: 256 leaves at level 1,
256 blocks of level 1 at level 2, and so on (the tiles of C2SP tlog-tiles). A proof over 10 million leaves then reads
fewer than a thousand hashes in half a dozen queries. `Frontier` is the other side: it appends leaves, and returns the
blocks that are complete.

Sizes and indices count leaves from 0; ranges are half open.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple, Protocol, Self

HASH_BYTES = 32
EMPTY_ROOT = sha256().digest()
"""The root of a tree without leaves: RFC 9162 section 2.1.1."""

BLOCK = 256
"""How many hashes of one level make one hash of the next."""


class MissingHashes(LookupError):
    """The store lacks hashes of a log of this size: it was truncated, or was never that long."""


class LeafRange(NamedTuple):
    start: int
    end: int


class HashStore(Protocol):
    """The stored hashes of a log. For a range beyond the end, the existing part is returned."""

    async def leaves(self, start: int, end: int) -> Sequence[bytes]:
        """Leaf hashes by their index in the log."""

    async def blocks(self, level: int, start: int, end: int) -> Sequence[bytes]:
        """Roots of complete blocks: block i of a level covers the leaves from i * 256**level to (i + 1) *
        256**level."""


@dataclass(frozen=True)
class Block:
    """The root of a complete block, as a store keeps it."""

    level: int
    index: int
    hash: bytes


def leaf_hash(data: bytes) -> bytes:
    """RFC 9162 section 2.1.1."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162 section 2.1.1."""
    return sha256(b"\x01" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, or over roots of complete subtrees of one size: RFC 9162 section 2.1.1."""
    return _bag(list(_peaks(hashes))) if hashes else EMPTY_ROOT


# Which ranges make a proof


def inclusion_ranges(index: int, size: int) -> list[LeafRange]:
    """The ranges whose roots prove leaf `index` in a tree of `size`, nearest first: RFC 9162 section 2.1.3.1."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    ranges: list[LeafRange] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append(LeafRange(middle, end))
            end = middle
        else:
            ranges.append(LeafRange(start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[LeafRange]:
    """The ranges whose roots prove that a tree of `new` begins with that of `old`: RFC 9162 section 2.1.4.1.

    No ranges if the sizes are equal or `old` is 0: then only the roots are compared.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} does not begin with one of {old}")
    if old in (0, new):
        return []
    ranges: list[LeafRange] = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append(LeafRange(middle, end))
            end = middle
        else:
            ranges.append(LeafRange(start, middle))
            start = middle
    # The root of the old tree itself is known.
    if start:
        ranges.append(LeafRange(start, end))
    return ranges[::-1]


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << (size - 1).bit_length() - 1


# Proofs from a store


async def tree_root(store: HashStore, size: int) -> bytes:
    return await range_root(store, 0, size) if size else EMPTY_ROOT


async def inclusion_proof(store: HashStore, index: int, size: int) -> list[bytes]:
    return await range_roots(store, inclusion_ranges(index, size))


async def consistency_proof(store: HashStore, old: int, new: int) -> list[bytes]:
    return await range_roots(store, consistency_ranges(old, new))


async def range_root(store: HashStore, start: int, end: int) -> bytes:
    return (await range_roots(store, [LeafRange(start, end)]))[0]


async def range_roots(store: HashStore, ranges: Iterable[LeafRange]) -> list[bytes]:
    """The root of each range. A range must be a subtree: it starts at a multiple of a power of two that is at least
    its length, as the ranges of proofs do. Raises MissingHashes."""
    covers = [_cover(start, end) for start, end in ranges]
    hashes = await _read(store, {piece for cover in covers for piece in cover})
    return [_bag([peak for piece in cover for peak in _peaks(hashes[piece])]) for cover in covers]


class _Piece(NamedTuple):
    """Adjacent hashes of one level; level 0 is the leaves."""

    level: int
    start: int
    end: int


def _cover(start: int, end: int) -> list[_Piece]:
    """A range as the fewest stored hashes, left to right: large blocks first, because the start of the range is
    aligned."""
    if start % (1 << max(end - start - 1, 0).bit_length()) or end <= start:
        raise ValueError(f"leaves {start} to {end} are no subtree")
    level = 0
    while BLOCK ** (level + 1) <= end - start:
        level += 1
    pieces: list[_Piece] = []
    while start < end:
        width = BLOCK**level
        if count := (end - start) // width:
            pieces.append(_Piece(level, start // width, start // width + count))
            start += count * width
        level -= 1
    return pieces


async def _read(store: HashStore, pieces: Iterable[_Piece]) -> dict[_Piece, Sequence[bytes]]:
    found: dict[_Piece, Sequence[bytes]] = {}
    for run, members in _runs(pieces):
        hashes = await _fetch(store, run)
        found |= {piece: hashes[piece.start - run.start : piece.end - run.start] for piece in members}
    return found


def _runs(pieces: Iterable[_Piece]) -> list[tuple[_Piece, list[_Piece]]]:
    """Join pieces that one query can read. A gap of one is read too: it is the proven leaf, or its block."""
    runs: list[tuple[_Piece, list[_Piece]]] = []
    for piece in sorted(pieces):
        if runs and (run := runs[-1][0]).level == piece.level and piece.start <= run.end + 1:
            runs[-1] = (run._replace(end=max(run.end, piece.end)), [*runs[-1][1], piece])
        else:
            runs.append((piece, [piece]))
    return runs


async def _fetch(store: HashStore, piece: _Piece) -> Sequence[bytes]:
    level, start, end = piece
    hashes = await (store.blocks(level, start, end) if level else store.leaves(start, end))
    if len(hashes) != end - start:
        what = f"blocks of level {level}" if level else "leaves"
        raise MissingHashes(f"of the {what} {start} to {end} there are {len(hashes)}")
    return hashes


# Growing


class Frontier:
    """The right edge of a log: everything that is needed to append, at most 255 hashes for each level."""

    def __init__(self) -> None:
        self.size = 0
        self._edges: list[list[bytes]] = [[]]

    @classmethod
    async def load(cls, store: HashStore, size: int) -> Self:
        """Load the edge of a stored log. Raises MissingHashes."""
        frontier = cls()
        frontier.size = size
        pieces = _edge_pieces(size)
        found = await _read(store, [piece for piece in pieces if piece.end > piece.start])
        frontier._edges = [list(found.get(piece, ())) for piece in pieces]
        return frontier

    def extend(self, leaf_hashes: Iterable[bytes]) -> list[Block]:
        """Append leaves. Returns the blocks that this completed, which the store has to save."""
        completed: list[Block] = []
        for hashed in leaf_hashes:
            self.size += 1
            completed += self._carry(hashed)
        return completed

    def peaks(self) -> list[bytes]:
        """The roots of the perfect subtrees that the log consists of, largest and leftmost first."""
        return [peak for edge in reversed(self._edges) for peak in _peaks(edge)]

    def root(self) -> bytes:
        peaks = self.peaks()
        return _bag(peaks) if peaks else EMPTY_ROOT

    def _carry(self, hashed: bytes) -> Iterator[Block]:
        for level, edge in enumerate(self._edges):
            edge.append(hashed)
            if len(edge) < BLOCK:
                return
            hashed = root_of(edge)
            edge.clear()
            yield Block(level + 1, self.size // BLOCK ** (level + 1) - 1, hashed)
        self._edges.append([hashed])


class Peaks:
    """A log as the roots of its perfect subtrees, one for each bit of its size: enough to append and for the root,
    without a store."""

    def __init__(self, size: int, peaks: Sequence[bytes]) -> None:
        self.size = size
        self._peaks = list(peaks)

    def append(self, leaf: bytes) -> None:
        self._peaks.append(leaf)
        bits = self.size
        while bits & 1:
            right, left = self._peaks.pop(), self._peaks.pop()
            self._peaks.append(node_hash(left, right))
            bits >>= 1
        self.size += 1

    def root(self) -> bytes:
        return _bag(self._peaks) if self._peaks else EMPTY_ROOT


def _edge_pieces(size: int) -> list[_Piece]:
    """The hashes of each level that are in no complete block of the next level."""
    pieces = [_Piece(0, size - size % BLOCK, size)]
    while count := size // BLOCK ** len(pieces):
        pieces.append(_Piece(len(pieces), count - count % BLOCK, count))
    return pieces


def _peaks(hashes: Sequence[bytes]) -> Iterator[bytes]:
    """The roots of the perfect subtrees of hashes of one level, largest and leftmost first."""
    start = 0
    while left := len(hashes) - start:
        width = 1 << left.bit_length() - 1
        yield _perfect_root(hashes[start : start + width])
        start += width


def _perfect_root(hashes: Sequence[bytes]) -> bytes:
    while len(hashes) > 1:
        hashes = [node_hash(left, right) for left, right in zip(hashes[::2], hashes[1::2], strict=True)]
    return hashes[0]


def _bag(peaks: list[bytes]) -> bytes:
    """Join perfect subtrees, largest first, from the right: this is RFC 9162's split at the largest power of two."""
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


# Verifying


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the leaf with this hash is number `index` in the tree of `size` and `root`: RFC 9162 section 2.1.3.2."""
    if not 0 <= index < size or not _are_hashes(leaf, root, *proof):
        return False
    node, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if node & 1 or node == last:
            computed = node_hash(sibling, computed)
            node, last = _past_zeros(node, last)
        else:
            computed = node_hash(computed, sibling)
        node, last = node >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(old_size: int, old_root: bytes, new_size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the tree of `new_root` begins with the whole tree of `old_root`: RFC 9162 section 2.1.4.2."""
    if not 0 <= old_size <= new_size or not _are_hashes(old_root, new_root, *proof):
        return False
    if old_size == new_size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    path = list(proof) if node else [old_root, *proof]
    return bool(path) and _climb(node, last, path) == (old_root, new_root)


def _climb(node: int, last: int, path: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Steps 5 to 7 of section 2.1.4.2: the old and the new root that the path leads to; None if its length is wrong."""
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            node, last = _past_zeros(node, last)
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return (old, new) if last == 0 else None


def _past_zeros(node: int, last: int) -> tuple[int, int]:
    """Move up past the levels where the node has no sibling at the right edge: to a right child, or to the first
    node."""
    while node and not node & 1:
        node, last = node >> 1, last >> 1
    return node, last


def _are_hashes(*values: bytes) -> bool:
    return all(len(value) == HASH_BYTES for value in values)
