"""Signing in with an API key, and out."""

from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from api.callers import DECIDERS, OWNED
from api.dashboard import identity
from api.dashboard.forms import read_form, refuse_foreign
from api.dashboard.pages import (
    THEME_COOKIE,
    THEMES,
    PageRoute,
    SignedInDep,
    SignOutFormDep,
    dashboard_of,
    is_local,
    render,
)
from api.dashboard.sessions import DASHBOARD, LIFETIME, SESSION_COOKIE
from api.dependencies import ServicesDep, address_of, caller_of_key

A_MINUTE = RateLimitItemPerMinute(10)
"""Keys cannot be guessed. This limits the load that unauthenticated clients can cause."""

router = APIRouter(route_class=PageRoute, include_in_schema=False)


class SignInLimit:
    """Attempts a minute and address, as this process counts them."""

    def __init__(self) -> None:
        self._window = MovingWindowRateLimiter(MemoryStorage())

    async def allows(self, address: str) -> bool:
        return await self._window.hit(A_MINUTE, address)


def install(app: FastAPI) -> None:
    """Begin to count attempts. The routes are included with those of the other pages."""
    app.state.sign_in_limit = SignInLimit()


@router.get("/sign-in")
async def ask(request: Request, next: str = "/") -> Response:
    return render(request, "sign_in.html", title="Sign in", next=_inside(next), wrong=None)


@router.post("/sign-in")
async def sign_in(request: Request, services: ServicesDep) -> Response:
    refuse_foreign(request)
    form = await read_form(request)
    target = _inside(form.get("next", "/"))
    address = address_of(request, services.settings)
    limit: SignInLimit = request.app.state.sign_in_limit
    if not await limit.allows(address or ""):
        return _again(request, target, "Too many attempts. Wait a minute.", HTTPStatus.TOO_MANY_REQUESTS)
    caller = await caller_of_key(form.get("key"), services, address)
    if caller is None:
        return _again(request, target, "This API key is not valid: it is unknown, was revoked, or has expired.")
    if not OWNED.admits(caller, "GET"):
        if not DECIDERS.admits(caller, "GET"):
            return _again(request, target, "This key opens no pages: it may only publish or receive.")
        target = target if target != "/" else "/inbox"
    return start_session(request, identity.subject_of(services, caller), target)


def start_session(request: Request, subject: str, target: str) -> Response:
    """A session in a cookie, and the way to a page."""
    token, _ = dashboard_of(request).sessions.issue(DASHBOARD, subject, LIFETIME)
    response = RedirectResponse(target, HTTPStatus.SEE_OTHER)
    response.set_cookie(
        SESSION_COOKIE,
        token,
        max_age=int(LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=not is_local(request),
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request, services: ServicesDep, viewer: SignedInDep, form: SignOutFormDep) -> Response:
    """End the session for good: its cookie opens nothing any more, wherever it may have been copied to."""
    await identity.end_session(services, viewer.caller, viewer.session)
    response = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
    response.delete_cookie(SESSION_COOKIE)
    return response


@router.post("/theme")
async def choose_theme(request: Request) -> Response:
    """Light or dark, or what the system says. The cookie is of no session: the page to sign in has it, too."""
    refuse_foreign(request)
    form = await read_form(request)
    response = RedirectResponse(_inside(form.get("back", "/")), HTTPStatus.SEE_OTHER)
    if form.get("theme") in THEMES:
        response.set_cookie(THEME_COOKIE, form.get("theme"), max_age=31_536_000, samesite="lax", httponly=True)
    else:
        response.delete_cookie(THEME_COOKIE)
    return response


def _again(request: Request, target: str, wrong: str, status: HTTPStatus = HTTPStatus.UNAUTHORIZED) -> Response:
    return render(request, "sign_in.html", status=status, title="Sign in", next=target, wrong=wrong)


def _inside(target: str) -> str:
    """One of our pages: never a URL of another site."""
    ours = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if ours else "/"
