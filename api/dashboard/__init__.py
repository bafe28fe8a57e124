"""The dashboard at `/`, and the same pages for one tenant at `/portal`: rendered here, live by server-sent events.

View models are dataclasses, templates are Jinja2 with macros as components, charts are SVG. Reading and acting take
no JavaScript. Actions call the same use cases as the API's routes.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI

from api.dashboard import (
    assets,
    audit,
    channels,
    dead_letters,
    deliveries,
    endpoints,
    event_type_forms,
    event_types,
    keys,
    messages,
    overview,
    portal,
    problem_pages,
    receipts,
    replays,
    sign_in,
    sign_in_link,
    task_links,
    tasks,
    tenants,
)
from api.dashboard.failures import for_browsers
from api.dashboard.live import Broadcaster
from api.dashboard.pages import PORTAL, Dashboard, templates
from api.dashboard.sessions import Sessions
from everhook.settings import Settings

__all__ = ["close", "end_streams", "for_browsers", "install", "warm_up"]

PUBLIC_FORMS = (sign_in.sign_in, sign_in.choose_theme, sign_in_link.exchange, portal.exchange)
MAX_PUBLIC_FORM = 8 * 1024
"""In bytes. These forms need no session. The longest has an API key or a link's token, and the page to return to."""

LARGE_FORMS: Mapping[Callable[..., Any], int] = {
    event_type_forms.create: event_type_forms.MAX_FORM,
    event_type_forms.edit: event_type_forms.MAX_FORM,
    event_type_forms.import_document: event_type_forms.MAX_IMPORT_FORM,
}
"""Forms with documents, and how many bytes they may have."""

FOR_TENANTS = (overview, endpoints, tasks, deliveries, dead_letters, replays, receipts, event_types)
FOR_OPERATORS = (sign_in, messages, channels, event_type_forms, tenants, audit, keys)


def install(app: FastAPI, settings: Settings) -> None:
    """Add the pages to the API."""
    environment = templates()
    app.state.dashboard = Dashboard(
        settings=settings,
        sessions=Sessions(settings),
        templates=environment,
        broadcaster=Broadcaster(),
    )
    overview.install(app, environment)
    sign_in.install(app)
    app.include_router(assets.router)
    app.include_router(portal.router)
    app.include_router(problem_pages.router)
    app.include_router(task_links.router)
    sign_in_link.install(app)
    for section in (*FOR_OPERATORS, *FOR_TENANTS):
        app.include_router(section.router)
    for section in FOR_TENANTS:
        app.include_router(section.router, prefix=PORTAL)


def warm_up() -> None:
    """Compile all templates, else the first visitor waits for it: 50 ms for the overview, 170 for all pages."""
    environment = templates()
    for name in environment.list_templates():
        environment.get_template(name)


def end_streams(app: FastAPI) -> None:
    """Close the live streams of pages when the server ends; they reconnect when it is back."""
    dashboard: Dashboard = app.state.dashboard
    dashboard.broadcaster.end()


async def close(app: FastAPI) -> None:
    """Wait until no page uses the database any more."""
    dashboard: Dashboard = app.state.dashboard
    await dashboard.broadcaster.close()
