"""Pages that explain the types of problems. The `type` of a problem document leads to one, so they take no key."""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from api import problem_types
from api.dashboard.pages import PageRoute, render

router = APIRouter(route_class=PageRoute, include_in_schema=False, prefix=problem_types.PATH)


@router.get("")
async def show_list(request: Request) -> Response:
    return render(request, "problems.html", title="Problems", kinds=problem_types.ALL)


@router.get("/{slug}")
async def show_one(slug: str, request: Request) -> Response:
    kind = problem_types.BY_SLUG.get(slug)
    if kind is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no problem of this type.")
    return render(request, "problem.html", title=kind.title, kind=kind, list_path=problem_types.PATH)
