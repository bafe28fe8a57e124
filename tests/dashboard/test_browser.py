"""The dashboard in a real browser, on a live stack: each page and what can be done on it."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from playwright.async_api import Page, Route, expect

from api.dashboard.assets import address
from everhook.durations import age
from everhook.receipts.bundle import verify
from testing.api import API_KEY, created, ok
from testing.script import Response, Step
from testing.waiting import assert_eventually
from tests.dashboard.conftest import DESKTOP, NARROW, PHONE, Stage, browsing
from tests.dashboard.visits import (
    ALL_BUT_CONTRAST,
    AXE,
    CONTRAST_ALONE,
    Visit,
    low_contrast_on,
    obstacles_on,
    routes_of_pages,
    visits_to_all_pages,
)

SIZES = (NARROW, PHONE, (640, 450), DESKTOP)
KEEP_ONE_OF_EACH = """lists => {
    document.querySelectorAll("svg .hit, svg.icon > *").forEach(each => each.remove());
    for (const list of document.querySelectorAll(lists)) {
        const seen = new Set();
        for (const each of [...list.children]) {
            const kinds = [...each.querySelectorAll("*")].map(part =>
                [part.tagName, part.getAttribute("class"), part.getAttribute("aria-current")].join("."));
            const look = [...new Set(kinds)].sort().join();
            seen.has(look) ? each.remove() : seen.add(look);
        }
    }
}"""
"""Keep one row of those that consist of the same parts: axe would check each of them."""

ROWS = "tbody, .cards, .timeline"
MENU = "nav ul"
"""The same on every page but for the current one: it is looked at as a whole on the first page."""

HEADINGS_AND_TITLE = """() => [
    [...document.querySelectorAll("h1:not([aria-hidden=true], [aria-hidden=true] *)")]
        .filter(each => each.offsetHeight && each.checkVisibility({visibilityProperty: true}))
        .map(each => each.innerText),
    document.title,
]"""
STICKING_OUT = """() => [
    ...(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : []),
    ...[...document.querySelectorAll(".panel")].filter(panel => panel.scrollWidth > panel.clientWidth + 1)
        .map(panel => "out of its panel: " + panel.textContent.trim().slice(0, 30)),
]"""

BROKEN_SENTENCES = """() => [...document.querySelectorAll("main *")]
    .filter(each => each.children.length && getComputedStyle(each).display.includes("grid"))
    .filter(each => [...each.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim()))
    .map(each => "in several blocks: " + each.textContent.trim().slice(0, 30))"""
"""Each part of a sentence in a grid stands in a block of its own."""

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def page(stage: Stage) -> AsyncIterator[Page]:
    """A signed-in tab on a desktop."""
    async with stage.tab() as tab:
        yield tab


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def visits(stage: Stage) -> list[Visit]:
    return await visits_to_all_pages(stage)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def portal(stage: Stage, visits: list[Visit]) -> str:
    """The cookie of a visitor who has opened a portal."""
    (tenant,) = [visit.path for visit in visits if visit.route == "/tenants/{gid}"]
    link = created(await stage.api.post(f"/v1{tenant}/portal-link"))["url"].rpartition("/")[2]
    async with browsing(stage.api) as visitor:
        opened = await visitor.http.post("/portal/open", data={"token": link})
    return opened.cookies["everhook_portal"]


async def a_channel(stage: Stage) -> str:
    name = f"c{uuid4().hex[:8]}"
    await stage.api.channel(name)
    return name


async def an_endpoint(stage: Stage, channel: str, *statuses: Step) -> tuple[str, str]:
    """An endpoint of its own tenant on the receiver, which responds with these statuses; its gid and its tenant."""
    tenant = f"t{uuid4().hex[:8]}"
    stage.receiver.respond(*statuses, path=f"/{tenant}")
    made = await stage.api.endpoint(stage.receiver.url_for(f"/{tenant}"), channel=channel, tenant=tenant)
    return made["endpointGid"], tenant


async def a_delivery(stage: Stage, channel: str, status: str) -> str:
    (delivery,) = (await stage.api.publish({"note": "hello"}, channel))["deliveries"]
    gid: str = delivery["deliveryGid"]
    await until(stage, gid, status)
    return gid


async def until(stage: Stage, gid: str, status: str) -> None:
    async def has_it() -> None:
        assert ok(await stage.api.get(f"/v1/deliveries/{gid}"))["status"] == status

    await assert_eventually(has_it)


# Sign-in


async def test_a_key_signs_in_and_its_owner_signs_out(stage: Stage) -> None:
    async with stage.tab(signed_in=False) as page:
        await page.goto("/deliveries")
        await expect(page).to_have_url(re.compile("/sign-in"))
        await page.get_by_label("API key").fill("not-the-key")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text("is not valid")
        await page.get_by_label("API key").fill(API_KEY)
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Deliveries")
        await page.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_label("API key")).to_be_visible()
        await page.goto("/")
        await expect(page).to_have_url(re.compile("/sign-in"))


# For all viewers


@contextlib.asynccontextmanager
async def wandering(stage: Stage, portal: str, **how: Any) -> AsyncIterator[Page]:
    """A tab that is signed in to the dashboard, and to a portal."""
    async with stage.tab(**how) as page:
        await page.context.add_cookies([{"name": "everhook_portal", "value": portal, "url": f"{stage.url}/portal"}])
        yield page


async def _open(page: Page, visit: Visit) -> None:
    """Without scripts and sessions where one would lead on: otherwise the page that opens a portal would send its form
    by itself, and a link that has ended would lead its visitor to the overview.

    No other page is intercepted, for meanwhile the browser does not use its cache.
    """
    if visit.route in ("/portal/open/{token}", "/sign-in/link/{link}"):
        await page.route(f"**{visit.path}", _as_a_stranger)
    await page.goto(visit.path)
    await page.unroute_all()


async def _as_a_stranger(route: Route) -> None:
    response = await route.fetch(headers={"cookie": ""})
    await route.fulfill(response=response, body=re.sub(r"<script.*?</script>", "", await response.text()))


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def findings(stage: Stage, visits: list[Visit], portal: str) -> dict[str, list[str]]:
    """The faults of all pages, by kind. Each page is loaded once: loading takes longer than checking."""
    found: dict[str, list[str]] = {"obstacles": [], "dark": [], "too wide": [], "titles": [], "broken": []}
    async with wandering(stage, portal) as page:
        await page.context.add_init_script(AXE)
        for visit in visits:
            for kind, faults in (await _faults_of(page, visit)).items():
                found[kind] += [f"{visit.path}: {fault}" for fault in faults]
    return found


async def _faults_of(page: Page, visit: Visit) -> dict[str, list[str]]:
    too_wide: list[str] = []
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})
    await _open(page, visit)
    for width, height in SIZES:
        await page.set_viewport_size({"width": width, "height": height})
        too_wide += [f"{width} px: {fault}" for fault in await page.evaluate(STICKING_OUT)]
    broken = await page.evaluate(BROKEN_SENTENCES)
    headings, title = await page.evaluate(HEADINGS_AND_TITLE)
    lists = ROWS if visit.path in ("/", "/portal/") else f"{ROWS}, {MENU}"
    await page.evaluate(KEEP_ONE_OF_EACH, lists)
    obstacles = await obstacles_on(page, ALL_BUT_CONTRAST) + await low_contrast_on(page)
    await page.emulate_media(color_scheme="dark")
    return {
        "obstacles": obstacles,
        "dark": await low_contrast_on(page),
        "too wide": too_wide,
        "titles": [] if len(headings) == 1 and "Everhook" in title else [f"{headings}"],
        "broken": broken,
    }


async def test_every_page_is_visited(stage: Stage, visits: list[Visit]) -> None:
    assert {visit.route for visit in visits} == routes_of_pages(stage.api.app)
    assert len(visits) > 35


async def test_no_page_has_serious_obstacles_for_assistive_technology(findings: dict[str, list[str]]) -> None:
    assert findings["obstacles"] == []


async def test_every_page_has_contrast_in_the_dark_too(findings: dict[str, list[str]]) -> None:
    assert findings["dark"] == []


async def test_pages_fit_narrow_and_enlarged_screens_without_scrolling_sideways(findings: dict[str, list[str]]) -> None:
    """320 pixels are a desktop at 400 %, 640 one at 200 %."""
    assert findings["too wide"] == []


async def test_every_page_has_a_title_and_one_heading(findings: dict[str, list[str]]) -> None:
    assert findings["titles"] == []


async def test_no_sentence_is_broken_over_several_blocks(findings: dict[str, list[str]]) -> None:
    assert findings["broken"] == []


async def test_the_actions_of_a_page_are_reachable_by_keyboard(stage: Stage, page: Page) -> None:
    await page.goto(f"/endpoints/{stage.scenery.of('acme').gid}")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    reached = [await _tab(page) for _ in range(12)]
    for wanted in ("Send a test message", "Pause", "Trip circuit", "Edit"):
        assert wanted in reached
    await page.get_by_role("button", name="Pause").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("dialog", name="Pause")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog", name="Pause")).to_be_hidden()
    await expect(page.get_by_role("button", name="Pause")).to_be_focused()


async def _tab(page: Page) -> str:
    await page.keyboard.press("Tab")
    assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    name: str = await page.evaluate("document.activeElement.textContent.trim()")
    return name


async def test_the_theme_is_chosen_and_kept(page: Page) -> None:
    async def is_dark() -> bool:
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in re.findall(r"\d+", colour)[:3]) < 200

    await page.goto("/channels")
    assert not await is_dark()
    await page.get_by_role("button", name="Dark").click()
    await expect(page).to_have_url(re.compile("/channels$"))
    assert await is_dark()
    await page.goto("/keys")
    assert await is_dark()


async def test_hostile_payloads_and_responses_are_shown_and_do_nothing(stage: Stage, page: Page) -> None:
    (dead,) = await stage.api.rows("SELECT gid, message_gid FROM delivery WHERE reason = 'exhausted' LIMIT 1")
    for path, region in ((f"/deliveries/{dead.gid}", "Body sent"), (f"/messages/{dead.message_gid}", "Payload")):
        await page.goto(path)
        payload = page.get_by_role("region", name=region)
        await expect(payload).to_contain_text("<script>document.title='owned'</script>")
        assert "owned" not in await page.title()
        assert await page.locator("main img:not([src])").count() == 0
        assert await page.locator("main script").count() == 0


async def test_filters_stand_in_line_where_one_of_them_is_wrong(page: Page) -> None:
    await page.goto("/dead-letters?endpointGid=nothing")
    await expect(page.locator(".filters > .field .mistake")).to_be_visible()
    tops = "parts => [...new Set(parts.map(each => Math.round(each.getBoundingClientRect().top)))]"
    assert len(await page.locator(".filters > .field label").evaluate_all(tops)) == 1
    fields = ".filters > .field select, .filters > .field input, .filters > .buttons > *"
    assert len(await page.locator(fields).evaluate_all(tops)) == 1


async def test_the_script_counts_ages_as_the_server_does(page: Page) -> None:
    seconds = [*range(0, 400, 7), 0.4, 0.6, 119.6, 150, 5_399, 7_199, 7_201, 86_399, 172_799, 172_801, 259_199, 1e7]
    spans = [sign * each for each in seconds for sign in (1, -1)]
    now = datetime(2026, 1, 31, tzinfo=UTC)
    await page.goto("/keys")
    counted = await page.evaluate(
        """async ([url, now, spans]) => {
            const { age } = await import(url);
            return spans.map(each => age(new Date(now - 1000 * each), new Date(now)));
        }""",
        [address("times.js"), now.timestamp() * 1_000, spans],
    )
    assert counted == [age(now - timedelta(seconds=each), now) for each in spans]


async def test_an_id_is_copied_by_its_button(stage: Stage, page: Page) -> None:
    gid = stage.scenery.of("acme").gid
    await page.goto(f"/endpoints/{gid}")
    await page.get_by_role("button", name=f"Copy {gid}").first.click()
    await expect(page.get_by_role("status").filter(has_text="Copied")).to_be_attached()
    assert await page.evaluate("navigator.clipboard.readText()") == gid


# Overview


async def test_the_overview_says_what_is_wrong_and_follows_it_live(stage: Stage, page: Page) -> None:
    await page.goto("/")
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await expect(page.get_by_role("link", name="circuits not closed")).to_be_visible()
    unhealthy = page.get_by_role("region", name="Unhealthy endpoints")
    endpoint, tenant = await an_endpoint(stage, await a_channel(stage), 200)
    await expect(unhealthy.get_by_text(tenant)).to_have_count(0)
    ok(await stage.api.post(f"/v1/endpoints/{endpoint}/circuit/trip"))
    await expect(unhealthy.get_by_text(tenant).first).to_be_visible()
    ok(await stage.api.post(f"/v1/endpoints/{endpoint}/circuit/reset"))
    await expect(unhealthy.get_by_text(tenant)).to_have_count(0)


async def test_a_live_update_takes_neither_a_click_nor_the_focus(page: Page) -> None:
    update, is_sent = asyncio.Event(), asyncio.Event()
    region = page.locator("[data-region=traffic]")

    async def send_one(route: Route) -> None:
        if is_sent.is_set():
            return await route.abort()
        await update.wait()
        markup = json.dumps({"traffic": await region.inner_html() + "<p>updated</p>"})
        await route.fulfill(content_type="text/event-stream", body=f"event: regions\ndata: {markup}\n\n")
        is_sent.set()

    await page.route("**/live", send_one)
    await page.goto("/")
    summary = page.get_by_text("Attempts a minute as a table")
    await summary.hover()
    await page.mouse.down()
    async with page.expect_event("requestfinished", lambda request: request.url.endswith("/live")):
        update.set()
    await expect(page.get_by_text("updated")).to_have_count(0)
    await page.mouse.up()
    await expect(page.get_by_text("updated")).to_be_visible()
    await expect(page.get_by_role("region", name="Attempts a minute").get_by_role("table").first).to_be_visible()
    await expect(summary).to_be_focused()


async def test_each_chart_has_its_figures_as_a_table(page: Page) -> None:
    await page.goto("/")
    await page.get_by_text("Attempts a minute as a table").click()
    table = page.get_by_role("region", name="Attempts a minute").get_by_role("table").first
    await expect(table.get_by_role("columnheader").nth(1)).to_have_text("delivered")
    assert await table.get_by_role("row").count() > 30


# Endpoints


async def test_endpoints_are_searched_and_sorted(stage: Stage, page: Page) -> None:
    await page.goto("/endpoints")
    await page.get_by_label("Search").fill("globex")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("row")).to_have_count(2)
    await page.goto("/endpoints?search=example")
    await page.get_by_role("columnheader").get_by_role("link", name="State").click()
    await expect(page.get_by_role("row").nth(1)).to_contain_text("open")
    await page.get_by_label("State").select_option("paused")
    await page.get_by_role("button", name="Apply").click()
    await expect(page.get_by_role("row").nth(1)).to_contain_text("initech")


async def test_an_endpoint_is_created_its_secret_shown_once_changed_and_deleted(stage: Stage, page: Page) -> None:
    channel, path = await a_channel(stage), f"/{uuid4().hex[:8]}"
    await page.goto("/endpoints/new")
    await page.get_by_label("URL").fill("http://10.0.0.1/internal")
    await page.get_by_role("button", name="Create endpoint").click()
    await expect(page.get_by_text("Nothing was saved")).to_be_visible()
    await expect(page.get_by_label("URL")).to_have_attribute("aria-invalid", "true")
    await page.get_by_label("URL").fill(stage.receiver.url_for(path))
    await page.get_by_label("Channel").select_option(channel)
    await page.get_by_label("Schedule").select_option("brisk")
    sent: list[str] = []

    async def take_long(route: Route) -> None:  # as long as a person takes for the second click
        sent.append(route.request.method)
        await asyncio.sleep(0.5)
        await route.continue_()

    await page.route("**/endpoints/new", take_long)
    await page.get_by_role("button", name="Create endpoint").dblclick(delay=100)
    await expect(page.get_by_text("shown this once")).to_be_visible()
    assert sent == ["POST"]
    await expect(page.get_by_text(re.compile("^whsec_")).first).to_be_visible()
    await page.get_by_role("link", name="Edit").first.click()
    await expect(page.get_by_text("whsec_")).to_have_count(0)
    await page.get_by_label("Description").fill("Ledger")
    await page.get_by_label("Schedule").select_option("delays")
    await page.get_by_label("Custom delays").fill("1 s, 2 min")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Saved.")).to_be_visible()
    await expect(page.get_by_text("Ledger")).to_be_visible()
    await expect(page.get_by_role("img", name="3 attempts within 2 min 1 s")).to_be_visible()
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("Deleted.")).to_be_visible()


async def test_an_endpoint_without_a_url_shows_its_queue_and_consumers(stage: Stage, page: Page) -> None:
    channel = await a_channel(stage)
    await page.goto("/endpoints/new")
    await page.get_by_label("Delivery mode").select_option("poll")
    for other in ("URL", "Custom headers", "Due after hours"):
        await expect(page.get_by_label(other, exact=True)).to_be_hidden()
    await page.get_by_label("Channel").select_option(channel)
    await page.get_by_label("Lease in seconds").fill("300")
    await page.get_by_label("Description").fill("Jobs of the ledger")
    await page.get_by_role("button", name="Create endpoint").click()
    await expect(page.get_by_role("heading", name="Jobs of the ledger")).to_be_visible()
    await expect(page.get_by_text("whsec_")).to_have_count(0)
    assert await page.evaluate(BROKEN_SENTENCES) == []
    await expect(page.get_by_text("No response was measured.")).to_be_visible()
    gid = page.url.rpartition("/")[2].partition("?")[0]
    for n in range(2):
        await stage.api.publish({"n": n}, channel)
    await stage.api.get(f"/v1/endpoints/{gid}/poll", limit=1, consumer="worker-3")
    await page.goto(f"/endpoints/{gid}")
    await expect(page.get_by_role("row", name="worker-3")).to_be_visible()
    assert await obstacles_on(page) == []
    await page.emulate_media(color_scheme="dark")
    assert await obstacles_on(page, CONTRAST_ALONE) == []
    await page.goto(f"/endpoints/{gid}/edit")
    await page.get_by_label("Maximum leased messages").fill("5")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("Saved.")).to_be_visible()


async def test_a_secret_is_rotated_and_the_new_one_shown_once(stage: Stage, page: Page) -> None:
    gid, _ = await an_endpoint(stage, await a_channel(stage), 200)
    await page.goto(f"/endpoints/{gid}")
    await page.get_by_role("button", name="Rotate secret").click()
    dialog = page.get_by_role("dialog", name="Rotate secret")
    await dialog.get_by_label("The old secret stays valid for").select_option("3600")
    await dialog.get_by_role("button", name="Rotate secret").click()
    await expect(page.get_by_text(re.compile("^whsec_")).first).to_be_visible()
    await page.goto(f"/endpoints/{gid}")
    await expect(page.get_by_text("whsec_")).to_have_count(0)


async def test_a_test_message_arrives_and_its_attempt_is_shown(stage: Stage, page: Page) -> None:
    is_shown = asyncio.Event()
    gid, _ = await an_endpoint(stage, await a_channel(stage), Response(until=is_shown))
    await page.goto(f"/endpoints/{gid}")
    await page.get_by_role("button", name="Send a test message").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("everhook.test")
    await expect(page.get_by_text("Its attempt is under way.")).to_be_visible()
    is_shown.set()
    await expect(page.get_by_text("HTTP 200", exact=True)).to_be_visible()  # without a reload
    await expect(page.get_by_text("x-webhook-event")).to_be_visible()


async def test_an_endpoint_is_paused_resumed_tripped_reset_disabled_and_enabled(stage: Stage, page: Page) -> None:
    gid, _ = await an_endpoint(stage, await a_channel(stage), 200)
    title = page.locator(".title")
    await page.goto(f"/endpoints/{gid}")
    for button, asked, state in (
        ("Pause", True, "paused"),
        ("Resume", False, "idle"),
        ("Trip circuit", True, "circuit open"),
        ("Reset circuit", False, "idle"),
        ("Disable", True, "disabled"),
        ("Enable", False, "idle"),
    ):
        await page.get_by_role("button", name=button, exact=True).click()
        if asked:
            await page.get_by_role("dialog", name=button).get_by_role("button", name=button).click()
        await expect(title).to_contain_text(state)
    history = page.get_by_role("region", name="Circuit")
    for event in ("Paused", "Resumed", "Circuit opened", "Circuit closed", "Disabled", "Enabled"):
        await expect(history.get_by_text(event, exact=True).first).to_be_visible()


# Deliveries and dead letters


async def test_a_delivery_shows_every_attempt_and_leads_to_its_workflow(stage: Stage, page: Page) -> None:
    channel = await a_channel(stage)
    await an_endpoint(stage, channel, 503, 200)
    gid = await a_delivery(stage, channel, "delivered")
    await page.goto(f"/deliveries/{gid}")
    attempts = page.get_by_role("region", name="Attempts")
    await expect(attempts.get_by_text("HTTP 503", exact=True)).to_be_visible()
    await expect(attempts.get_by_text("HTTP 200", exact=True)).to_be_visible()
    await expect(attempts.get_by_text("webhook-signature", exact=True).first).to_be_visible()
    await expect(page.get_by_role("link", name="Workflow")).to_have_attribute(
        "href", re.compile(rf"/namespaces/{stage.api.services.temporal.namespace}/workflows/delivery%2F{gid}$")
    )


async def test_a_receipt_is_verified_and_its_bundle_downloaded(stage: Stage, page: Page) -> None:
    channel = await a_channel(stage)
    await an_endpoint(stage, channel, 200)
    gid = await a_delivery(stage, channel, "delivered")
    await page.goto(f"/deliveries/{gid}")
    await page.get_by_role("link", name="Verify the receipt").click()
    await expect(page.locator(".title")).to_contain_text("holds")
    await expect(page.get_by_text("is signed by the key").first).to_be_visible()
    assert await obstacles_on(page) == []
    await stage.api.services.temporal.get_schedule_handle("seal-receipts").trigger()

    async def is_sealed() -> None:
        await page.reload()
        assert await page.get_by_text("not in a checkpoint yet").count() == 0

    await assert_eventually(is_sealed)
    await expect(page.get_by_text("verify with the bytes that were received")).to_be_visible()
    await expect(page.get_by_text("(--")).to_have_count(0)
    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Download the bundle").click()
    bundle = json.loads((await (await downloading.value).path()).read_text())
    assert verify(bundle).ok


async def test_the_next_attempt_is_made_now(stage: Stage, page: Page) -> None:
    channel = f"c{uuid4().hex[:8]}"
    await stage.api.channel(channel, policy={"delaysSeconds": [3600]})
    await an_endpoint(stage, channel, 503, 200)
    gid = await a_delivery(stage, channel, "retrying")
    await page.goto(f"/deliveries/{gid}")
    await expect(page.get_by_text("Next attempt")).to_be_visible()
    await page.get_by_role("button", name="Attempt now").click()
    await expect(page.get_by_text("The next attempt is being made")).to_be_visible()
    await until(stage, gid, "delivered")
    await page.reload()
    await expect(page.get_by_text("HTTP 200", exact=True)).to_be_visible()


async def test_one_dead_letter_is_replayed_with_a_reason(stage: Stage, page: Page) -> None:
    channel = await a_channel(stage)
    await an_endpoint(stage, channel, 404, 200)
    gid = await a_delivery(stage, channel, "dead_lettered")
    await page.goto(f"/deliveries/{gid}")
    await page.get_by_role("button", name="Replay").click()
    dialog = page.get_by_role("dialog", name="Replay")
    await dialog.get_by_label("Reason").fill("they fixed it")
    await dialog.get_by_role("button", name="Replay").click()
    await expect(page.get_by_text("Replay requested")).to_be_visible()
    await until(stage, gid, "delivered")
    await page.reload()
    await expect(page.get_by_text("they fixed it")).to_be_visible()
    await expect(page.get_by_role("heading", name="Round 2", exact=True)).to_be_visible()


async def test_a_refresh_keeps_selected_text_a_press_and_typed_text(stage: Stage, page: Page) -> None:
    channel = await a_channel(stage)
    await an_endpoint(stage, channel, 404)
    gid = await a_delivery(stage, channel, "dead_lettered")
    address = f"/deliveries/{gid}?notice=replay"
    await page.goto(address)
    button = page.get_by_role("button", name="Replay").first
    reason = page.get_by_role("dialog", name="Replay").get_by_label("Reason")
    async with page.expect_response(f"**{address}"):
        await page.evaluate("getSelection().selectAllChildren(document.querySelector('[data-region=page] h1'))")
    await page.wait_for_timeout(100)
    assert await page.evaluate("getSelection().toString()")
    async with page.expect_response(f"**{address}"):
        await button.hover()
        await page.mouse.down()
    await page.wait_for_timeout(100)
    await page.mouse.up()
    await expect(reason).to_be_visible()
    await reason.fill("they fixed it")
    async with page.expect_response(f"**{address}"):
        await page.keyboard.press("Escape")
    await page.wait_for_timeout(100)
    await button.click()
    await expect(reason).to_have_value("they fixed it")


async def test_selected_dead_letters_are_discarded(stage: Stage, page: Page) -> None:
    channel = await a_channel(stage)
    await an_endpoint(stage, channel, 404)
    gids = [await a_delivery(stage, channel, "dead_lettered") for _ in range(3)]
    await page.goto(f"/dead-letters?channel={channel}")
    await expect(page.get_by_role("button", name="Discard selected")).to_be_disabled()
    for gid in gids[:2]:
        await page.get_by_role("checkbox", name=re.compile(gid)).check()
    await page.get_by_role("button", name="Discard 2 selected").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Discard 2 dead letters")
    assert await obstacles_on(page) == []
    for gid in gids[:2]:
        await until(stage, gid, "dead_lettered")
    await page.get_by_label("Reason").fill("they asked us to")
    await page.get_by_role("button", name="Discard 2").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Dead letters")
    for gid in gids[:2]:
        await until(stage, gid, "discarded")
    await page.goto(f"/deliveries/{gids[0]}")
    await expect(page.get_by_text("they asked us to")).to_be_visible()
    await page.goto(f"/dead-letters?channel={channel}")
    await expect(page.get_by_role("row")).to_have_count(2)


async def test_all_that_match_are_counted_and_replayed_as_a_batch(stage: Stage, page: Page) -> None:
    channel = await a_channel(stage)
    await an_endpoint(stage, channel, 404, 404, 200)
    gids = [await a_delivery(stage, channel, "dead_lettered") for _ in range(2)]

    async def are_visible() -> None:
        workflows = await stage.api.services.temporal.count_workflows(
            f'Channel = "{channel}" AND DeliveryStatus = "dead_lettered"'
        )
        assert workflows.count == 2

    await assert_eventually(are_visible)
    await page.goto(f"/dead-letters?channel={channel}")
    await page.get_by_role("link", name="Replay all 2").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Replay 2 dead letters")
    await page.get_by_role("button", name="Replay 2").click()
    await expect(page.get_by_text("2 of 2 workflows")).to_be_visible()
    for gid in gids:
        await until(stage, gid, "delivered")


# Channels, keys and event types


async def test_a_channel_is_created_and_its_schedule_drawn(page: Page) -> None:
    name = f"c{uuid4().hex[:8]}"
    await page.goto("/channels/new")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Schedule").select_option("delays")
    await page.get_by_label("Custom delays").fill("soon")
    await page.get_by_role("button", name="Create channel").click()
    await expect(page.get_by_text("write it as")).to_be_visible()
    await page.get_by_label("Custom delays").fill("5 s, 1 min, 1 h 30 min")
    await page.get_by_role("button", name="Create channel").click()
    card = page.get_by_role("region", name=name)
    await expect(card.get_by_role("img", name="4 attempts within 1 h 31 min")).to_be_visible()
    await card.get_by_role("link", name="Edit").click()
    await expect(page.get_by_label("Custom delays")).to_have_value("5 s, 1 min, 90 min")


async def test_a_key_is_shown_once_and_its_revocation_ends_its_session_at_once(stage: Stage, page: Page) -> None:
    name = f"key {uuid4().hex[:8]}"
    await page.goto("/keys")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Everything, including keys and channels").check()
    await page.get_by_role("button", name="Create key").click()
    key = await page.get_by_role("status").locator("code").inner_text()
    async with stage.tab(signed_in=False) as other:
        await other.goto("/sign-in")
        await other.get_by_label("API key").fill(key)
        await other.get_by_role("button", name="Sign in").click()
        await expect(other.get_by_role("heading", level=1)).to_have_text("Overview")
        await page.goto("/keys")
        await expect(page.get_by_text(key)).to_have_count(0)
        row = page.get_by_role("row").filter(has_text=name)
        await row.get_by_role("button", name="Revoke").click()
        await row.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        await expect(page.get_by_role("row").filter(has_text=name)).to_contain_text("revoked")
        await other.goto("/endpoints")
        await expect(other).to_have_url(re.compile("/sign-in"))
    await page.goto("/audit")
    await expect(page.get_by_text("api_key.revoked").first).to_be_visible()


async def test_an_event_type_that_is_refused_keeps_its_input_and_is_then_created(stage: Stage, page: Page) -> None:
    name, schema = f"note.{uuid4().hex[:8]}", page.get_by_label("Schema of payloads")
    await page.goto("/event-types")
    await page.get_by_role("link", name="New event type").click()
    await page.get_by_label("Name").fill(name)
    await schema.fill('{"type": "text"}')
    await page.get_by_label("Deprecated").check()
    await page.get_by_role("button", name="Create event type").click()
    await expect(page.get_by_text("schema.type: ")).to_be_visible()
    await expect(schema).to_have_value('{"type": "text"}')
    await expect(schema).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Deprecated")).to_be_checked()
    assert await obstacles_on(page) == []
    await schema.fill('{"type": "string"}')
    await page.get_by_role("button", name="Create event type").click()
    await expect(page.get_by_text("Created.")).to_be_visible()
    assert ok(await stage.api.get(f"/v1/event-types/{name}"))["schema"] == {"type": "string"}


# The portal


async def test_a_tenant_signs_in_by_its_link_and_sees_only_its_own_resources(stage: Stage) -> None:
    channel = await a_channel(stage)
    _, tenant = await an_endpoint(stage, channel, 404, 200)
    delivery = await a_delivery(stage, channel, "dead_lettered")
    link = (await stage.api.post(f"/v1/tenants/{tenant}/portal-link")).json()["url"]
    path = "/portal/open/" + link.rpartition("/")[2]
    async with stage.tab(signed_in=False) as page:
        await page.goto(path)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        assert await obstacles_on(page) == []
        await page.get_by_role("link", name="Endpoints", exact=True).click()
        await expect(page.get_by_role("row")).to_have_count(2)
        assert await obstacles_on(page) == []
        await expect(page.get_by_role("link", name="Keys")).to_have_count(0)
        await page.goto(f"/portal/deliveries/{delivery}")
        assert await obstacles_on(page) == []
        await page.get_by_role("button", name="Replay").click()
        await page.get_by_role("dialog").get_by_role("button", name="Replay").click()
        await expect(page.get_by_text("Replay requested")).to_be_visible()
        await until(stage, delivery, "delivered")
        await page.goto(f"/portal/endpoints/{stage.scenery.of('globex').gid}")
        await expect(page.get_by_role("heading", level=1)).to_have_text("Not Found")
    async with stage.tab(signed_in=False) as page:
        await page.goto(path)
        await expect(page.get_by_role("heading", level=1)).to_have_text("This link has expired")


# Without JavaScript


async def test_everything_can_be_read_and_done_without_javascript(
    stage: Stage, visits: list[Visit], portal: str
) -> None:
    channel = await a_channel(stage)
    await an_endpoint(stage, channel, 404, 200)
    gid = await a_delivery(stage, channel, "dead_lettered")
    async with wandering(stage, portal, javascript=False) as page:
        for visit in visits:
            await page.goto(visit.path)
            headings, _ = await page.evaluate(HEADINGS_AND_TITLE)
            assert len(headings) == 1, visit.path
        await page.goto(f"/dead-letters?channel={channel}")
        await page.get_by_role("checkbox", name=re.compile(gid)).check()
        await page.get_by_role("button", name="Replay selected").click()
        await expect(page.get_by_text("Replay requested")).to_be_visible()
        await until(stage, gid, "delivered")


async def test_the_api_reference_works_without_files_of_other_hosts(stage: Stage) -> None:
    asked_for: list[str] = []
    async with stage.tab(signed_in=False) as page:
        page.on("request", lambda request: asked_for.append(request.url))
        await page.goto("/redoc")
        await page.locator("#operations-tag-health").click(timeout=30_000)
        await page.locator("#operations-health-getVersion .opblock-summary-control").click()
        await page.get_by_role("button", name="Try it out").click()
        await page.get_by_role("button", name="Execute").click()
        await expect(page.locator(".live-responses-table")).to_contain_text('"version"')
    assert [url for url in asked_for if not url.startswith((stage.url, "data:"))] == []
