"""Receipts that are moved to files: these verify on their own, and what stays in the database still proves the log."""

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from everhook.receipts.archive import bundle_from, digest, file_name, verify_archive
from everhook.receipts.bundle import verify
from everhook.receipts.keys_store import rotate_keys
from everhook.receipts.log import archive_store
from everhook.receipts.log.archive_store import Range, archive, delete_archived, held_back, next_range
from everhook.receipts.log.audit_store import audit_log, check_attempts
from everhook.receipts.strict_json import InvalidDocument
from everhook.storage.engine import Database
from everhook.storage.tables import now
from tests.stores.factories import ISSUER
from tests.stores.receipt_factory import Log

LATER = timedelta(days=1)


@pytest.fixture
def log(database: Database) -> Log:
    return Log(database)


async def forget_attempts(log: Log) -> None:
    """What retention does."""
    await log.change("DELETE FROM attempt")


def files_in(directory: Path, named: str = "*.gz") -> list[Path]:
    return sorted(directory.rglob(named))


async def archived(log: Log, directory: Path) -> list[Path]:
    """Archive all that can be archived; the files, in order."""
    await delete_archived(log.database, log.tenant_gid)
    while True:
        async with log.database.reading() as session:
            chosen = await next_range(session, log.tenant_gid, now() + LATER)
        if chosen is None:
            return files_in(directory)
        await archive(log.database, log.keyring, chosen, directory, lambda _: None)


async def audited(log: Log) -> int:
    async with log.database.reading() as session:
        await check_attempts(session)
        return (await audit_log(session, log.tenant_gid, log.keyring)).receipts


async def test_archived_receipts_leave_the_database_and_everything_is_still_proven(log: Log, tmp_path: Path) -> None:
    await log.grown(3, 7)
    rows = await log.receipts()
    await forget_attempts(log)
    (file,) = await archived(log, tmp_path)
    assert await log.receipts() == []
    found = verify_archive(file, await log.keys())
    assert found.ok and found.unproven == ()
    assert found.checkpoint is not None and found.checkpoint.size == 7
    assert verify_archive(file).unproven != ()  # the keys came with it
    await log.grow(5)
    await log.seal()  # the sealer continues where it was
    assert await audited(log) == 12
    async with log.database.reading() as session:
        assert (await audit_log(session, log.tenant_gid, log.keyring)).archived == 7
    assert (await log.verified(9, (await log.seals())[0])).ok
    bundle = bundle_from(file, rows[4].gid)
    assert bundle is not None and verify(bundle, keys=await log.keys()).ok
    assert bundle_from(file, "rcp_none") is None


async def test_the_next_archive_begins_where_the_last_one_ended(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_store, "PER_FILE", 5)
    await log.grown(3, 5, 9, 13)
    await forget_attempts(log)
    files = await archived(log, tmp_path)
    assert [file.name for file in files] == [
        "000000000000-000000000005.receipts.gz",
        "000000000005-000000000009.receipts.gz",
        "000000000009-000000000013.receipts.gz",
    ]
    for file in files:
        assert verify_archive(file, await log.keys()).ok
    assert await audited(log) == 13


async def chosen_now(log: Log) -> Range:
    async with log.database.reading() as session:
        chosen = await next_range(session, log.tenant_gid, now() + LATER)
    assert chosen is not None
    return chosen


@pytest.mark.both_databases
async def test_a_receipt_held_back_by_its_attempt_is_named_and_one_held_back_by_its_age_is_not(log: Log) -> None:
    await log.grown(2, 4)
    third = (await log.receipts())[2]
    await log.change("DELETE FROM attempt WHERE gid <> :gid", gid=third.attempt_gid)
    async with log.database.reading() as session:
        held = await held_back(session, log.tenant_gid, now() + LATER, 2)
        assert held is not None and (held.seq, held.delivery_gid) == (2, third.delivery_gid)
        assert await held_back(session, log.tenant_gid, now() - LATER, 2) is None


async def test_a_receipt_stays_while_its_attempt_is_there_or_its_checkpoint_is_young(log: Log, tmp_path: Path) -> None:
    await log.grown(2, 4)
    third = (await log.receipts())[2].attempt_gid
    await log.change("DELETE FROM attempt WHERE gid <> :gid", gid=third)
    async with log.database.reading() as session:
        assert await next_range(session, log.tenant_gid, now() - LATER) is None
    (file,) = await archived(log, tmp_path)
    assert file.name.endswith("000000000002.receipts.gz")
    assert len(await log.receipts()) == 2
    assert await audited(log) == 4


def _changed(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[2][:-8] + ("A" if lines[2][-8] != "A" else "B") + lines[2][-7:], *lines[3:]]


def _header(lines: list[str], **values: object) -> list[str]:
    return [json.dumps(json.loads(lines[0]) | values), *lines[1:]]


TAMPERED: dict[str, Callable[[list[str]], list[str]]] = {
    "a changed receipt": _changed,
    "a removed receipt": lambda lines: [*lines[:2], *lines[3:]],
    "two swapped": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "one twice": lambda lines: [*lines, lines[-1]],
    "no last one": lambda lines: lines[:-1],
    "another range": lambda lines: _header(lines, start=1),
    "no header": lambda lines: lines[1:],
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
async def test_a_modified_archive_file_fails_verification(
    log: Log, tmp_path: Path, tamper: Callable[[list[str]], list[str]]
) -> None:
    await log.grown(5)
    await forget_attempts(log)
    (file,) = await archived(log, tmp_path)
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    file.write_bytes(gzip.compress("\n".join([*tamper(lines), ""]).encode()))
    assert not verify_archive(file, await log.keys()).ok


async def test_a_file_that_is_cut_off_is_refused(log: Log, tmp_path: Path) -> None:
    await log.grown(5)
    await forget_attempts(log)
    (file,) = await archived(log, tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    assert not verify_archive(file).ok


STEPS = ["write_archive", "verify_archive", "rename_on_disk", "_record", "delete_archived"]


@pytest.mark.parametrize("step", STEPS)
async def test_a_run_that_dies_at_a_step_loses_nothing_and_the_next_one_continues(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await log.grown(3)
    await forget_attempts(log)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(archive_store, step, killed)
        await archive(log.database, log.keyring, await chosen_now(log), tmp_path, lambda _: None)
    assert len(await log.receipts()) == 3
    (file,) = await archived(log, tmp_path)
    assert await log.receipts() == []
    assert verify_archive(file).ok
    assert await audited(log) == 3


async def test_a_file_that_was_named_and_not_recorded_is_used_also_after_a_rotation(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.grown(3)
    await forget_attempts(log)

    def killed(old: Path, new: Path) -> None:
        old.replace(new)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(archive_store, "rename_on_disk", killed)
        await archive(log.database, log.keyring, await chosen_now(log), tmp_path, lambda _: None)
    assert await log.count("receipt_archive") == 0
    async with log.database.write_connection() as connection:
        await rotate_keys(connection, log.keyring, ISSUER, now())
    (file,) = await archived(log, tmp_path)
    assert await log.receipts() == []
    assert await log.count(f"receipt_archive WHERE sha256 = '{digest(file)}'") == 1
    assert verify_archive(file).ok


@pytest.mark.both_databases
async def test_another_file_of_the_same_name_is_never_replaced(log: Log, tmp_path: Path) -> None:
    """A database that was restored from a backup has other receipts in the same places."""
    await log.grown(3)
    await forget_attempts(log)
    chosen = await chosen_now(log)
    file = tmp_path / chosen.tenant_gid / file_name(chosen.start, chosen.end)
    file.parent.mkdir()
    file.write_bytes(b"the only copy")
    with pytest.raises(FileExistsError):
        await archived(log, tmp_path)
    assert file.read_bytes() == b"the only copy"
    assert files_in(tmp_path, "*.partial") == []
    assert len(await log.receipts()) == 3


@pytest.mark.both_databases
async def test_two_runs_at_once_archive_once(log: Log, tmp_path: Path) -> None:
    await log.grown(4)
    await forget_attempts(log)
    first, second = await asyncio.gather(archived(log, tmp_path), archived(log, tmp_path))
    assert first == second
    assert len(second) == 1
    assert await log.count("receipt_archive") == 1
    assert await audited(log) == 4


@pytest.mark.both_databases
async def test_a_run_that_is_late_leaves_the_files_of_the_other(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads when the receipts are deleted, or wants to record when the other run has recorded two files."""
    monkeypatch.setattr(archive_store, "PER_FILE", 3)
    await log.grown(3, 6)
    await forget_attempts(log)
    chosen, record = await chosen_now(log), archive_store._record

    async def overtaken(*arguments: Any) -> bool:
        monkeypatch.setattr(archive_store, "_record", record)
        await archived(log, tmp_path)
        return await record(*arguments)

    monkeypatch.setattr(archive_store, "_record", overtaken)
    for _ in ("recording", "reading"):
        assert not await archive(log.database, log.keyring, chosen, tmp_path, lambda _: None)
        first, second = files_in(tmp_path)
        assert verify_archive(first).ok and verify_archive(second).ok
        assert await log.count("receipt_archive") == 2
    assert files_in(tmp_path, "*.partial") == []
    assert await audited(log) == 6


@pytest.mark.both_databases
async def test_a_log_whose_hashes_are_damaged_is_not_archived(log: Log, tmp_path: Path) -> None:
    await log.grown(4)
    await forget_attempts(log)
    async with log.database.write_connection() as connection:
        await connection.execute(text('DELETE FROM receipt_hash WHERE level = 0 AND "index" = 1'))
    with pytest.raises(InvalidDocument):
        await archived(log, tmp_path)
    assert len(await log.receipts()) == 4


async def test_a_damaged_log_is_not_archived(log: Log, tmp_path: Path) -> None:
    await log.grown(4)
    await forget_attempts(log)
    jws = (await log.receipts())[1].jws
    await log.change("UPDATE receipt SET jws = :jws WHERE seq = 2", jws=jws)
    with pytest.raises(InvalidDocument):
        await archived(log, tmp_path)
    assert len(await log.receipts()) == 4
    assert files_in(tmp_path) == []


@pytest.mark.both_databases
async def test_a_hash_of_an_archived_receipt_that_was_changed_is_found_by_the_audit(log: Log, tmp_path: Path) -> None:
    await log.grown(4)
    await forget_attempts(log)
    await archived(log, tmp_path)
    async with log.database.write_connection() as connection:
        await connection.execute(
            text('UPDATE receipt_hash SET hash = :hash WHERE level = 0 AND "index" = 1'), {"hash": b"x" * 32}
        )
    with pytest.raises(InvalidDocument):
        await audited(log)
