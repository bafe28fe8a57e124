"""`everhook receipts`: `verify` and `extract` work offline, from files only, for receivers and auditors; `audit` checks
the issuer's own database, and `archive` moves old receipts out of it.

Exit status: 0 if everything is valid, 1 if something is wrong (the first error is named), 2 if a file cannot be used.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console

from cli.command import epilog
from cli.errors import CommandError, UsageError
from cli.formatting import counted
from cli.options import AsJson
from cli.output import Output
from cli.terminal_text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from everhook.receipts.bundle import BundleVerification
    from everhook.receipts.keys import KeySet
    from everhook.receipts.log.archive_store import HeldBack
    from everhook.receipts.receipt import Receipt
    from everhook.storage.engine import Database
    from everhook.storage.keyring import KeyRing

MAX_FILE = 16 * 1024 * 1024
WRONG = 1
NOT_YET = 503
"""The status of the response for a receipt that has no checkpoint yet."""

Found = TypeVar("Found")

app = typer.Typer(name="receipts", help="Verify delivery receipts.", no_args_is_help=True)
console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


@app.callback()
def receipts() -> None:
    """Verify delivery receipts."""


@app.command(
    epilog=epilog(
        [
            "receipts verify bundle.json",
            "receipts verify bundle.json --body request-body --jwks keys.json --since-checkpoint held.txt",
        ]
    )
)
def verify(
    bundle: Annotated[
        Path,
        typer.Argument(help="The bundle of a receipt, or of two checkpoints; or an archive.", show_default=False),
    ],
    body: Annotated[Path | None, typer.Option(help="The request's body as it was received, byte for byte.")] = None,
    since_checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint that you hold: the log must not have been rewritten since.")
    ] = None,
    jwks: Annotated[
        Path | None, typer.Option(help="The issuer's keys from a source that you trust, used instead of the bundle's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a bundle or an archive offline, and print what it proves and what it does not."""
    from everhook.receipts.archive import verify_archive
    from everhook.receipts.bundle import BundleFinding, BundleVerification, UnknownBundle, load
    from everhook.receipts.bundle import verify as check
    from everhook.receipts.strict_json import InvalidDocument, NotJson

    try:
        if _is_archive(bundle):
            if body is not None or since_checkpoint is not None:
                raise UsageError("--body and --since-checkpoint are for bundles: `receipts extract` takes one out")
            _finish(verify_archive(bundle, _keys(jwks) if jwks else None), as_json)
        document = load(_read(bundle))
        _refuse_problem(bundle, document)
        result = check(
            document,
            body=_read(body) if body else None,
            since=_checkpoint(since_checkpoint) if since_checkpoint else None,
            keys=_keys(jwks) if jwks else None,
        )
    except (NotJson, UnknownBundle) as error:
        raise UsageError(f"{bundle}: {error}") from error
    except InvalidDocument as error:
        result = BundleVerification(proven=(), wrong=BundleFinding(error.place, error.what))
    _finish(result, as_json)


def _finish(result: "BundleVerification", as_json: bool) -> NoReturn:
    if as_json:
        Output(as_json).json(_as_json(result))
    else:
        _report(result)
    raise typer.Exit(0 if result.ok else WRONG)


def _is_archive(path: Path) -> bool:
    from everhook.receipts.archive import is_archive

    try:
        return is_archive(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


def _refuse_problem(file: Path, document: object) -> None:
    """Raise UsageError if the file is an error of the API that was saved instead of a bundle."""
    if isinstance(document, dict) and {"title", "status", "detail"} <= document.keys() and "type" in document:
        again = "; request it again then" if document["status"] == NOT_YET else ""
        raise UsageError(
            f"{file} is not a bundle, but an error of the API: "
            f"{document['detail']} ({document['status']}){again}. With curl, --fail-with-body detects this."
        )


@app.command(epilog=epilog(["receipts extract 000000000000-000000100000.receipts.gz rcp_…"]))
def extract(
    archive: Annotated[Path, typer.Argument(help="A file of `receipts archive`.", show_default=False)],
    receipt: Annotated[str, typer.Argument(help="The receipt.", metavar="GID", show_default=False)],
) -> None:
    """Print the bundle of one archived receipt, for `receipts verify`."""
    from everhook.receipts.archive import bundle_from
    from everhook.receipts.strict_json import InvalidDocument

    if not _is_archive(archive):
        raise UsageError(f"{archive} is not an archive of receipts")
    try:
        bundle = bundle_from(archive, receipt)
    except InvalidDocument as error:
        raise UsageError(f"{archive} cannot be used: {error}") from error
    if bundle is None:
        raise UsageError(f"{receipt} is not in {archive}")
    Output(True).json(bundle)


@app.command(
    epilog=epilog(
        [
            "receipts archive --before 2026-01-01 --to /var/lib/everhook/receipts --dry-run",
            "receipts archive --before 2026-01-01 --to /var/lib/everhook/receipts --tenant acme",
        ]
    )
)
def archive(
    before: Annotated[
        datetime,
        typer.Option(help="Archive what is under checkpoints signed before this day (UTC).", formats=["%Y-%m-%d"]),
    ],
    to: Annotated[Path, typer.Option(help="The directory for the files, one directory in it for each tenant.")],
    tenant: Annotated[str | None, typer.Option(help="This tenant only: a name or a gid.")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Move nothing; say how many receipts would be moved."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Move old receipts from the database to files that verify on their own.

    Hashes and checkpoints stay, so every proof still works. A receipt whose attempt is still in the database stays, and
    with it all later ones of its tenant. The command can be interrupted and run again.
    """
    moment = before.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise UsageError("--before lies in the future")
    if not dry_run and not (to.is_dir() and os.access(to, os.W_OK)):
        raise UsageError(f"{to} is not a directory that can be written to")
    out = Output(as_json)
    moved, held_back = asyncio.run(_archive(out, moment, to, tenant, dry_run=dry_run))
    if as_json:
        held = [{"tenantGid": each.tenant_gid, "seq": each.seq, "deliveryGid": each.delivery_gid} for each in held_back]
        out.json({"receipts": moved, "dryRun": dry_run, "heldBack": held})
        return
    for each in held_back:
        _say(
            f"{each.tenant_gid}: receipt {each.seq} and all later ones stay, because the attempt of "
            f"{each.delivery_gid} is still in the database"
        )
    _say(f"{counted(moved, 'receipt')} {'would be moved' if dry_run else f'moved to {to}'}")


async def _archive(
    out: Output, moment: datetime, to: Path, tenant: str | None, *, dry_run: bool
) -> "tuple[int, list[HeldBack]]":
    """Returns how many receipts were moved, or would be, and what keeps others in the database."""
    from cli.context import load_settings_here, opened_database
    from everhook.storage.keyring import KeyRing

    settings = load_settings_here()
    keyring = KeyRing.from_settings(settings)
    moved, held_back = 0, []
    async with opened_database(settings) as database:
        logs = await _logs(database, tenant)
        with out.progress() as progress:
            for tenant_gid in logs:
                task = progress.add_task(f"receipts of {tenant_gid}", total=None)
                advance = partial(progress.advance, task)
                directory = None if dry_run else to
                count, held = await _archive_log(database, keyring, tenant_gid, moment, directory, advance)
                progress.update(task, total=progress.tasks[task].completed)
                moved += count
                held_back += [held] if held is not None else []
    return moved, held_back


async def _logs(database: "Database", tenant: str | None) -> list[str]:
    """The tenants whose receipts are to be moved."""
    from everhook.receipts.log.audit_store import tenants_with_receipts
    from everhook.tenants.store import find_tenant

    async with database.reading() as session:
        if tenant is None:
            return await tenants_with_receipts(session)
        found = await find_tenant(session, tenant)
    if found is None:
        raise UsageError(f"there is no tenant {tenant}")
    return [found.gid]


async def _archive_log(
    database: "Database",
    keyring: "KeyRing",
    tenant_gid: str,
    moment: datetime,
    to: Path | None,
    advance: Callable[[int], None],
) -> "tuple[int, HeldBack | None]":
    """Move one log's receipts, file by file; without a directory only count them."""
    from everhook.receipts.log.archive_store import archive, delete_archived, held_back, next_range
    from everhook.receipts.store import archived_size
    from everhook.receipts.strict_json import InvalidDocument

    moved = 0
    if to is not None:
        await delete_archived(database, tenant_gid)  # what a run that died had recorded
    async with database.reading() as session:
        start = await archived_size(session, tenant_gid)
    while True:
        async with database.reading() as session:
            chosen = await next_range(session, tenant_gid, moment, start)
            if chosen is None:
                return moved, await held_back(session, tenant_gid, moment, start)
        start, count = chosen.end, chosen.end - chosen.start
        if to is None:
            moved += count
            continue
        try:
            moved += count if await archive(database, keyring, chosen, to, advance) else 0
        except InvalidDocument as error:
            raise CommandError(
                f"the log of {tenant_gid} is damaged, and its receipts from {chosen.start} on stay: {error}"
            ) from error
        except OSError as error:
            raise UsageError(f"{error.filename or to} cannot be written to: {error.strerror or error}") from error
        async with database.reading() as session:
            start = await archived_size(session, tenant_gid)  # further, if another run archives the same log


@app.command(epilog=epilog(["receipts audit", "receipts audit --json"]))
def audit(as_json: AsJson = False) -> None:
    """Check all receipts, hashes and checkpoints in the database (EVERHOOK_DATABASE_URL) against each other."""
    out = Output(as_json)
    found = asyncio.run(_audit(out))
    if as_json:
        out.json(found)
    else:
        _report_audit(found)
    if not found["ok"]:
        raise typer.Exit(WRONG)


async def _audit(out: Output) -> dict[str, Any]:
    """Check each log, and the attempts; returns the JSON document of the result."""
    from cli.context import load_settings_here, opened_database
    from everhook.receipts.log.audit_store import audit_log, check_attempts, tenants_with_receipts
    from everhook.storage.keyring import KeyRing

    settings = load_settings_here()
    keyring = KeyRing.from_settings(settings)
    logs = []
    async with opened_database(settings) as database, database.reading() as session:
        with out.progress() as progress:
            for tenant_gid in await tenants_with_receipts(session):
                check = partial(audit_log, session, tenant_gid, keyring)
                log, wrong = await _watched(progress, f"receipts of {tenant_gid}", check)
                logs.append({"tenantGid": tenant_gid, **(asdict(log) if log is not None else {}), "wrong": wrong})
            attempts, wrong = await _watched(progress, "attempts", partial(check_attempts, session))
    ok = wrong is None and all(log["wrong"] is None for log in logs)
    return {"ok": ok, "logs": logs, "attempts": attempts, "wrong": wrong}


async def _watched(
    progress: "Progress", what: str, check: Callable[[Callable[[int], None]], Awaitable[Found]]
) -> tuple[Found | None, str | None]:
    """The result of a check, or the error; `check` gets a callback for its progress."""
    from everhook.receipts.strict_json import InvalidDocument

    task = progress.add_task(what, total=None)
    try:
        return await check(partial(progress.advance, task)), None
    except InvalidDocument as error:
        return None, str(error)
    finally:
        progress.update(task, total=progress.tasks[task].completed)


def _report_audit(found: dict[str, Any]) -> None:
    for log in found["logs"]:
        if log["wrong"] is not None:
            _say_wrong(f"{log['tenantGid']}: {log['wrong']}")
            continue
        waiting = f", {log['unsealed']} waiting for the next" if log["unsealed"] else ""
        in_files = f", {log['archived']} of them in archives, not read" if log["archived"] else ""
        held = f"{counted(log['receipts'], 'receipt')} under {counted(log['checkpoints'], 'checkpoint')}"
        _say(f"holds       {log['tenantGid']}: {held}{in_files}{waiting}")
    if found["wrong"] is not None:
        _say_wrong(found["wrong"])
    else:
        _say(f"holds       {counted(found['attempts'], 'attempt')}, each with its receipt")


def _as_json(result: "BundleVerification") -> dict[str, Any]:
    return {
        "ok": result.ok,
        "statement": _statement(result.receipt) if result.receipt is not None else None,
        "proven": [asdict(finding) for finding in result.proven],
        "unproven": [str(each) for each in result.unproven],
        "wrong": asdict(result.wrong) if result.wrong is not None else None,
    }


def _report(result: "BundleVerification") -> None:
    if result.receipt is not None:
        _say(f"{result.receipt.issuer} states: {_statement(result.receipt)}")
    for finding in result.proven:
        _say(f"proven      {finding}")
    for sentence in result.unproven:
        _say(f"not proven  {sentence}")
    if result.wrong is not None:
        _say_wrong(str(result.wrong))
    else:
        _say("All that could be checked holds.")


def _statement(receipt: "Receipt") -> str:
    if (decision := receipt.decision) is not None:
        return (
            f"{decision.get('decidedBy')} (identified by: {decision.get('identifiedBy')}) decided the task "
            f"{decision.get('taskGid')} of delivery {receipt.delivery_gid} (message {receipt.message_gid}) "
            f"at {receipt.ended_at:%Y-%m-%d %H:%M:%S.%f} UTC: {decision.get('outcome')}."
        )
    response = f"HTTP {receipt.status_code}" if receipt.status_code is not None else receipt.error or "no response"
    return (
        f"attempt {receipt.number} of round {receipt.round} of delivery {receipt.delivery_gid} "
        f"(message {receipt.message_gid}) to {receipt.url} ended at {receipt.ended_at:%Y-%m-%d %H:%M:%S.%f} UTC "
        f"with {response}: {receipt.outcome}."
    )


def _say_wrong(text: str) -> None:
    _say(f"WRONG       {text}")


def _say(line: str) -> None:
    """Print a line; claims are untrusted text."""
    console.print(printable(line))


def _checkpoint(path: Path) -> str:
    """Read a checkpoint from a file and check its format. `verify` checks whether it is genuine."""
    from everhook.receipts.log.checkpoint import parse_note
    from everhook.receipts.strict_json import InvalidDocument

    try:
        note = _read(path).decode()
        parse_note(note)
    except (UnicodeDecodeError, InvalidDocument) as error:
        raise UsageError(f"{path} is not a checkpoint: {error}") from error
    return note


def _keys(path: Path) -> "KeySet":
    from everhook.receipts.keys import KeySet
    from everhook.receipts.strict_json import InvalidDocument, load_json

    try:
        return KeySet.from_jwks(load_json(_read(path), "jwks"))
    except InvalidDocument as error:
        raise UsageError(f"{path} has no keys to check with: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_FILE:
        raise UsageError(f"{path} is larger than {MAX_FILE // 1024 // 1024} MiB")
    return data
