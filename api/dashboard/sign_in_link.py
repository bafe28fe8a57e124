"""Signing in by a link that `everhook dev` prints: for one use, and five minutes.

It spares the person at that terminal pasting the key. Opening it shows a page with one button, which exchanges it for a
session: links are also fetched by programs that look at what is on a screen or in a chat.
"""

import hashlib
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from api.callers import Caller
from api.dashboard import identity
from api.dashboard.forms import read_form, refuse_foreign
from api.dashboard.pages import PageRoute, dashboard_of, render
from api.dashboard.sign_in import start_session
from api.dependencies import Services, ServicesDep

LIFETIME_S = 300.0

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix="/sign-in/link")


class SignInLinks:
    """The links that were made and not used, as this process knows them. Only the hashes of their tokens are kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends_at: dict[bytes, float] = {}

    def make(self) -> str:
        """A new token."""
        token = secrets.token_urlsafe(24)
        self._ends_at[_hash(token)] = self._clock() + LIFETIME_S
        return token

    def is_good(self, token: str) -> bool:
        return self._clock() < self._ends_at.get(_hash(token), 0.0)

    def redeem(self, token: str) -> bool:
        """Whether the token was valid. This call uses it up."""
        return self._clock() < self._ends_at.pop(_hash(token), 0.0)


def install(app: FastAPI) -> None:
    app.state.sign_in_links = SignInLinks()
    app.include_router(router)


def make_link(app: FastAPI, url: str) -> str:
    """The address that signs its first visitor in as the holder of the environment's key. `url` is that of the API."""
    return f"{url}{router.prefix}/{_links(app).make()}"


@router.get("/{link}")
async def open_link(link: str, request: Request, services: ServicesDep) -> Response:
    if not _links(request.app).is_good(link):
        return await _ended(request, services)
    return render(request, "sign_in_link.html", title="Sign in", token=link)


@router.post("")
async def exchange(request: Request, services: ServicesDep) -> Response:
    """From a link to a session, once."""
    refuse_foreign(request)
    token = (await read_form(request)).get("token")
    if services.settings.api_key is None or not _links(request.app).redeem(token):
        return await _ended(request, services)
    subject = identity.subject_of(services, Caller.of_environment(None))
    return start_session(request, subject, "/")


async def _ended(request: Request, services: Services) -> Response:
    """The dashboard for a visitor who is signed in; for others a page that says why the link does not work."""
    if await identity.of_dashboard(request, services, dashboard_of(request).sessions) is not None:
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    return render(request, "sign_in_link_ended.html", status=HTTPStatus.GONE, title="Sign in")


def _links(app: FastAPI) -> SignInLinks:
    links: SignInLinks = app.state.sign_in_links
    return links


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
