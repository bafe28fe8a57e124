"""Live pages, and a server that ends while they are open: real processes, and a real browser."""

import asyncio
import contextlib
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from playwright.async_api import Browser, expect

from api import dashboard
from everhook.serving.server import PRODUCTION_GRACE_S
from testing.api import API_KEY, on_a_port
from testing.waiting import assert_eventually
from tests.api.conftest import copied
from tests.dashboard.conftest import Pages, serve, tab

PROMPTLY_S = PRODUCTION_GRACE_S * 0.75
"""Shorter than the time either server would wait for running requests."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_server_with_open_dashboards_ends_promptly_and_they_come_back_with_it(
    browser: Browser, migrated_file: Path, tmp_path: Path
) -> None:
    async with (
        serve(copied(migrated_file, tmp_path).database_url, tmp_path) as (process, url),
        tab(browser, url) as page,
    ):
        await page.goto("/sign-in")
        await page.get_by_label("API key").fill(API_KEY)
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
        began = time.monotonic()
        await process.terminate()
        assert time.monotonic() - began < PROMPTLY_S
        assert "Cancel" not in process.output()
        await expect(page.get_by_text("not live since")).to_be_visible()
        process.start()
        await expect(page.get_by_text("live", exact=True)).to_be_visible(timeout=20_000)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_server_inside_another_process_does_not_wait_for_open_dashboards_either(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `everhook dev` runs it."""
    monkeypatch.setattr("everhook.serving.server.GRACE_S", PRODUCTION_GRACE_S)
    app = pages.api.app
    await pages.sign_in()
    async with contextlib.AsyncExitStack() as server:
        port = await server.enter_async_context(on_a_port(app, lambda: dashboard.end_streams(app)))
        following = asyncio.create_task(_follow(port, pages.http.cookies["everhook_session"]))
        await assert_eventually(lambda: _assert_followed(app))
        began = time.monotonic()
    assert time.monotonic() - began < PROMPTLY_S
    assert await following


def _assert_followed(app: FastAPI) -> None:
    assert app.state.dashboard.broadcaster.scopes


async def _follow(port: int, session: str) -> bool:
    """Listen until the stream ends. False where it was cut off."""
    async with httpx.AsyncClient(timeout=30, trust_env=False, cookies={"everhook_session": session}) as http:
        try:
            async with http.stream("GET", f"http://127.0.0.1:{port}/live") as response:
                async for _ in response.aiter_lines():
                    pass
        except httpx.RemoteProtocolError:
            return False
    return True
