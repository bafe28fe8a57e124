"""The receivers of the page on receiving, run: they accept genuine requests, refuse others, and keep each once."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import standardwebhooks
import svix

from everhook.circuit.machine import CircuitPolicy
from everhook.contracts import FailureCode, Verdict
from everhook.delivery.body_formats import BodyFormat, Content, render
from everhook.delivery.classify import classify
from everhook.delivery.policy import MAX_TIMEOUT, DeliveryPolicy
from everhook.egress import STORED_BODY_BYTES, EgressClient, EgressRules
from everhook.egress.client import MAX_RETRY_AFTER
from everhook.egress.connection import KEEP_ALIVE
from everhook.egress.pool import CONNECT_LIMIT
from everhook.ids import Kind, new_gid
from everhook.settings import Settings
from everhook.signing.schemes import (
    ed25519_key,
    new_private_key,
    new_secret,
    public_key,
    secret_key,
    signature_headers,
)
from testing.processes import Process, free_port
from testing.publisher import sample_payload
from testing.receiver import Receiver
from testing.waiting import assert_eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/receiving.md"
NODE_PACKAGES = Path(__file__).parent / "receiving"
LOOPBACK = EgressRules((ip_network("127.0.0.0/8"),), http=True)
LANGUAGES = ("python", "js", "go")
HOUR = 3600


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def snippet(language: str) -> str:
    """The page's one complete program in that language."""
    return named(language, "receiver")


def named(language: str, name: str) -> str:
    """The block whose first line is a comment with the file's name."""
    (source,) = (block for block in blocks(language) if block.partition("\n")[0].split()[1].startswith(f"{name}."))
    return str(source)


# Requests


@dataclass(frozen=True)
class Sent:
    """A request as the product makes it."""

    gid: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def with_header(self, name: str, value: str) -> "Sent":
        return replace(self, headers=(*((n, v) for n, v in self.headers if n != name), (name, value)))

    def without(self, prefix: str) -> "Sent":
        return replace(self, headers=tuple((n, v) for n, v in self.headers if not n.startswith(prefix)))

    def header(self, name: str) -> str:
        return dict(self.headers)[name]


def signed(
    *secrets: str,
    gid: str = "",
    attempt: int = 1,
    age: float = 0,
    format: BodyFormat = BodyFormat.ENVELOPE,
    payload: bytes = sample_payload(7),
    private_keys: Sequence[str] = (),
) -> Sent:
    """What an attempt sends `age` seconds ago, signed with `secrets` and `private_keys`, newest first."""
    gid = gid or new_gid(Kind.MESSAGE)
    content = Content(gid, "orders", "order.created", payload, datetime.now(UTC), attempt)
    media_type, body = render(format, content)
    keys = [secret_key(secret) for secret in secrets]
    ed25519_keys = [ed25519_key(key) for key in private_keys]
    headers = signature_headers(gid, int(time.time() - age), body, keys, ed25519_keys=ed25519_keys)
    return Sent(gid, (("content-type", media_type), *headers), body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def egress() -> AsyncIterator[EgressClient]:
    client = EgressClient(LOOPBACK)
    yield client
    await client.aclose()


# The programs of the page, running


@cache
def node_modules(cached: Path) -> Path:
    """What `package-lock.json` pins, installed once for each lock."""
    lock = NODE_PACKAGES / "package-lock.json"
    place = cached / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    if not place.exists():
        fresh = cached / f"{place.name}.{time.time_ns()}"
        shutil.copytree(NODE_PACKAGES, fresh)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=fresh, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr
        fresh.rename(place)
    return place / "node_modules"


class Program:
    """A receiver of the page in a folder of its own, with a secret and a port."""

    def __init__(self, language: str, folder: Path, cached: Path) -> None:
        self.language = language
        self.folder = folder
        self.secret = new_secret()
        self._port = free_port()
        self._cached = cached
        self._process: Process | None = None

    async def start(self, source: str) -> None:
        self._process = Process(
            self.command(source),
            log=self.folder / "receiver.log",
            env={"WEBHOOK_SECRET": self.secret, "PORT": str(self._port)},
            cwd=self.folder,
        )
        self._process.start()
        await assert_eventually(self._listens)

    def command(self, source: str) -> list[str | Path]:
        if self.language == "python":
            (self.folder / "receiver.py").write_text(source)
            options = ["--port", str(self._port), "--log-level", "warning"]
            return [sys.executable, "-m", "uvicorn", "receiver:app", *options]
        if self.language == "js":
            (self.folder / "receiver.mjs").write_text(source)
            modules = self.folder / "node_modules"
            if not modules.exists():
                modules.symlink_to(node_modules(self._cached))
            return ["node", "receiver.mjs"]
        (self.folder / "receiver.go").write_text(source)
        go("build", "receiver.go", folder=self.folder)
        return [self.folder / "receiver"]

    def _listens(self) -> None:
        assert self._process is not None
        self._process.check_alive()
        with socket.socket() as sock:
            assert sock.connect_ex(("127.0.0.1", self._port)) == 0, self._process.tail()

    async def kill9(self) -> None:
        assert self._process is not None
        await self._process.kill9()

    async def terminate(self) -> None:
        if self._process is not None:
            await self._process.terminate()

    async def takes(self, egress: EgressClient, sent: Sent) -> int | None:
        """Send it as a worker does; returns the status of the response."""
        url = f"http://127.0.0.1:{self._port}/webhooks"
        return (await egress.post(url, sent.headers, sent.body, timedelta(seconds=15))).status

    def log(self) -> str:
        return (self.folder / "receiver.log").read_text()

    def times_handled(self, gid: str) -> int:
        return len(re.findall(rf"^handling {gid} ", self.log(), re.MULTILINE))

    async def handles(self, gid: str) -> None:
        def once() -> None:
            assert self.times_handled(gid) == 1, self.log()

        await assert_eventually(once)

    async def settles(self, egress: EgressClient) -> None:
        """Wait until a message sent now is handled: earlier ones are handled before it."""
        last = signed(self.secret)
        assert await self.takes(egress, last) == 200
        await self.handles(last.gid)


def go(*arguments: str, folder: Path) -> None:
    """Run `go` with no way to download anything: the page promises the standard library only."""
    environment = {"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
    process = Process(["go", *arguments], log=folder / f"go-{arguments[0]}.log", env=environment, cwd=folder)
    process.start()
    while process.running:
        time.sleep(0.01)
    assert process.returncode == 0, process.tail()


NEEDS = {"python": (), "js": ("node", "npm"), "go": ("go",)}


def skip_without_tools(language: str) -> None:
    for tool in NEEDS[language]:
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} on this machine")


def cache_folder(config: pytest.Config) -> Path:
    assert config.cache is not None
    return config.cache.mkdir("receiving-node")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=LANGUAGES)
async def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Program]:
    skip_without_tools(request.param)
    program = Program(request.param, tmp_path_factory.mktemp(request.param), cache_folder(request.config))
    await program.start(snippet(request.param))
    yield program
    await program.terminate()


@pytest.mark.parametrize("format", BodyFormat)
async def test_a_genuine_request_is_accepted_and_handled(
    program: Program, egress: EgressClient, format: BodyFormat
) -> None:
    sent = signed(program.secret, format=format)
    assert await program.takes(egress, sent) == 200
    await program.handles(sent.gid)


async def test_the_largest_payload_is_accepted(program: Program, egress: EgressClient) -> None:
    size = Settings.model_fields["max_payload_bytes"].default
    sent = signed(program.secret, payload=b'{"event": "order.created", "text": "%b"}' % (b"x" * (size - 40)))
    assert size < len(sent.body)
    assert await program.takes(egress, sent) == 200
    await program.handles(sent.gid)


def _shifted(sent: Sent, seconds: int) -> Sent:
    """Change the time to another one than was signed."""
    return sent.with_header("webhook-timestamp", str(int(sent.header("webhook-timestamp")) + seconds))


FORGERIES: dict[str, Callable[[str], Sent]] = {
    "another secret": lambda secret: signed(new_secret()),
    "two other secrets": lambda secret: signed(new_secret(), new_secret()),
    "signed an hour ago": lambda secret: signed(secret, age=HOUR),
    "signed just too long ago": lambda secret: signed(secret, age=302),
    "signed in an hour": lambda secret: signed(secret, age=-HOUR),
    "a later time than signed": lambda secret: _shifted(signed(secret, age=HOUR), HOUR),
    "a longer body": lambda secret: replace(sent := signed(secret), body=sent.body + b" "),
    "another body": lambda secret: replace(sent := signed(secret), body=sent.body.replace(b"order", b"0rder")),
    "no body": lambda secret: replace(signed(secret), body=b""),
    "another id": lambda secret: signed(secret).with_header("webhook-id", new_gid(Kind.MESSAGE)),
    "no signature": lambda secret: signed(secret).without("webhook-signature"),
    "no time": lambda secret: signed(secret).without("webhook-timestamp"),
    "no id": lambda secret: signed(secret).without("webhook-id"),
    "nothing signed": lambda secret: signed(secret).without("webhook-"),
    "a time that is none": lambda secret: signed(secret).with_header("webhook-timestamp", "now"),
    "a signature that is none": lambda secret: signed(secret).with_header("webhook-signature", "v1"),
    "no base64": lambda secret: signed(secret).with_header("webhook-signature", "v1,*"),
    "another version": lambda secret: (sent := signed(secret)).with_header(
        "webhook-signature", sent.header("webhook-signature").replace("v1,", "v2,")
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_requests_that_are_not_genuine_are_refused(program: Program, egress: EgressClient, forgery: str) -> None:
    sent = FORGERIES[forgery](program.secret)
    assert await program.takes(egress, sent) == 401
    await program.settles(egress)
    assert program.times_handled(sent.gid) == 0


@pytest.mark.parametrize("age", [240, -240])
async def test_a_clock_skew_of_some_minutes_is_accepted(program: Program, egress: EgressClient, age: int) -> None:
    assert await program.takes(egress, signed(program.secret, age=age)) == 200


async def test_a_duplicate_gets_the_same_response_and_is_handled_once(program: Program, egress: EgressClient) -> None:
    first = signed(program.secret)
    again = signed(program.secret, gid=first.gid, attempt=2)
    assert first.body != again.body
    assert [await program.takes(egress, sent) for sent in (first, first, again)] == [200, 200, 200]
    await program.settles(egress)
    assert program.times_handled(first.gid) == 1


async def test_duplicates_at_the_same_moment_are_handled_once(program: Program, egress: EgressClient) -> None:
    gid = new_gid(Kind.MESSAGE)
    attempts = [signed(program.secret, gid=gid, attempt=n) for n in range(1, 21)]
    assert set(await asyncio.gather(*(program.takes(egress, sent) for sent in attempts))) == {200}
    await program.settles(egress)
    assert program.times_handled(gid) == 1


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_during_a_rotation_each_secret_verifies(program: Program, egress: EgressClient, place: int) -> None:
    secrets = [new_secret(), new_secret()]
    secrets.insert(place, program.secret)
    sent = signed(*secrets)
    assert len(sent.header("webhook-signature").split()) == 3
    assert await program.takes(egress, sent) == 200
    await program.handles(sent.gid)


async def test_a_message_that_cannot_be_stored_is_not_accepted_and_is_sent_again(
    program: Program, egress: EgressClient
) -> None:
    store = program.folder / ("inbox.db" if program.language == "python" else "written")
    sent = signed(program.secret)
    away = store.rename(program.folder / "away")
    status = await program.takes(egress, sent)
    away.replace(store)
    assert status is not None and status >= 500
    assert await program.takes(egress, sent) == 200
    await program.handles(sent.gid)


HANDLE = {
    "python": 'print("handling", message_id, event, flush=True)',
    "js": "console.log('handling', messageId, event)",
    "go": 'fmt.Println("handling", messageID, event)\n\treturn nil',
}
FAILING = {
    "python": 'raise RuntimeError("not today")',
    "js": "throw new Error('not today')",
    "go": 'return errors.New("not today")',
}
SLOW = {
    "python": f"{HANDLE['python']}\n    threading.Event().wait(0.5)",
    "js": f"{HANDLE['js']}\n  await new Promise((done) => setTimeout(done, 500))",
    "go": HANDLE["go"].replace("\treturn", "\ttime.Sleep(500 * time.Millisecond)\n\treturn"),
}


def handling(language: str, changed: dict[str, str]) -> str:
    """The page's program with another `handle`."""
    source = snippet(language)
    assert source.count(HANDLE[language]) == 1
    return source.replace(HANDLE[language], changed[language])


@pytest_asyncio.fixture(loop_scope="module", params=LANGUAGES)
async def unstarted(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Program]:
    skip_without_tools(request.param)
    program = Program(request.param, tmp_path, cache_folder(request.config))
    yield program
    await program.terminate()


async def test_accepted_messages_survive_a_kill_and_duplicates_are_detected_after_it(
    unstarted: Program, egress: EgressClient
) -> None:
    program, sent = unstarted, signed(unstarted.secret)
    await program.start(handling(program.language, FAILING))
    assert await program.takes(egress, sent) == 200
    await assert_eventually(lambda: _assert_in(f"{sent.gid} stays in the inbox", program.log()))
    await program.kill9()
    await program.start(snippet(program.language))
    await program.handles(sent.gid)
    assert await program.takes(egress, sent) == 200
    await program.settles(egress)
    assert program.times_handled(sent.gid) == 1


async def test_a_duplicate_that_comes_during_the_work_is_not_handled(unstarted: Program, egress: EgressClient) -> None:
    program, sent = unstarted, signed(unstarted.secret)
    await program.start(handling(program.language, SLOW))
    assert await program.takes(egress, sent) == 200
    await program.handles(sent.gid)
    assert await program.takes(egress, sent) == 200
    await program.settles(egress)
    assert program.times_handled(sent.gid) == 1


def _assert_in(part: str, text: str) -> None:
    assert part in text, text


async def test_a_receiver_without_a_secret_does_not_start(unstarted: Program) -> None:
    """With an empty key every client could sign."""
    command = unstarted.command(snippet(unstarted.language))

    async def status(secret: str | None) -> int:
        env = {"PORT": "0"} if secret is None else {"PORT": "0", "WEBHOOK_SECRET": secret}
        log = unstarted.folder / f"receiver-{secret}.log"
        async with Process(command, log=log, env=env, cwd=unstarted.folder) as process:
            return await process.wait(20)

    secrets = (None, "", "whsec_")
    found = await asyncio.gather(*map(status, secrets))
    assert [secret for secret, each in zip(secrets, found, strict=True) if each == 0] == []


async def test_the_program_in_go_passes_vet(tmp_path: Path) -> None:
    skip_without_tools("go")
    (tmp_path / "receiver.go").write_text(snippet("go"))
    go("vet", "receiver.go", folder=tmp_path)


# Third-party software, on the bytes that a receiver got

VERIFIERS: dict[str, Callable[[str], Any]] = {"standardwebhooks": standardwebhooks.Webhook, "svix": svix.Webhook}


@pytest.mark.parametrize("format", BodyFormat)
@pytest.mark.parametrize("library", VERIFIERS)
async def test_the_libraries_verify_the_exact_bytes_that_arrived(
    egress: EgressClient, library: str, format: BodyFormat
) -> None:
    old, new = new_secret(), new_secret()
    sent = signed(new, old, format=format)
    async with Receiver() as receiver:
        assert (await egress.post(receiver.url, sent.headers, sent.body, timedelta(seconds=5))).status == 200
        [arrival] = receiver.arrivals
    headers = dict(arrival.headers)
    for secret in (old, new):
        VERIFIERS[library](secret).verify(arrival.body, headers)
    for body, secret in ((arrival.body + b" ", new), (arrival.body, new_secret())):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            VERIFIERS[library](secret).verify(body, headers)


# The page on Ed25519, run: its functions accept signatures of the product and nothing else

PRIVATE_KEY, OTHER_PRIVATE_KEY = new_private_key(), new_private_key()


def both(**options: Any) -> Sent:
    return signed(new_secret(), private_keys=[PRIVATE_KEY], **options)


def with_v1a(sent: Sent, change: Callable[[str], str]) -> Sent:
    parts = [change(one) if one.startswith("v1a,") else one for one in sent.header("webhook-signature").split()]
    return sent.with_header("webhook-signature", " ".join(parts))


PUBLICLY: dict[str, tuple[Callable[[], Sent], bool]] = {
    "genuine": (both, True),
    "with the newer key next to it": (
        lambda: signed(new_secret(), private_keys=[OTHER_PRIVATE_KEY, PRIVATE_KEY]),
        True,
    ),
    "with the older key next to it": (
        lambda: signed(new_secret(), new_secret(), private_keys=[PRIVATE_KEY, OTHER_PRIVATE_KEY]),
        True,
    ),
    "a clock some minutes off": (lambda: both(age=240), True),
    "the secret alone": (lambda: signed(new_secret()), False),
    "another key": (lambda: signed(new_secret(), private_keys=[OTHER_PRIVATE_KEY]), False),
    "another body": (lambda: replace(sent := both(), body=sent.body + b" "), False),
    "another id": (lambda: both().with_header("webhook-id", new_gid(Kind.MESSAGE)), False),
    "signed an hour ago": (lambda: both(age=HOUR), False),
    "a later time than signed": (lambda: _shifted(both(age=HOUR), HOUR), False),
    "a time that is none": (lambda: both().with_header("webhook-timestamp", "now"), False),
    "no time": (lambda: both().without("webhook-timestamp"), False),
    "no signature": (lambda: both().without("webhook-signature"), False),
    "called v1": (lambda: with_v1a(both(), lambda one: one.replace("v1a,", "v1,")), False),
    "cut short": (lambda: with_v1a(both(), lambda one: one[:40]), False),
    "no base64": (lambda: with_v1a(both(), lambda one: "v1a,*"), False),
}

ASK_NODE = """
import { readFileSync } from 'node:fs'
import { isGenuine } from './v1a.mjs'
const asked = JSON.parse(readFileSync('asked.json'))
const results = asked.map(({ key, headers, body }) => isGenuine(key, headers, Buffer.from(body, 'base64')))
console.log(JSON.stringify(results))
"""


def by_python(folder: Path, requests: Sequence[Sent], key: str) -> list[bool]:
    names: dict[str, Any] = {}
    exec(named("python", "v1a"), names)
    return [names["is_genuine"](key, dict(sent.headers), sent.body) for sent in requests]


def by_node(folder: Path, requests: Sequence[Sent], key: str) -> list[bool]:
    asked = [
        {"key": key, "headers": dict(sent.headers), "body": base64.b64encode(sent.body).decode()} for sent in requests
    ]
    (folder / "asked.json").write_text(json.dumps(asked))
    (folder / "v1a.mjs").write_text(named("js", "v1a"))
    (folder / "ask.mjs").write_text(ASK_NODE)
    done = subprocess.run(["node", "ask.mjs"], cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    results: list[bool] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("language", ["python", "js"])
async def test_the_page_verifies_ed25519_signatures_and_takes_nothing_else(language: str, tmp_path: Path) -> None:
    skip_without_tools(language)
    verify = {"python": by_python, "js": by_node}[language]
    requests = [make() for make, _ in PUBLICLY.values()]
    results = verify(tmp_path, requests, public_key(PRIVATE_KEY))
    assert dict(zip(PUBLICLY, results, strict=True)) == {name: genuine for name, (_, genuine) in PUBLICLY.items()}


async def test_receivers_that_know_only_the_secret_accept_requests_with_ed25519_signatures(
    program: Program, egress: EgressClient
) -> None:
    sent = signed(new_secret(), program.secret, private_keys=[PRIVATE_KEY, OTHER_PRIVATE_KEY])
    assert [one.partition(",")[0] for one in sent.header("webhook-signature").split()] == ["v1", "v1", "v1a", "v1a"]
    assert await program.takes(egress, sent) == 200


# The text of the page


async def test_the_example_request_is_signed_with_the_secret_of_the_page() -> None:
    head, body = next(block for block in blocks("text") if block.startswith("POST ")).split("\n\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    (secret,) = re.findall(r"signed with `(whsec_[^`]+)`", PAGE.read_text())
    event = json.loads(body)
    published = datetime.fromisoformat(event["metadata"]["publishedAt"])
    payload = json.dumps(event["payload"], separators=(",", ":")).encode()
    content = Content(
        headers["webhook-id"], "orders", headers["x-webhook-event"], payload, published, event["metadata"]["attempt"]
    )
    assert (headers["content-type"], body.rstrip("\n").encode()) == render(BodyFormat.ENVELOPE, content)
    timestamp = int(headers["webhook-timestamp"])
    assert timestamp == published.timestamp()
    made = signature_headers(headers["webhook-id"], timestamp, body.rstrip("\n").encode(), [secret_key(secret)])
    assert made[:3] == [(name, headers[name]) for name in ("webhook-id", "webhook-timestamp", "webhook-signature")]


RESPONSES = {
    "`2xx`": [classify(200), classify(204)],
    "`5xx`": [classify(500), classify(599)],
    "no response (timeout, connection refused or reset, TLS, DNS)": [classify(None, FailureCode.TIMEOUT_TOTAL)],
    "`429`": [classify(429)],
    "`503` with `Retry-After`": [classify(503)],
    "`3xx`": [classify(301), classify(308)],
    "`410`": [classify(410)],
    "any other `4xx`": [classify(400), classify(401), classify(409)],
}
WORDS = {Verdict.DELIVERED: "Delivered", Verdict.RETRY: "Retried", Verdict.REJECTED: "Not retried"}


async def test_responses_mean_what_the_table_says() -> None:
    section = PAGE.read_text().split("\n## What your response means\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)[1:])
    assert rows.keys() == RESPONSES.keys()
    for response, classifications in RESPONSES.items():
        for classification in classifications:
            assert rows[response].startswith(WORDS[classification.verdict]), response
            assert classification.gone == ("disabled" in rows[response])


async def test_the_numbers_are_those_of_the_product() -> None:
    text, policy, circuit = " ".join(PAGE.read_text().split()), DeliveryPolicy(), CircuitPolicy()
    seconds, minutes = timedelta(seconds=1), timedelta(minutes=1)
    for sentence in (
        f"**{policy.timeout // seconds} seconds** in all",
        f"{MAX_TIMEOUT // seconds} seconds at most",
        f"above {Settings.model_fields['express_slow_ms'].default} ms",
        f"Retried: {policy.attempts - 1} more times",
        f"({MAX_RETRY_AFTER // timedelta(hours=1)} hours at most)",
        f"After {circuit.failure_threshold} failures in a row",
        f"no requests for {circuit.cooldown // seconds} seconds, then longer, up to {circuit.cooldown_max // minutes} ",
        f"fails for {circuit.disable_after.days} days",
        f"stored ({STORED_BODY_BYTES // 1024} KiB)",
        f"kept open for {KEEP_ALIVE // seconds} seconds",
        f"less than {CONNECT_LIMIT // seconds} seconds",
        f"up to {Settings.model_fields['max_payload_bytes'].default // 1024} KiB",
        f"keep it, {Settings.model_fields['dead_letter_retention_days'].default} days",
    ):
        assert sentence in text, sentence


async def test_the_lock_for_node_pins_what_the_page_installs_and_names_no_index() -> None:
    (installed,) = re.findall(r"^npm install (.+)$", PAGE.read_text(), re.MULTILINE)
    lock = json.loads((NODE_PACKAGES / "package-lock.json").read_text())
    (wanted, *packages) = lock["packages"].values()
    assert wanted["dependencies"] == json.loads((NODE_PACKAGES / "package.json").read_text())["dependencies"]
    assert sorted(installed.split()) == sorted(wanted["dependencies"])
    assert all("integrity" in package and "resolved" not in package for package in packages)
    assert "regis" + "try" not in (NODE_PACKAGES / "package-lock.json").read_text()
