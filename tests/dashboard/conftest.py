"""One live stack for the browser tests: Temporal, workers, a receiver, the API on a socket, and Chromium.

`browser` is Chromium alone, for tests that start a server of their own. `pages` needs neither a browser nor Temporal:
it asks for pages as a signed-in browser would.
"""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, CDPSession, Page, async_playwright

from api.dashboard.live import Broadcaster
from api.dashboard.pages import PORTAL
from api.dashboard.sessions import PORTAL_COOKIE, SESSION_COOKIE
from everhook.health.alerts_store import endpoint_limits
from everhook.health.overview_store import HealthBoard
from everhook.health.service import HealthService
from everhook.storage.engine import Database
from everhook.storage.keyring import KeyRing
from testing.api import API_KEY, MASTER_KEY, Api, on_a_port, running_api
from testing.in_process import running_in_process
from testing.processes import Process, free_port, refusing_port
from testing.receiver import Receiver
from tests.api.conftest import copied, migrated_file
from tests.dashboard.scenery import Scenery

__all__ = ["migrated_file"]

_BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _BROWSERS)), None)
"""The shell has no interface of its own: the tests take two thirds of the CPU time that they take with the browser."""

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

WATCH_POLICY = """
    window.violations = 0;
    document.addEventListener("securitypolicyviolation", () => { window.violations += 1; });
"""
DESKTOP, PHONE, NARROW = (1280, 900), (390, 844), (320, 700)


@dataclass
class Pages:
    """The dashboard as a browser without JavaScript sees it."""

    http: httpx.AsyncClient
    api: Api
    tokens: dict[str, str] = field(default_factory=dict)
    """The form tokens of the sessions that have sent forms: all pages of a session have the same one."""

    async def sign_in(self, key: str = API_KEY) -> httpx.Response:
        return await self.http.post("/sign-in", data={"key": key})

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def token(self, path: str = "/event-types") -> str:
        """The form token of a page."""
        return (await self.get(path)).text.partition('name="form_token" value="')[2].partition('"')[0]

    async def send(self, path: str, **fields: Any) -> httpx.Response:
        """A form, as the dashboard's pages send it."""
        base, cookie = (PORTAL, PORTAL_COOKIE) if path.startswith(PORTAL) else ("", SESSION_COOKIE)
        session = self.http.cookies.get(cookie) or ""
        if session not in self.tokens:
            self.tokens[session] = await self.token(f"{base}/event-types")
        return await self.http.post(path, data={"form_token": self.tokens[session], **fields})

    async def shown_after(self, sent: httpx.Response) -> httpx.Response:
        """The page that a form leads to."""
        assert sent.status_code == 303, sent.text
        return await self.get(sent.headers["location"])


@asynccontextmanager
async def browsing(api: Api) -> AsyncIterator[Pages]:
    transport = httpx.ASGITransport(api.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://everhook.test") as http:
        yield Pages(http, api)


@pytest_asyncio.fixture
async def pages(migrated_file: Path, tmp_path: Path) -> AsyncIterator[Pages]:
    """No user is signed in yet; Temporal is stopped."""
    async with running_api(copied(migrated_file, tmp_path)) as api, browsing(api) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session", scope="package")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here; on Debian: apt install chromium-headless-shell")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        await running.close()


@asynccontextmanager
async def tab(browser: Browser, url: str, cookie: str | None = None, *, javascript: bool = True) -> AsyncIterator[Page]:
    """A browser of its own, on a desktop; with the cookie it is signed in.

    Nothing may violate the content policy, and no script may fail."""
    context = await browser.new_context(
        viewport={"width": DESKTOP[0], "height": DESKTOP[1]},
        color_scheme="light",
        base_url=url,
        java_script_enabled=javascript,
        permissions=["clipboard-read", "clipboard-write"],
    )
    context.set_default_timeout(10_000)
    if cookie is not None:
        await context.add_cookies([{"name": "everhook_session", "value": cookie, "url": url}])
    await context.add_init_script(WATCH_POLICY)
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
    try:
        yield page
        if javascript:
            assert await page.evaluate("window.violations") == 0
        assert faults == []
    finally:
        await context.close()


@dataclass
class Stage:
    """Everything real. `scenery` has filled the database with a day of traffic of other tenants."""

    url: str
    api: Api
    receiver: Receiver
    browser: Browser
    scenery: Scenery
    cookie: str

    def tab(self, *, javascript: bool = True, signed_in: bool = True) -> AbstractAsyncContextManager[Page]:
        return tab(self.browser, self.url, self.cookie if signed_in else None, javascript=javascript)


@pytest_asyncio.fixture(loop_scope="session", scope="package")
async def stage(
    browser: Browser, migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    directory = tmp_path_factory.mktemp("stage")
    settings = copied(migrated_file, directory).model_copy(update={"temporal_ui_url": "http://127.0.0.1:8233"})
    async with AsyncExitStack() as opened:
        database = Database(settings.database_url)
        opened.push_async_callback(database.close)
        scenery = Scenery(database, KeyRing.from_settings(settings))
        await scenery.build()
        running = await opened.enter_async_context(running_in_process(settings, directory))
        _follow_often(running.api)
        url = f"http://127.0.0.1:{await opened.enter_async_context(on_a_port(running.api.app))}"
        async with browsing(running.api) as visitor:
            cookie = (await visitor.sign_in()).cookies["everhook_session"]
        yield Stage(url, running.api, running.receiver, browser, scenery, cookie)


def _follow_often(api: Api) -> None:
    """Look for changes, and read the figures of the overview, each half second instead of every few seconds."""
    state, settings = api.app.state, api.services.settings
    health = HealthService(HealthBoard(api.database, cached_seconds=0.5), endpoint_limits(settings))
    state.services = replace(api.services, health=health)
    state.dashboard = replace(state.dashboard, broadcaster=Broadcaster(every_seconds=0.5))


@asynccontextmanager
async def serve(database_url: str, directory: Path) -> AsyncIterator[tuple[Process, str]]:
    """`everhook serve`, and its address. Temporal is away."""
    port = free_port()
    env = {
        "EVERHOOK_DATABASE_URL": database_url,
        "EVERHOOK_API_KEY": API_KEY,
        "EVERHOOK_MASTER_KEYS": MASTER_KEY,
        "EVERHOOK_ISSUER": "hooks.example.com",
        "TEMPORAL_ADDRESS": f"127.0.0.1:{refusing_port()}",
    }
    command = [sys.executable, "-m", "cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    async with Process(command, log=directory / "serve.log", env=env, forked=True) as process:
        await process.wait_ready(url=f"http://127.0.0.1:{port}/sign-in")
        yield process, f"http://127.0.0.1:{port}"


async def count_bytes(session: CDPSession) -> list[float]:
    """Clear the browser's cache; returns the list to which the sizes of all further loads are added."""
    received: list[float] = []
    await session.send("Network.clearBrowserCache")
    await session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    return received
