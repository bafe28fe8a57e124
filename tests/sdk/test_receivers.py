"""Helpers for receivers of webhooks: `Webhook`, `Seen`, and the dependency for FastAPI, with real requests."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI

import everhook_client
from everhook.delivery.body_formats import BodyFormat
from everhook.egress import EgressClient, EgressRules
from everhook.serving.server import bound_socket, serving
from everhook.signing.schemes import new_secret
from everhook_client import InvalidSignature, Seen, Webhook, WebhookMessage
from everhook_client.fastapi import verified
from tests.test_receiving import FORGERIES, Sent, signed


@pytest.mark.parametrize("format", BodyFormat)
def test_a_genuine_request_is_parsed_in_any_body_format(format: BodyFormat) -> None:
    secret = new_secret()
    sent = signed(secret, format=format, payload=b'{"event": "order.created", "id": "x", "data": 1}')
    message = Webhook(secret).verify({name.title(): value for name, value in sent.headers}, sent.body)
    assert (message.gid, message.raw) == (sent.gid, sent.body)
    assert message.payload == {"event": "order.created", "id": "x", "data": 1}
    assert message.type == ("order.created" if format in (BodyFormat.EVENT, BodyFormat.CLOUDEVENTS) else "")


@pytest.mark.parametrize("forgery", FORGERIES)
def test_requests_that_are_not_genuine_are_refused(forgery: str) -> None:
    secret = new_secret()
    sent = FORGERIES[forgery](secret)
    with pytest.raises(InvalidSignature) as caught:
        Webhook(secret, new_secret()).verify(dict(sent.headers), sent.body)
    assert secret not in str(caught.value) and caught.value.__cause__ is None


def test_a_body_that_is_not_text_is_refused() -> None:
    secret = new_secret()
    with pytest.raises(InvalidSignature):
        Webhook(secret).verify(dict(signed(secret).headers), b"\xff")


def test_any_of_several_secrets_verifies_and_requests_of_a_rotation_too() -> None:
    old, new = new_secret(), new_secret()
    for sent in (signed(old), signed(new), signed(new, old)):
        assert Webhook(old, new).verify(dict(sent.headers), sent.body).gid == sent.gid
    both = signed(new, old)
    assert Webhook(old).verify(dict(both.headers), both.body) == Webhook(new).verify(dict(both.headers), both.body)


@pytest.mark.parametrize("secrets", [(), ("",), ("whsec_",), ("whsec_é",), ("whsec_A",)])
def test_an_invalid_secret_is_refused_without_showing_it(secrets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="secret"):
        Webhook(*secrets)


# Seen


class Formatted:
    """A connection of a driver with `%s`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def cursor(self) -> Any:
        cursor = self._db.cursor()

        class Translating:
            rowcount = property(lambda _: cursor.rowcount)

            def execute(self, statement: str, parameters: Any) -> None:
                cursor.execute(statement.replace("%s", "?"), parameters)

            def close(self) -> None:
                cursor.close()

        return Translating()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "receiver.db")) as db:
        yield db


def test_a_message_is_new_once_or_again_if_its_handler_failed(db: sqlite3.Connection) -> None:
    seen = Seen()
    seen.create_table(db)
    seen.create_table(db)
    with pytest.raises(RuntimeError), db:
        assert seen.is_new(db, "msg_1")
        raise RuntimeError("the work failed")
    with db:
        assert seen.is_new(db, "msg_1")
    with db:
        assert not seen.is_new(db, "msg_1")
        assert seen.is_new(db, "msg_2")


def test_seen_works_with_other_drivers_and_tables_and_forgets_old_messages(db: sqlite3.Connection) -> None:
    other = Formatted(db)
    seen = Seen("of_shop", paramstyle="format")
    seen.create_table(other)
    assert [seen.is_new(other, "msg_1"), seen.is_new(other, "msg_1")] == [True, False]
    assert seen.forget(other) == 0
    db.execute("UPDATE of_shop SET seen_at = seen_at - 3000")
    assert seen.forget(other, timedelta(minutes=30)) == 1
    assert seen.is_new(other, "msg_1")
    for wrong in ({"table": "a; b"}, {"table": ""}, {"paramstyle": "named"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Seen(**wrong)


def test_two_concurrent_transactions_handle_a_message_once(tmp_path: Path) -> None:
    file, seen = tmp_path / "receiver.db", Seen()
    with closing(sqlite3.connect(file)) as db:
        seen.create_table(db)
    together, found = threading.Barrier(4), []

    def work() -> None:
        with closing(sqlite3.connect(file, timeout=10)) as db, db:
            together.wait()
            found.append(seen.is_new(db, "msg_1"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, False, False, True]


# FastAPI


async def test_the_dependency_returns_the_message_and_refuses_requests_that_are_not_genuine() -> None:
    secret, app = new_secret(), FastAPI()
    received: list[WebhookMessage] = []

    @app.post("/webhooks")
    def receive(
        message: Annotated[WebhookMessage, Depends(verified(Webhook(secret), max_body_bytes=10_000))],
    ) -> None:
        received.append(message)

    socket = bound_socket("127.0.0.1", 0, "port")
    url = f"http://127.0.0.1:{socket.getsockname()[1]}/webhooks"
    egress = EgressClient(EgressRules((ip_network("127.0.0.0/8"),), http=True))

    async def status(sent: Sent) -> int | None:
        return (await egress.post(url, sent.headers, sent.body, timedelta(seconds=10))).status

    async with serving(app, socket):
        sent = signed(secret)
        assert await status(sent) == 200
        assert await status(signed(new_secret())) == 401
        assert await status(signed(secret).without("webhook-")) == 401
        assert await status(signed(secret, payload=b'"' + b"x" * 10_000 + b'"')) == 413
        await egress.aclose()
    assert [message.gid for message in received] == [sent.gid]
    await asyncio.sleep(0)


# The package


def test_receivers_do_not_load_the_http_client() -> None:
    code = (
        "import sys; from everhook_client import Seen, Webhook, models; print('everhook_client.client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_exported_name_exists() -> None:
    assert {name for name in everhook_client.__all__ if getattr(everhook_client, name) is None} == set()
    with pytest.raises(AttributeError):
        _ = everhook_client.nothing
