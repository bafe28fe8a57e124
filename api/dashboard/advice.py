"""What error pages advise, and the buttons that lead on."""

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

from fastapi import Request

from api.problems import Problem

ADVICE = {
    HTTPStatus.BAD_REQUEST: "Go back, and send the form again.",
    HTTPStatus.FORBIDDEN: "Sign in with a key that may do this, or ask your administrator for one.",
    HTTPStatus.NOT_FOUND: "It may have been deleted, or its retention has ended. Check that the address is complete.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address accepts a form only: open the page that has its button.",
    HTTPStatus.CONFLICT: "Something else happened in the meantime. Reload the page to see the current state.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Send less at once.",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Correct what is named above, and send it again.",
    HTTPStatus.TOO_MANY_REQUESTS: "Wait a few seconds, and try again.",
    HTTPStatus.INTERNAL_SERVER_ERROR: "Try again. If it persists, see the server's log at the time above.",
    HTTPStatus.SERVICE_UNAVAILABLE: "Wait a few seconds, and try again. If it persists, check that it is running.",
}


@dataclass(frozen=True)
class NextAction:
    """A button of an error page that leads to another one."""

    label: str
    address: str


def advice(problem: Problem) -> str:
    return ADVICE.get(problem.status, "Go back, and try again.")


def address_of_page(request: Request, base: str) -> str:
    """The address of the page; after a form, of the page that it was submitted from."""
    if request.method in ("GET", "HEAD"):
        path, query, is_ours = request.url.path, request.url.query, True
    else:
        came = urlsplit(request.headers.get("referer", ""))
        path, query, is_ours = came.path, came.query, came.netloc == request.headers.get("host")
    if not is_ours or not path.startswith(f"{base}/") or path.startswith(("//", "/\\")):
        return f"{base}/"
    return f"{path}?{query}" if query else path


def ways(
    request: Request, problem: Problem, base: str, sections: dict[str, str], *, is_signed_in: bool
) -> list[NextAction]:
    """The buttons of an error page, the likeliest first. `sections` are the addresses of lists, with their names."""
    found: list[NextAction] = []
    shown = address_of_page(request, base)
    if request.method not in ("GET", "HEAD"):
        found.append(NextAction("Back to the page", shown))
    elif problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR or problem.status is HTTPStatus.TOO_MANY_REQUESTS:
        found.append(NextAction("Try again", shown))
    if not is_signed_in:
        return found if base else [*found, NextAction("Sign in", "/sign-in")]
    above = next((path for path in sections if path != f"{base}/" and shown.startswith(path)), None)
    if above is not None and above != shown:
        found.append(NextAction(f"All {sections[above].lower()}", above))
    if problem.status is HTTPStatus.FORBIDDEN and not base:
        found.append(NextAction("Sign in with another key", "/sign-in"))
    home = next(iter(sections), f"{base}/")
    label = "To the overview" if home == f"{base}/" else f"To the {sections[home].lower()}"
    return [*found, NextAction(label, home)]
