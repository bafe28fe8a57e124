"""`everhook receipts`: `verify` checks a bundle offline, from files only, for receivers and auditors; `audit` checks
the issuer's own database.

Exit status: 0 if everything is valid, 1 if something is wrong (the first error is named), 2 if a file cannot be used.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console

from cli.command import epilog
from cli.errors import UsageError
from cli.options import AsJson
from cli.output import Output
from cli.terminal_text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from everhook.receipts.bundle import BundleVerification
    from everhook.receipts.keys import KeySet
    from everhook.receipts.receipt import Receipt

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
    bundle: Annotated[Path, typer.Argument(help="The bundle of a receipt, or of two checkpoints.", show_default=False)],
    body: Annotated[Path | None, typer.Option(help="The request's body as it was received, byte for byte.")] = None,
    since_checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint that you hold: the log must not have been rewritten since.")
    ] = None,
    jwks: Annotated[
        Path | None, typer.Option(help="The issuer's keys from a source that you trust, used instead of the bundle's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a bundle offline, and print what it proves and what it does not."""
    from everhook.receipts.bundle import BundleFinding, BundleVerification, UnknownBundle, load
    from everhook.receipts.bundle import verify as check
    from everhook.receipts.strict_json import InvalidDocument, NotJson

    try:
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
    if as_json:
        Output(as_json).json(_as_json(result))
    else:
        _report(result)
    if not result.ok:
        raise typer.Exit(WRONG)


def _refuse_problem(file: Path, document: object) -> None:
    """Raise UsageError if the file is an error of the API that was saved instead of a bundle."""
    if isinstance(document, dict) and {"title", "status", "detail"} <= document.keys() and "type" in document:
        again = "; request it again then" if document["status"] == NOT_YET else ""
        raise UsageError(
            f"{file} is not a bundle, but an error of the API: "
            f"{document['detail']} ({document['status']}){again}. With curl, --fail-with-body detects this."
        )


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
        waiting = f", {log['unsealed']} wait for the next" if log["unsealed"] else ""
        counted = f"{log['receipts']} receipts under {log['checkpoints']} checkpoints{waiting}"
        _say(f"holds       {log['tenantGid']}: {counted}")
    if found["wrong"] is not None:
        _say_wrong(found["wrong"])
    else:
        _say(f"holds       {found['attempts']} attempts, each with its receipt")


def _as_json(result: "BundleVerification") -> dict[str, Any]:
    return {
        "ok": result.ok,
        "statement": _statement(result.receipt) if result.receipt is not None else None,
        "proven": [asdict(finding) for finding in result.proven],
        "unproven": list(result.unproven),
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
