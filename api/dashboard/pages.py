"""What every page has in common: who is signed in, how it is rendered, and how it fails."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from api import problem_types, problems
from api.callers import ADMINS, DECIDERS, ENVIRONMENT, OWNED, SIGNED_IN, Access, Caller
from api.dashboard import assets, charts, code, identity, states, text
from api.dashboard.advice import address_of_page, advice, ways
from api.dashboard.endpoint_names import endpoint_name, endpoint_note
from api.dashboard.forms import TOKEN_FIELD, Form, FormError, read_form, refuse_foreign, wrong_fields
from api.dashboard.live import Broadcaster
from api.dashboard.sessions import Session, Sessions
from api.dashboard.task_form import button, due_after, words
from api.dependencies import Services, ServicesDep, decode_cursor, encode_cursor, list_tag
from api.problems import Problem, invalid
from everhook.inbox.tasks import defaults_of, title_of
from everhook.settings import Settings
from everhook.storage.tenant_scope import TenantScope

THEME_COOKIE = "everhook_theme"
PORTAL = "/portal"
THEMES = ("light", "dark")

NAVIGATION = (
    ("overview", "/", "Overview"),
    ("endpoints", "/endpoints", "Endpoints"),
    ("inbox", "/inbox", "Inbox"),
    ("deliveries", "/deliveries", "Deliveries"),
    ("dead-letters", "/dead-letters", "Dead letters"),
    ("messages", "/messages", "Messages"),
    ("channels", "/channels", "Channels"),
    ("event-types", "/event-types", "Event types"),
    ("tenants", "/tenants", "Tenants"),
    ("audit", "/audit", "Audit"),
    ("keys", "/keys", "Keys"),
)
TENANTS_SEE = frozenset({"overview", "endpoints", "inbox", "deliveries", "dead-letters", "event-types"})
ADMINS_SEE = frozenset({"tenants", "keys"})
OPEN_TASKS_COUNTED = 100
"""The navigation shows no more than that."""


class SignInNeeded(Exception):
    """The request has no session, or one that has ended."""


@dataclass(frozen=True)
class Viewer:
    """Who is signed in. `base` is what all addresses begin with: nothing, or `/portal`. `tenant` is the name of the
    tenant that the viewer is bound to, if any. `person` is the name that decides tasks; `open_tasks` counts those in
    sight."""

    caller: Caller
    session: Session
    form_token: str
    base: str = ""
    tenant: str | None = None
    person: str = ""
    open_tasks: int = 0

    @property
    def tenant_gid(self) -> str | None:
        return self.caller.tenant_gid

    @property
    def may_act(self) -> bool:
        return OWNED.admits(self.caller, "POST")

    @property
    def sees_all(self) -> bool:
        """Whether there is more in sight than tasks."""
        return OWNED.admits(self.caller, "GET")

    @property
    def may_decide(self) -> bool:
        return DECIDERS.admits(self.caller, "POST")

    @property
    def home(self) -> str:
        """The page to begin with."""
        return self.base + self.navigation[0][1]

    @property
    def may_administer(self) -> bool:
        return ADMINS.admits(self.caller, "POST")

    @property
    def navigation(self) -> list[tuple[str, str, str]]:
        return [each for each in NAVIGATION if self._sees(each[0])]

    def _sees(self, page: str) -> bool:
        if page == "inbox":
            return True
        if not self.sees_all:
            return False
        if page in ADMINS_SEE:
            return self.may_administer
        return self.tenant_gid is None or page in TENANTS_SEE


@dataclass(frozen=True)
class Dashboard:
    """What all pages share in addition to the API's services; built once, with the application."""

    sessions: Sessions
    templates: Environment
    broadcaster: Broadcaster
    settings: Settings


def dashboard_of(request: Request) -> Dashboard:
    dashboard: Dashboard = request.app.state.dashboard
    return dashboard


@cache
def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("api.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        asset=assets.address,
        charts=charts,
        states=states,
        text=text,
        token_field=TOKEN_FIELD,
        environment_key=ENVIRONMENT,
    )
    environment.filters.update(
        query=query,
        as_url=code.url_markup,
        as_endpoint=endpoint_name,
        as_note=endpoint_note,
        with_code=code.with_code,
        as_moment=datetime.fromisoformat,
        as_words=words,
        as_button=button,
        due_after=due_after,
        task_defaults=defaults_of,
        task_title=title_of,
    )
    return environment


def query(parts: Mapping[str, Any]) -> str:
    """`?a=1&b=2` of what is given."""
    given = {name: value for name, value in parts.items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else ""


@dataclass(frozen=True)
class Pager:
    """The way on through a list: addresses of its first page and of the next, each None where it leads nowhere."""

    first: str | None
    more: str | None


def after(path: str, chosen: Mapping[str, str], cursor: str) -> str | None:
    """The key after which a page begins, of the list at `path` with these filters. 422 for the cursor of another."""
    return decode_cursor(cursor, list_tag(path, chosen.items())) if cursor else None


def pager(path: str, chosen: Mapping[str, str], cursor: str, next_key: str | None) -> Pager:
    """For the page that `cursor` leads to; `chosen` are the list's filters."""
    more = encode_cursor(next_key, list_tag(path, chosen.items())) if next_key else None
    return Pager(
        first=path + query(chosen) if cursor else None,
        more=path + query({**chosen, "cursor": more}) if more else None,
    )


def render(
    request: Request,
    template: str,
    viewer: Viewer | None = None,
    *,
    status: HTTPStatus = HTTPStatus.OK,
    **context: Any,
) -> Response:
    """A page from its view model. `v` is the model by the templates' convention."""
    return HTMLResponse(markup(request, template, viewer, **context), status_code=status)


def render_form(
    request: Request,
    template: str,
    viewer: Viewer,
    error: FormError | None,
    *,
    explain: Callable[[FormError], Mapping[str, str]] = wrong_fields,
    **context: Any,
) -> Response:
    """The page of a form. With `error` the form was refused: its template says `wrong`, what `explain` makes of it, by
    the field."""
    return render(
        request,
        template,
        viewer,
        status=HTTPStatus.UNPROCESSABLE_ENTITY if error is not None else HTTPStatus.OK,
        wrong=explain(error) if error is not None else {},
        **context,
    )


def markup(request: Request, template: str, viewer: Viewer | None, **context: Any) -> str:
    theme = request.cookies.get(THEME_COOKIE)
    base = base_of(request, viewer)
    return dashboard_of(request).templates.get_template(template).render(
        viewer=viewer,
        base=base,
        now=datetime.now(UTC),
        theme=theme if theme in THEMES else None,
        here=address_of_page(request, base),
        notice=NOTICES.get(request.query_params.get("notice", "")),
        highlighter=code.Highlighter(),
        **context,
    )  # fmt: skip


NOTICES = {
    "replay": "Replay requested. Its round of attempts begins in a moment.",
    "again": "It is being sent again.",
    "cancelled": "It is cancelled, and will not be delivered.",
    "discard": "Discard requested.",
    "attempt-now": "The next attempt is being made.",
    "pause": "Paused. Messages are parked until the endpoint is resumed.",
    "resume": "Resumed. Parked deliveries are released gradually.",
    "enable": "Enabled. The count of failures starts from zero.",
    "disable": "Disabled. Messages are parked until the endpoint is enabled.",
    "trip": "The circuit is open. Messages are parked until its cooldown has ended.",
    "reset": "The circuit is closed. Parked deliveries are released gradually.",
    "test": "A test message was sent.",
    "saved": "Saved.",
    "created": "Created.",
    "rotated": "The secret is rotated.",
    "deleted": "Deleted.",
    "imported": "Imported.",
    "decided": "Decided. The decision has a receipt.",
    "agreed": "Your decision is recorded. More people have to agree.",
    "delegated": "Handed over.",
    "commented": "Comment added.",
    "revoked": "Revoked. Sessions that signed in with this key have ended.",
}
"""What a page says after a form was submitted; by name, so that no text comes from the address."""


def see_other(viewer: Viewer, path: str, notice: str | None = None) -> Response:
    """Post/Redirect/Get: after a form, a page that can be reloaded without submitting the form again."""
    if notice is not None:
        path += ("&" if "?" in path else "?") + urlencode({"notice": notice})
    return RedirectResponse(viewer.base + path, HTTPStatus.SEE_OTHER)


def base_of(request: Request, viewer: Viewer | None) -> str:
    return viewer.base if viewer is not None else PORTAL if in_portal(request) else ""


def in_portal(request: Request) -> bool:
    return request.url.path.startswith(PORTAL + "/") or request.url.path == PORTAL


def is_local(request: Request) -> bool:
    """Whether the request comes from this machine, without TLS: browsers would drop a `Secure` cookie."""
    return dashboard_of(request).settings.dev or request.url.hostname in ("127.0.0.1", "::1", "localhost")


def strict_cookie(request: Request, name: str, value: str, seconds: int, path: str) -> str:
    """A header `Set-Cookie`: sent to `path` only, by our own pages only, and hidden from scripts. In a frame on another
    site a cookie must say so, and is kept for that site alone."""
    parts = [f"{name}={value}", f"Max-Age={seconds}", f"Path={path}", "HttpOnly"]
    if is_local(request):
        parts.append("SameSite=Strict")
    elif in_portal(request) and dashboard_of(request).settings.portal_frame_ancestors:
        parts += ["SameSite=None", "Secure", "Partitioned"]
    else:
        parts += ["SameSite=Strict", "Secure"]
    return "; ".join(parts)


async def viewer_of(request: Request, services: Services) -> Viewer | None:
    """None if no one is signed in, or the session has ended. Error pages find the viewer in the request's state."""
    sessions = dashboard_of(request).sessions
    is_portal = in_portal(request)
    found = await (identity.of_portal if is_portal else identity.of_dashboard)(request, services, sessions)
    viewer = None
    if found is not None:
        form_token, base = sessions.form_token(found.session), PORTAL if is_portal else ""
        person, count = found.person or found.caller.name, await _open_tasks(request, services, found.caller)
        viewer = Viewer(found.caller, found.session, form_token, base, found.tenant, person, count)
    request.state.viewer = viewer
    return viewer


async def _open_tasks(request: Request, services: Services, caller: Caller) -> int:
    if request.method != "GET":
        return 0
    async with services.scope_of(caller.tenant_gid).reading() as session:
        return await services.tasks.count_open(session, caller.inboxes, at_most=OPEN_TASKS_COUNTED)


async def _signed_in(request: Request, services: ServicesDep) -> Viewer:
    viewer = await viewer_of(request, services)
    if viewer is None:
        raise SignInNeeded
    return viewer


async def _viewer(viewer: Annotated[Viewer, Depends(_signed_in)]) -> Viewer:
    OWNED.check(viewer.caller, "GET")
    return viewer


async def _decider(viewer: Annotated[Viewer, Depends(_signed_in)]) -> Viewer:
    """Of pages about tasks, which people with a key for one inbox see as well."""
    DECIDERS.check(viewer.caller, "GET")
    return viewer


async def _store(viewer: Annotated[Viewer, Depends(_viewer)], services: ServicesDep) -> TenantScope:
    """The database as the viewer may see it."""
    return services.scope_of(viewer.tenant_gid)


async def _task_store(viewer: Annotated[Viewer, Depends(_decider)], services: ServicesDep) -> TenantScope:
    """The same, for pages about tasks. Those of other inboxes are left out by the use cases: see `Caller.inboxes`."""
    return services.scope_of(viewer.tenant_gid)


async def _operator(viewer: Annotated[Viewer, Depends(_viewer)]) -> Viewer:
    """Pages that no tenant has."""
    if viewer.tenant_gid is not None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no such page.")
    return viewer


async def _admin(viewer: Annotated[Viewer, Depends(_operator)]) -> Viewer:
    ADMINS.check(viewer.caller, "GET")
    return viewer


def _form_of(access: Access) -> Any:
    """The form that a viewer with this access sent from one of our pages. 403 for any other, and nothing changes."""

    async def read(request: Request, viewer: Annotated[Viewer, Depends(_signed_in)]) -> Form:
        refuse_foreign(request)
        form = await read_form(request)
        if not dashboard_of(request).sessions.is_form_token(viewer.session, form.get(TOKEN_FIELD)):
            raise Problem(
                problem_types.FORBIDDEN,
                "This form belongs to another session. Reload the page and submit it again.",
            )
        access.check(viewer.caller, request.method)
        return form

    return Depends(read)


SignedInDep = Annotated[Viewer, Depends(_signed_in)]
ViewerDep = Annotated[Viewer, Depends(_viewer)]
OperatorDep = Annotated[Viewer, Depends(_operator)]
AdminDep = Annotated[Viewer, Depends(_admin)]
DeciderDep = Annotated[Viewer, Depends(_decider)]
StoreDep = Annotated[TenantScope, Depends(_store)]
TaskStoreDep = Annotated[TenantScope, Depends(_task_store)]
FormDep = Annotated[Form, _form_of(OWNED)]
TaskFormDep = Annotated[Form, _form_of(DECIDERS)]
AdminFormDep = Annotated[Form, _form_of(ADMINS)]
SignOutFormDep = Annotated[Form, _form_of(SIGNED_IN)]


class PageRoute(APIRoute):
    """A route that responds to failures with pages, and to all requests with security headers."""

    referrer_policy = "same-origin"

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                response = await inner(request)
            except SignInNeeded:
                response = _to_sign_in(request)
            except ValidationError as error:
                response = error_page(request, invalid(*next(iter(wrong_fields(error).items()))))
            except Exception as error:
                response = error_page(request, problems.from_error(request, error))
            secure_headers(response, request, self.referrer_policy)
            return response

        return handle


FOR_PROGRAMS = b"This page is part of the dashboard, for people who are signed in. The API is at /v1.\n"
"""What a redirect says to those who do not follow it, such as curl."""


def _to_sign_in(request: Request) -> Response:
    if in_portal(request):
        return render(request, "portal_ended.html", status=HTTPStatus.UNAUTHORIZED)
    back = address_of_page(request, "")
    response = RedirectResponse(f"/sign-in?next={quote(back)}" if back != "/" else "/sign-in", HTTPStatus.SEE_OTHER)
    response.body = FOR_PROGRAMS
    response.headers.update({"content-length": str(len(FOR_PROGRAMS)), "content-type": "text/plain; charset=utf-8"})
    return response


def error_page(request: Request, problem: Problem) -> Response:
    """What went wrong, what to do about it, and the ways on; inside of the frame where somebody is signed in."""
    viewer = getattr(request.state, "viewer", None)
    base = base_of(request, viewer)
    sections = {base + path: label for _, path, label in viewer.navigation} if viewer is not None else {}
    response = render(
        request,
        "error.html",
        viewer,
        status=problem.status,
        problem=problem,
        advice=advice(problem),
        ways=ways(request, problem, base, sections, is_signed_in=viewer is not None),
    )
    response.headers.update(problem.headers or {})
    return response


CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
)


def secure_headers(response: Response, request: Request, referrer_policy: str = PageRoute.referrer_policy) -> None:
    """No script or style but our own files; framed nowhere but a portal where the settings say so."""
    ancestors = dashboard_of(request).settings.portal_frame_ancestors if in_portal(request) else []
    response.headers["content-security-policy"] = CONTENT_POLICY.format(ancestors=" ".join(ancestors) or "'none'")
    response.headers["x-content-type-options"] = "nosniff"
    response.headers["referrer-policy"] = referrer_policy
    response.headers["cross-origin-opener-policy"] = "same-origin"
    response.headers["permissions-policy"] = "camera=(), geolocation=(), microphone=()"
    response.headers.setdefault("cache-control", "no-store")
