"""A secret on its way from the form that created it to the page that shows it, once (Post/Redirect/Get).

It is in a cookie of that page alone, encrypted and bound to the session. The page deletes the cookie, so that reloading
it neither creates another secret nor shows this one again. Each secret has a cookie of its own, which the page's URL
names: two forms may be sent before either page is loaded.
"""

from secrets import token_hex
from urllib.parse import urlsplit

from fastapi import Request, Response

from api.dashboard.pages import Viewer, dashboard_of, strict_cookie
from everhook.storage.keyring import DecryptionError, KeyRing

COOKIE = "everhook_shown_once"
PARAMETER = "secret"
LIFETIME_S = 300
"""For how long the page may fail to load."""


def carry_secret(request: Request, viewer: Viewer, response: Response, secret: str | None) -> Response:
    """Have the page that `response` redirects to show `secret`, if there is one."""
    if secret is not None:
        location = urlsplit(response.headers["location"])
        number = token_hex(8)
        response.headers["location"] = location._replace(query=f"{location.query}&{PARAMETER}={number}").geturl()
        encrypted = _keyring(request).encrypt(secret, *_place(viewer))
        cookie = strict_cookie(request, f"{COOKIE}_{number}", encrypted, LIFETIME_S, location.path)
        response.headers.append("set-cookie", cookie)
    return response


def carried_secret(request: Request, viewer: Viewer) -> str | None:
    """The secret to show."""
    try:
        return _keyring(request).decrypt(request.cookies.get(_cookie(request), ""), *_place(viewer))
    except DecryptionError:
        return None


def forget_secret(request: Request, response: Response) -> Response:
    """From the page that has shown it."""
    if _cookie(request) in request.cookies:
        response.headers.append("set-cookie", strict_cookie(request, _cookie(request), "", 0, request.url.path))
    return response


def _cookie(request: Request) -> str:
    return f"{COOKIE}_{request.query_params.get(PARAMETER, '')}"


def _keyring(request: Request) -> KeyRing:
    return KeyRing.from_settings(dashboard_of(request).settings)


def _place(viewer: Viewer) -> tuple[str, str, str]:
    return "dashboard", COOKIE, viewer.session.number
