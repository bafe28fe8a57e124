"""The programs of docs/client.md, and those in docs/receiving.md that use the client, run against the real API."""

import ast
import os
import re
import signal
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from everhook.egress import EgressClient, EgressRules
from everhook.serving.server import bound_socket, serving
from everhook.signing.schemes import new_secret
from testing.api import API_KEY, ON_SHARED, ok
from testing.processes import Process
from testing.waiting import assert_eventually
from tests.sdk.conftest import Server
from tests.test_receiving import signed

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/client.md"


def snippets(page: Path) -> dict[str, str]:
    """The programs of a page, by the name in their first line."""
    found = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return {block.partition("\n")[0].removeprefix("# "): block for block in found}


OF_RECEIVING = {n: s for n, s in snippets(ROOT / "docs/receiving.md").items() if n.startswith("client_")}
SNIPPETS = snippets(PAGE) | OF_RECEIVING


class Program:
    """A program of the page in a folder of its own, for an endpoint."""

    def __init__(self, server: Server, folder: Path, name: str, gid: str = "", channel: str = "orders") -> None:
        (folder / name).write_text(SNIPPETS[name].replace('"orders"', f'"{channel}"'))
        environment = {"EVERHOOK_URL": server.url, "EVERHOOK_API_KEY": API_KEY, "ENDPOINT": gid}
        self.process = Process([sys.executable, name], log=folder / "log", env=environment, cwd=folder)

    async def succeeds(self) -> str:
        async with self.process:
            assert await self.process.wait(20) == 0, self.process.output()
        return self.process.output()


async def publish(server: Server, channel: str, *payloads: Any, type: str = "order.created") -> list[str]:
    """The deliveries' gids."""
    sent = [await server.api.publish(payload, channel, type=type) for payload in payloads]
    return [each["deliveries"][0]["deliveryGid"] for each in sent]


@ON_SHARED
async def test_publish_and_consume(server: Server, tmp_path: Path) -> None:
    channel, gid = await server.endpoint()
    (tmp_path / "publisher").mkdir()
    rejected, retried = await publish(server, channel, {"orderId": 1}, type="order.cancelled") + await publish(
        server, channel, {"orderId": 0}
    )
    consumer = Program(server, tmp_path, "consume.py", gid)
    async with consumer.process:
        output = await Program(server, tmp_path / "publisher", "publish.py", channel=channel).succeeds()
        assert output == f"{gid} delivered {{'invoice': '2026-0042'}}\n"
        await assert_eventually(lambda: _assert_in("handling", consumer.process.output()))
        await consumer.process.terminate()
    assert consumer.process.returncode == 0, consumer.process.output()
    attempts = {
        each: [(a["verdict"], a["errorDetail"]) for a in ok(await server.api.get(f"/v1/deliveries/{each}"))["attempts"]]
        for each in (rejected, retried)
    }
    assert attempts == {
        rejected: [("rejected", "cancelled orders are not handled here")],
        retried: [("retry", "not yet")],
    }


def _assert_in(part: str, text: str) -> None:
    assert part in text, text


@ON_SHARED
async def test_consume_asynchronously(server: Server, tmp_path: Path) -> None:
    channel, gid = await server.endpoint()
    await publish(server, channel, 1, 2)
    output = await Program(server, tmp_path, "consume_async.py", gid).succeeds()
    assert output.count("handling msg_") == 2
    assert await server.attempts(gid) == [("delivered", None)] * 2


@ON_SHARED
async def test_operate_and_errors(server: Server, tmp_path: Path) -> None:
    channel, _ = await server.endpoint()
    assert await Program(server, tmp_path, "operate.py", channel=channel).succeeds() == "0\n0\n"
    output = await Program(server, tmp_path, "errors.py").succeeds()
    assert output.startswith("422 invalid-request {") and "'rateLimit': " in output and "'format': " in output


@ON_SHARED
async def test_approve(server: Server, tmp_path: Path) -> None:
    channel, _ = await server.endpoint()
    gid = (await server.inbox(channel))["endpointGid"]
    for amount in (999, 5000):
        await server.api.publish({"amount": amount}, channel)
    output = await Program(server, tmp_path, "approve.py", gid).succeeds()
    assert re.fullmatch(r"asks ann@acme\.example\napproved rcp_\w+\n", output), output


async def test_receive_webhooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = new_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "webhooks"}
    exec(compile(SNIPPETS["webhooks.py"], "webhooks.py", "exec"), names)
    socket = bound_socket("127.0.0.1", 0, "port")
    url = f"http://127.0.0.1:{socket.getsockname()[1]}/webhooks"
    egress = EgressClient(EgressRules((ip_network("127.0.0.0/8"),), http=True))
    sent = signed(secret, payload=b'{"orderId": 7}')
    async with serving(names["app"], socket):
        requests = (sent, sent, signed(new_secret(), payload=b'{"orderId": 8}'))
        responses = [await egress.post(url, each.headers, each.body, timedelta(seconds=10)) for each in requests]
        await egress.aclose()
    assert [response.status for response in responses] == [200, 200, 401]
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        assert db.execute("SELECT order_id FROM paid").fetchall() == [(7,)]


@ON_SHARED
async def test_the_readme_of_the_package_names_only_what_exists(server: Server) -> None:
    (program,) = snippets(ROOT / "sdk/python/README.md").values()
    calls = {node.attr for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Attribute)}
    async with server.async_client() as client:
        assert all(hasattr(client, name) for name in calls)


@ON_SHARED
async def test_the_page_on_receiving(server: Server, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(SNIPPETS["client_verify.py"], names)
    secret = new_secret()
    sent = signed(secret, payload=b'{"orderId": 7}')
    assert names["receive"](secret, dict(sent.headers), sent.body) == (200, {"orderId": 7})
    assert names["receive"](new_secret(), dict(sent.headers), sent.body) == (401, None)

    channel, gid = await server.endpoint()
    await publish(server, channel, 1)
    consumer = Program(server, tmp_path, "client_consume.py", gid)
    async with consumer.process:
        await assert_eventually(lambda: _assert_in("handling msg_", consumer.process.output()))
        os.kill(consumer.process.pid, signal.SIGINT)
        assert await consumer.process.wait(20) != 0
    assert await server.attempts(gid) == [("delivered", None)]  # Ctrl-C does not lose the acknowledgement


def test_every_program_is_run() -> None:
    here = Path(__file__).read_text()
    assert len(SNIPPETS) == 9
    assert [name for name in SNIPPETS if f'"{name}"' not in here] == []
