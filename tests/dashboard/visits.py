"""Every page of the dashboard, by its route, so that checks of one page run for all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import axe_playwright_python  # type: ignore[import-untyped]
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from playwright.async_api import JSHandle, Page

from api import problem_types
from api.dashboard.pages import PORTAL, PageRoute
from api.dashboard.sign_in_link import make_link
from testing.api import Api, created, ok
from testing.waiting import assert_eventually
from tests.dashboard.conftest import Stage

NO_PAGES = ("/live", "/bundle", "/body")
"""The other GET routes: a stream, and downloads."""

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
CONTRAST_ALONE = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
ALL_BUT_CONTRAST = {**RULES, "rules": {"color-contrast": {"enabled": False}}}

SERIOUS = """async ([elements, options]) => elements && !elements.length ? []
    : (await axe.run(elements ? {include: elements} : document, options)).violations
        .filter(each => ["serious", "critical"].includes(each.impact))
        .map(each => `${each.id} at ${each.nodes[0].target}`)"""
"""In the page, for the results are large: all that was checked is in them."""

NEW_LOOKS = """() => {
    const looks = new Map(JSON.parse(sessionStorage.looks ?? "[]")), found = [];
    const walk = (each, above, isIncluded) => {
        const style = getComputedStyle(each);
        const texts = [...each.childNodes].filter(node => node.nodeType === Node.TEXT_NODE);
        const look = [
            above, each.tagName, each.getAttribute("class"), each.type, each.disabled, each.ariaDisabled,
            each.checkVisibility({visibilityProperty: true}),
            Math.min(texts.map(node => node.data).join("").trim().length, 2),
            style.color, style.backgroundColor, style.backgroundImage, style.opacity, style.fontSize, style.fontWeight,
        ].join();
        const isNew = !looks.has(look);
        if (isNew) looks.set(look, looks.size);
        if (isNew && !isIncluded) found.push(each);
        for (const child of each.children) walk(child, looks.get(look), isNew);
    };
    walk(document.documentElement, "", false);
    sessionStorage.looks = JSON.stringify([...looks]);
    return found;
}"""
"""The elements of the page that look like none that this tab has seen, by all that their contrast depends on: colours,
size and amount of their text, and the same of the elements around them. Most of a page looks like the page before."""


@dataclass(frozen=True)
class Visit:
    """A way to see the page of a route."""

    route: str
    path: str

    @property
    def signed_in(self) -> bool:
        return self.route not in ("/sign-in", "/sign-in/link/{link}", "/portal/open/{token}", "/t/{token}")


def routes_of_pages(app: FastAPI) -> set[str]:
    contexts = iter_route_contexts(app.router.routes)
    return {
        str(context.path)
        for context in contexts
        if isinstance(context.original_route, PageRoute)
        and "GET" in (context.methods or ())
        and not str(context.path).endswith(NO_PAGES)
    }


async def visits_to_all_pages(stage: Stage) -> list[Visit]:
    """At least one visit to each route, and more for routes with several appearances."""
    ids = await _something_of_everything(stage)
    tenant = ids["tenant"]
    link = created(await stage.api.post(f"/v1/tenants/{tenant}/portal-link"))["url"].rpartition("/")[2]
    values = {**ids, "token": link, "link": make_link(stage.api.app, "").rpartition("/")[2]}
    task = f"/v1/tasks/{ids['inbox']}"
    for_ann = created(await stage.api.post(f"{task}/links", {"assignee": "ann"}))["url"].rpartition("/")[2]
    decided = ids["decided"]
    visits = [Visit(route, path) for route in sorted(routes_of_pages(stage.api.app)) for path in _paths(route, values)]
    globex = stage.scenery.of("globex").gid
    return [
        *visits,
        Visit("/endpoints/{gid}", f"/endpoints/{globex}?window=24h"),
        Visit("/deliveries/{gid}", f"/deliveries/{await _dead_letter_of(stage, globex)}"),
        Visit("/dead-letters/all", "/dead-letters/all?action=discard"),
        Visit("/endpoints", "/endpoints?search=nosuch"),
        Visit("/messages", "/messages?type=none.such"),
        Visit("/event-types", "/event-types?show=archived"),
        Visit("/tenants", "/tenants?search=none.such"),
        Visit("/inbox", "/inbox?state=any"),
        Visit("/inbox", "/inbox?state=cancelled"),
        Visit("/inbox/{gid}", f"/inbox/{decided}"),
        Visit("/endpoints/{gid}", f"/endpoints/{ids['inboxes']}"),
        Visit("/endpoints/{gid}/edit", f"/endpoints/{ids['inboxes']}/edit"),
        Visit("/t/{token}", f"/t/{for_ann}"),
        Visit("/deliveries", "/deliveries?type=none.such"),
        Visit("/endpoints/{gid}", "/endpoints/ep_none"),
        Visit("/sign-in/link/{link}", "/sign-in/link/used"),
        Visit("/portal/open/{token}", "/portal/open/used"),
        Visit("/", "/nothing-here"),
    ]


def _paths(route: str, ids: dict[str, str]) -> Iterator[str]:
    section = route.removeprefix(PORTAL).split("/")[1]
    own = {
        "gid": ids.get(section, ""),
        "name": ids.get(section) or ids["channels"],
        "token": ids["token"],
        "link": ids["link"],
        "slug": problem_types.NOT_FOUND.slug,
    }
    yield route.replace(":path}", "}").format(**own)


async def _something_of_everything(stage: Stage) -> dict[str, str]:
    """One resource of each kind, created over the API for a tenant of its own, by the part of an address that its id
    follows. Every name that a user can choose is as long as possible, without a place to break."""
    api, tenant, channel = stage.api, f"{uuid4().hex * 3}ten", f"{uuid4().hex * 3}chan"
    await api.channel(channel)
    gids: dict[str, str] = {}
    for name, status in (("well", 200), ("ill", 404)):
        stage.receiver.respond(status, path=f"/{name}/{tenant * 3}")
        made = await api.endpoint(
            stage.receiver.url_for(f"/{name}/{tenant * 3}"), channel=channel, tenant=tenant, description=name * 200
        )
        gids[name] = made["endpointGid"]
    described = {"name": f"{'t' * 100}.{tenant[:27]}", "description": "word" * 250, "example": {"a": "b" * 200}}
    created(await api.post("/v1/event-types", {**described, "schema": {"properties": {"a" * 90: {"type": "string"}}}}))
    published = await api.publish({"note": "hello" * 100}, channel, type="a" * 128)
    delivered, dead = (
        next(each["deliveryGid"] for each in published["deliveries"] if each["endpointGid"] == gids[name])
        for name in ("well", "ill")
    )

    async def are_done() -> None:
        for gid, status in ((delivered, "delivered"), (dead, "dead_lettered")):
            assert ok(await api.get(f"/v1/deliveries/{gid}"))["status"] == status
        assert await api.rows("SELECT gid FROM receipt WHERE delivery_gid = :gid", gid=delivered)

    await assert_eventually(are_done)
    inboxes, asked, decided = await _tasks(api, tenant, f"{channel[:90]}tasks")
    (receipt,) = await api.rows("SELECT gid FROM receipt WHERE delivery_gid = :gid", gid=delivered)
    theirs = await api.key(tenant=tenant)
    batch: str = (await theirs.post("/v1/dead-letters/replay", {"channel": channel})).json()["batchGid"]
    return {
        "tenant": tenant,
        "tenants": tenant,
        "endpoints": gids["ill"],
        "deliveries": delivered,
        "messages": published["messageGid"],
        "receipts": receipt.gid,
        "inboxes": inboxes,
        "inbox": asked,
        "decided": decided,
        "batches": batch,
        "channels": channel,
        "event-types": described["name"],
    }


async def _tasks(api: Api, tenant: str, channel: str) -> tuple[str, str, str]:
    """An inbox, an open task and a decided one, with every field of a task."""
    await api.channel(channel)
    properties = {
        "long" * 20: {"type": "string", "maxLength": 500, "description": "w" * 200},
        "amount": {"type": "integer", "minimum": 1},
        "urgent": {"type": "boolean"},
        "plant": {"type": "string", "enum": ["Bonn", "K" * 90]},
        "from": {"type": "string", "format": "date"},
    }
    task = {
        "title": "t" * 200,
        "description": f"{'d' * 300}\nsecond line",
        "assignees": ["ann", "environment", "a" * 190],
        "links": [{"title": "l" * 190, "url": "https://shop.example/1042"}],
        "form": {"type": "object", "required": ["amount"], "properties": properties},
    }
    options = {"name": "n" * 100, "task": {"assignees": ["ann"]}, "groups": {"g" * 90: ["bo"]}}
    body = {"mode": "inbox", "channel": channel, "tenant": tenant, "options": options}
    inbox: str = created(await api.post("/v1/endpoints", body))["endpointGid"]
    gids: list[str] = []
    for _ in range(2):
        await api.publish({"note": "hello" * 100}, channel, tenant=tenant, task=task)
        gids.insert(0, ok(await api.get("/v1/tasks", inbox=inbox))["data"][0]["taskGid"])
        ok(await api.post(f"/v1/tasks/{gids[0]}/comment", {"comment": "c" * 300}))
    decision = {"outcome": "approved", "version": 1, "comment": "c" * 300, "data": {"amount": 1, "plant": "K" * 90}}
    ok(await api.post(f"/v1/tasks/{gids[1]}/decide", decision))
    return inbox, gids[0], gids[1]


async def _dead_letter_of(stage: Stage, endpoint: str) -> str:
    (dead,) = await stage.api.rows(
        "SELECT gid FROM delivery WHERE endpoint_gid = :gid AND reason = 'exhausted' LIMIT 1", gid=endpoint
    )
    return str(dead.gid)


async def obstacles_on(page: Page, options: dict[str, Any] = RULES, elements: JSHandle | None = None) -> list[str]:
    """The serious findings of axe on the open page, or on these elements of it."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE)
    obstacles: list[str] = await page.evaluate(SERIOUS, [elements, {"resultTypes": ["violations"], **options}])
    return obstacles


async def low_contrast_on(page: Page) -> list[str]:
    """Findings about contrast, each look once in all pages of a tab: for all elements it takes half of the time."""
    return await obstacles_on(page, CONTRAST_ALONE, await page.evaluate_handle(NEW_LOOKS))
