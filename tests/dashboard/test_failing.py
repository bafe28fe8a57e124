"""Every kind of error, in a real browser: the page that is shown, and its links back."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from everhook.temporal.client import connect
from testing.api import Api, on_a_port, running_api
from testing.processes import refusing_port
from tests.api.conftest import copied
from tests.dashboard.conftest import browsing, tab

pytestmark = pytest.mark.asyncio(loop_scope="session")


@contextlib.asynccontextmanager
async def an_api_without_temporal(
    migrated_file: Path, directory: Path, browser: Browser
) -> AsyncIterator[tuple[Api, Page]]:
    """An API without Temporal, and a tab that is signed in to it."""
    unreachable = await connect(lazy=True, target_host=f"127.0.0.1:{refusing_port()}")
    async with running_api(copied(migrated_file, directory), unreachable) as api, browsing(api) as visitor:
        cookie = (await visitor.sign_in()).cookies["everhook_session"]
        async with on_a_port(api.app) as port, tab(browser, f"http://127.0.0.1:{port}", cookie) as page:
            yield api, page


async def visit(page: Page, path: str, status: int) -> None:
    """Open the address; the response has this status and is a page of the dashboard."""
    response = await page.goto(path)
    assert response is not None and response.status == status
    await _is_a_page_of_the_dashboard(page, status)


async def _is_a_page_of_the_dashboard(page: Page, status: int) -> None:
    await expect(page.locator(".failure-status")).to_contain_text(f"{status}")
    await expect(page.get_by_role("heading", level=1)).to_have_count(1)
    await expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
    await expect(page.get_by_role("main").get_by_role("link", name="To the overview")).to_be_visible()


async def test_every_error_is_a_page_that_leads_back_to_the_dashboard(
    browser: Browser, migrated_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with an_api_without_temporal(migrated_file, tmp_path, browser) as (api, page):
        gid = (await api.endpoint())["endpointGid"]

        await visit(page, "/nothing-here", 404)
        await visit(page, "/deliveries/dlv_none", 404)
        await page.get_by_role("link", name="All deliveries").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Deliveries")
        await visit(page, f"/endpoints/{gid}/pause", 405)
        await visit(page, "/endpoints?page=first", 422)
        await visit(page, "/deliveries?cursor=made-up", 422)

        # Temporal is unavailable, and a button is pressed.
        await page.get_by_role("link", name="Endpoints", exact=True).click()
        await page.get_by_role("link", name="127.0.0.1").click()
        await page.get_by_role("button", name="Pause").click()
        await page.get_by_role("dialog", name="Pause").get_by_role("button", name="Pause").click()
        await _is_a_page_of_the_dashboard(page, 503)
        await expect(page.get_by_text("Temporal does not respond")).to_be_visible()
        await page.get_by_role("button", name="Dark").click()
        await expect(page.get_by_role("button", name="Trip circuit")).to_be_visible()

        # A form of a session that has ended.
        await page.locator("input[name=form_token]").evaluate_all("all => all.forEach(each => each.value = 'old')")
        await page.get_by_role("button", name="Pause").click()
        await page.get_by_role("dialog", name="Pause").get_by_role("button", name="Pause").click()
        await _is_a_page_of_the_dashboard(page, 403)
        await page.get_by_role("link", name="Back to the page").click()
        await expect(page.get_by_role("button", name="Pause")).to_be_visible()

        with monkeypatch.context() as broken:
            broken.setattr("everhook.publishing.store.page", None)
            await visit(page, "/messages", 500)
        await page.get_by_role("link", name="Try again").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Messages")

        await api.change_rows("ALTER TABLE message RENAME TO message_away")
        await visit(page, "/messages", 503)
        await expect(page.get_by_text("The database does not respond")).to_be_visible()
        await api.change_rows("ALTER TABLE message_away RENAME TO message")
        await page.get_by_role("link", name="Try again").click()
        await expect(page.get_by_text("No messages yet")).to_be_visible()
