"""The Merkle tree, against RFC 9162's recursive definitions, published roots, and trees that were tampered with."""

import functools
import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everhook.receipts.log.merkle import (
    BLOCK,
    EMPTY_ROOT,
    Block,
    Frontier,
    LeafRange,
    MissingHashes,
    consistency_proof,
    consistency_ranges,
    inclusion_proof,
    inclusion_ranges,
    leaf_hash,
    node_hash,
    range_root,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/receipts/merkle.json").read_text())
PUBLISHED_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Of certificate-transparency's own tests, for 0 to 8 leaves."""

UP_TO = 130
HASHES = [leaf_hash(b"leaf %d" % number) for number in range(3_000)]


# The definitions of RFC 9162 section 2.1, over leaf hashes


def split(size: int) -> int:
    k = 1
    while k * 2 < size:
        k *= 2
    return k


def naive_root(hashes: Sequence[bytes]) -> bytes:
    return _naive_root(tuple(hashes))


@functools.cache
def _naive_root(hashes: tuple[bytes, ...]) -> bytes:
    """Trees of all sizes up to `UP_TO` have most of their subtrees in common."""
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256(b"").digest()
    k = split(len(hashes))
    return sha256(b"\x01" + naive_root(hashes[:k]) + naive_root(hashes[k:])).digest()


def naive_path(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*naive_path(index, hashes[:k]), naive_root(hashes[k:])]
    return [*naive_path(index - k, hashes[k:]), naive_root(hashes[:k])]


def naive_subproof(old: int, hashes: Sequence[bytes], whole: bool = True) -> list[bytes]:
    if old == len(hashes):
        return [] if whole else [naive_root(hashes)]
    k = split(len(hashes))
    if old <= k:
        return [*naive_subproof(old, hashes[:k], whole), naive_root(hashes[k:])]
    return [*naive_subproof(old - k, hashes[k:], False), naive_root(hashes[:k])]


class Memory:
    """A store as the product's: leaves, and the blocks that a `Frontier` said were complete."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.kept_leaves = list(leaves)
        self.kept_blocks = {(block.level, block.index): block.hash for block in Frontier().extend(leaves)}

    async def leaves(self, start: int, end: int) -> list[bytes]:
        return self.kept_leaves[start:end]

    async def blocks(self, level: int, start: int, end: int) -> list[bytes]:
        found = (self.kept_blocks.get((level, index)) for index in range(start, end))
        return [each for each in found if each is not None]


# Hashes and roots


def test_leaves_and_nodes_are_hashed_apart() -> None:
    assert leaf_hash(b"data") == sha256(b"\x00data").digest()
    assert node_hash(b"l" * 32, b"r" * 32) == sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()


def test_roots_are_those_that_are_published() -> None:
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"][:8]]
    assert [root_of(hashes[:size]).hex() for size in range(9)] == PUBLISHED_ROOTS


def test_the_vectors_made_by_another_method_hold() -> None:
    hashes = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
    roots = [root_of(hashes[:size]) for size in range(len(hashes) + 1)]
    assert [each.hex() for each in hashes] == VECTORS["leafHashes"]
    assert [each.hex() for each in roots] == VECTORS["roots"]
    for case in VECTORS["inclusion"]:
        proof = [bytes.fromhex(each) for each in case["proof"]]
        assert verify_inclusion(hashes[case["index"]], case["index"], case["size"], proof, roots[case["size"]])
    for case in VECTORS["consistency"]:
        proof = [bytes.fromhex(each) for each in case["proof"]]
        assert verify_consistency(case["old"], roots[case["old"]], case["new"], roots[case["new"]], proof)


@pytest.mark.parametrize("size", range(UP_TO + 1))
def test_every_root_and_every_proof_of_a_tree_is_that_of_the_definition(size: int) -> None:
    hashes = HASHES[:size]
    root = root_of(hashes)
    assert root == naive_root(hashes)
    for index in range(size):
        proof = [root_of(hashes[start:end]) for start, end in inclusion_ranges(index, size)]
        assert proof == naive_path(index, hashes)
        assert verify_inclusion(hashes[index], index, size, proof, root)
    for old in range(1, size + 1):
        proof = [root_of(hashes[start:end]) for start, end in consistency_ranges(old, size)]
        assert proof == naive_subproof(old, hashes)
        assert verify_consistency(old, root_of(hashes[:old]), size, root, proof)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_there_is_no_proof_for_a_leaf_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError):
        inclusion_ranges(index, size)
    assert not verify_inclusion(HASHES[0], index, size, [], HASHES[0])


@pytest.mark.parametrize(("old", "new"), [(4, 3), (-1, 3)])
def test_a_consistency_proof_of_a_shrinking_tree_does_not_exist(old: int, new: int) -> None:
    with pytest.raises(ValueError):
        consistency_ranges(old, new)
    assert not verify_consistency(old, HASHES[0], new, HASHES[0], [])


def test_every_log_begins_with_the_empty_one() -> None:
    root = root_of(HASHES[:5])
    assert consistency_ranges(0, 5) == []
    assert verify_consistency(0, EMPTY_ROOT, 5, root, [])
    assert verify_consistency(0, EMPTY_ROOT, 0, EMPTY_ROOT, [])
    assert not verify_consistency(0, root, 5, root, [])
    assert not verify_consistency(0, EMPTY_ROOT, 5, root, [root])


# Tampering


def altered(proof: list[bytes]) -> list[list[bytes]]:
    """Each hash changed, dropped, doubled, shortened; two exchanged; one more at either end."""
    some = sha256(b"some").digest()
    flipped = [[*proof[:i], bytes([proof[i][0] ^ 1]) + proof[i][1:], *proof[i + 1 :]] for i in range(len(proof))]
    dropped = [proof[:i] + proof[i + 1 :] for i in range(len(proof))]
    doubled = [[*proof[:i], proof[i], *proof[i:]] for i in range(len(proof))]
    shortened = [[*proof[:i], proof[i][:31], *proof[i + 1 :]] for i in range(len(proof))]
    swapped = [proof[::-1]] if len(proof) > 1 else []
    return [*flipped, *dropped, *doubled, *shortened, *swapped, [some, *proof], [*proof, some]]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 13, 16, 33])
def test_a_tampered_inclusion_proof_is_refused(size: int) -> None:
    hashes, root = HASHES[:size], root_of(HASHES[:size])
    for index in range(size):
        proof = naive_path(index, hashes)
        for bad in altered(proof):
            assert not verify_inclusion(hashes[index], index, size, bad, root)
        for other in range(size):
            assert verify_inclusion(hashes[index], other, size, proof, root) is (other == index)
        assert not verify_inclusion(HASHES[-1], index, size, proof, root)
        assert not verify_inclusion(hashes[index], index, size, proof, HASHES[-1])
        assert not verify_inclusion(hashes[index][:31], index, size, proof, root)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 13, 16, 33])
def test_a_tampered_consistency_proof_is_refused(size: int) -> None:
    root = root_of(HASHES[:size])
    for old in range(1, size + 1):
        old_root, proof = root_of(HASHES[:old]), naive_subproof(old, HASHES[:size])
        for bad in altered(proof):
            assert not verify_consistency(old, old_root, size, root, bad)
        assert not verify_consistency(old, HASHES[-1], size, root, proof)
        assert not verify_consistency(old, old_root, size, HASHES[-1], proof)


@pytest.mark.parametrize("size", [5, 8, 13])
def test_no_proof_passes_a_log_whose_past_was_rewritten(size: int) -> None:
    for old in range(1, size + 1):
        for victim in range(old):
            rewritten = [*HASHES[:victim], HASHES[-1], *HASHES[victim + 1 : size]]
            proof = naive_subproof(old, rewritten)
            assert not verify_consistency(old, root_of(HASHES[:old]), size, root_of(rewritten), proof)


# The store


SIZES = st.one_of(
    st.integers(1, len(HASHES)),
    st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 4 * BLOCK, 4 * BLOCK + 1, 10 * BLOCK]),
)


@settings(max_examples=60, deadline=None)
@given(st.data())
async def test_a_store_returns_the_same_proofs_as_the_definition(data: st.DataObject) -> None:
    size = data.draw(SIZES)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    store, hashes = Memory(HASHES[:size]), HASHES[:size]
    assert await tree_root(store, size) == naive_root(hashes)
    assert await inclusion_proof(store, index, size) == naive_path(index, hashes)
    assert await consistency_proof(store, old, size) == naive_subproof(old, hashes)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.lists(st.integers(0, 700), max_size=6))
async def test_a_log_has_the_same_blocks_and_root_in_batches_of_any_size(size: int, steps: list[int]) -> None:
    """Each step loads what the last one stored, as the sealing job does."""
    store = Memory([])
    for step in [*steps, size]:
        end = min(len(store.kept_leaves) + step, size)
        frontier = await Frontier.load(store, len(store.kept_leaves))
        new = HASHES[len(store.kept_leaves) : end]
        store.kept_blocks |= {(block.level, block.index): block.hash for block in frontier.extend(new)}
        store.kept_leaves += new
        assert frontier.size == end
        assert frontier.root() == naive_root(HASHES[:end])
    assert store.kept_blocks == Memory(HASHES[:size]).kept_blocks


def test_a_block_is_the_root_of_its_leaves() -> None:
    blocks = Frontier().extend(HASHES[: 3 * BLOCK - 1])
    assert blocks == [Block(1, i, naive_root(HASHES[i * BLOCK : (i + 1) * BLOCK])) for i in range(2)]


def test_blocks_of_blocks_are_complete_at_65536_leaves() -> None:
    leaves = [leaf_hash(b"%d" % number) for number in range(BLOCK * BLOCK + 5)]
    blocks = Frontier().extend(leaves)
    assert [(block.level, block.index) for block in blocks[-2:]] == [(1, 255), (2, 0)]
    assert blocks[-1].hash == naive_root(leaves[: BLOCK * BLOCK])


class Vast:
    """A log too large for a test's memory, of which every hash is made up; it counts what is read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.queries = self.read = 0

    async def leaves(self, start: int, end: int) -> list[bytes]:
        return await self.blocks(0, start, end)

    async def blocks(self, level: int, start: int, end: int) -> list[bytes]:
        assert 0 <= start < end <= self.size // BLOCK**level, "only complete blocks are stored"
        self.queries += 1
        self.read += end - start
        return [leaf_hash(b"%d %d" % (level, index)) for index in range(start, end)]


TEN_MILLION = 10_000_000


@pytest.mark.parametrize("index", [0, 1, 255, 256, 65_535, 65_536, 5_000_000, 9_961_471, 9_961_472, TEN_MILLION - 1])
async def test_a_proof_over_ten_million_leaves_reads_fewer_than_a_thousand_hashes(index: int) -> None:
    for prove in (inclusion_proof, consistency_proof):
        store = Vast(TEN_MILLION)
        await prove(store, index, TEN_MILLION)
        assert store.read < 1_000
        assert store.queries <= 8


async def test_the_edge_of_ten_million_leaves_is_a_few_hundred_hashes() -> None:
    store = Vast(TEN_MILLION)
    await Frontier.load(store, TEN_MILLION)
    assert store.read == 10_000_000 % 256 + 39_062 % 256 + 152


async def test_the_edge_of_whole_blocks_asks_for_no_leaves() -> None:
    store = Vast(65_536)
    await Frontier.load(store, 65_536)
    assert (store.queries, store.read) == (1, 1)


@pytest.mark.parametrize("damage", [lambda s: s.kept_leaves.pop(), lambda s: s.kept_blocks.pop((1, 1))])
async def test_a_store_that_lost_hashes_returns_no_proof(damage: Callable[[Memory], object]) -> None:
    store = Memory(HASHES[:1_000])
    damage(store)
    with pytest.raises(MissingHashes):
        await inclusion_proof(store, 3, 1_000)


@pytest.mark.parametrize("leaves", [LeafRange(1, 3), LeafRange(2, 5), LeafRange(256, 700), LeafRange(3, 3)])
async def test_only_subtrees_have_a_root(leaves: LeafRange) -> None:
    with pytest.raises(ValueError):
        await range_root(Memory(HASHES), *leaves)


async def test_the_root_of_a_log_without_leaves_needs_no_store() -> None:
    assert await tree_root(Memory([]), 0) == EMPTY_ROOT == Frontier().root() == root_of([])
    assert sha256(b"").digest() == EMPTY_ROOT
