"""Following a batch: a replay of a channel, or a bulk operation on dead letters."""

import time

import typer
from rich.text import Text

from cli.command import Session
from cli.following import FAILED
from everhook_client import calls
from everhook_client.models import Batch

PROGRESS_EVERY_S = 0.5


def follow(session: Session, gid: str) -> None:
    """Show the progress of a batch until it ends; it continues without this command. Exit with status 1 if it
    failed."""
    found = session.api.call(calls.get_batch(gid))
    if found["state"] == "running":
        again = f"everhook batches show {gid} --follow"
        session.out.note(f"following {gid}, which continues without this command; {again} follows it again")
    with session.out.progress() as progress:
        task = progress.add_task(_what(found), total=None)
        while True:
            progress.update(task, total=found["total"] or None, completed=found["completed"] + found["failed"])
            if found["state"] != "running":
                break
            time.sleep(PROGRESS_EVERY_S)
            found = session.api.call(calls.get_batch(gid))
    session.out.show(found, _ended)
    if found["state"] == "failed" or found["failed"]:
        raise typer.Exit(FAILED)


def _ended(batch: Batch) -> Text:
    parts = [f"{batch['completed']:,} of {batch['total']:,}"]
    parts += [f"{batch['failed']:,} failed"] if batch["failed"] else []
    if batch["kind"] == "channel_replay":
        parts += [f"{batch['started']:,} started", *left_out(batch)]
    is_good = batch["state"] == "completed" and not batch["failed"]
    return Text(f"{batch['state']}: {', '.join(parts)}", style="green" if is_good else "yellow")


def _what(batch: Batch) -> str:
    return "deliveries" if batch["kind"] == "channel_replay" else "dead letters"


def left_out(batch: Batch) -> list[str]:
    """What a replay did not send."""
    skipped = [f"{batch['skipped']:,} left alone"] if batch["skipped"] else []
    return [*skipped, *([f"{batch['erased']:,} without a payload"] if batch["erased"] else [])]
