"""`Idempotency-Key` on calls that create something or start a replay: the same key and call get the same response for
24 hours. Publishing has keys of its own, which hold for longer: see `everhook/publishing/store.py`.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, TypeVar

from fastapi import Depends, Header, Request, Response
from pydantic import BaseModel

from api import problem_types
from api.dependencies import Principal, ServicesDep
from api.problems import Problem, conflict, invalid, malformed
from everhook.errors import IdempotencyKeyReused
from everhook.field_errors import PATTERN
from everhook.storage import idempotency
from everhook.storage.engine import Session
from everhook.storage.idempotency import Call, ResponseStore
from everhook.storage.keyring import DecryptionError
from everhook.storage.tenant_scope import TenantScope

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
RETRY_AFTER_S = 5

_KEY = re.compile(r"[^\x00-\x1f\x7f]{1,255}")

Model = TypeVar("Model", bound=BaseModel)

IdempotencyKey = Annotated[str | None, Header(alias=HEADER, description="1 to 255 characters, new for each call.")]


class RespondedBefore(Exception):
    """The same call was made before; `response` is the response to it."""

    def __init__(self, response: Response) -> None:
        super().__init__("a call with this key has a response")
        self.response = response


class _Taken(Exception):
    """Another call has claimed the key meanwhile."""


@dataclass(frozen=True)
class Once:
    """Carries out a call once, if it came with a key. Without `call` it adds nothing."""

    responses: ResponseStore | None = None
    call: Call | None = None

    @asynccontextmanager
    async def writing(self, store: TenantScope) -> AsyncIterator[Session]:
        """A transaction that creates something; `keep` its response before it ends."""
        try:
            async with store.writing() as session:
                if self.call is not None and not await idempotency.claim(session, self.call):
                    raise _Taken
                yield session
        except _Taken:
            await self.raise_if_responded()
            raise _under_way() from None

    @asynccontextmanager
    async def asking(self, store: TenantScope) -> AsyncIterator[None]:
        """For what Temporal carries out: the key is claimed first, and released where the block fails."""
        if self.call is None:
            yield
            return
        async with self.writing(store):
            pass
        try:
            yield
        except Exception:
            with suppress(Exception):
                async with store.writing() as session:
                    await idempotency.release(session, self.call)
            raise

    async def keep(self, session: Session, response: Model, status: HTTPStatus, tenant_gid: str | None = None) -> Model:
        """Keep the response to the call. `tenant_gid`: the tenant whose resources it shows. Returns the response."""
        if self.call is not None and self.responses is not None:
            body = response.model_dump_json(by_alias=True)
            await self.responses.keep(session, self.call, status, body, tenant_gid)
        return response

    async def keep_asked(
        self, store: TenantScope, response: Model, status: HTTPStatus, tenant_gid: str | None
    ) -> Model:
        """The same in a transaction of its own."""
        if self.call is not None:
            async with store.writing() as session:
                await self.keep(session, response, status, tenant_gid)
        return response

    async def raise_if_responded(self) -> None:
        """Raise RespondedBefore, or a Problem where the key stands for another call or for one that is under way."""
        if self.call is None or self.responses is None:
            return
        try:
            kept = await self.responses.find(self.call)
        except DecryptionError as error:
            raise conflict(f"{HEADER}: the response kept for this key cannot be read; use another key.") from error
        if kept is None:
            return
        if kept.request_sha256 != self.call.request_sha256:
            raise IdempotencyKeyReused(f"{HEADER}: was used for another call. Nothing was changed.")
        if kept.body is None or kept.status_code is None:
            raise _under_way()
        headers = {REPLAYED: "true"}
        raise RespondedBefore(Response(kept.body, kept.status_code, headers, media_type="application/json"))


NOT_KEYED = Once()
"""Of calls without a key."""


async def _once(
    request: Request, services: ServicesDep, caller: Principal, idempotency_key: IdempotencyKey = None
) -> Once:
    if idempotency_key is None:
        return NOT_KEYED
    check_key(request, idempotency_key)
    body = await request.body()
    target = f"{request.method} {request.url.path}?{request.url.query}"
    once = Once(services.responses, Call.of(caller.tenant_gid or "", idempotency_key, target.encode(), body))
    await once.raise_if_responded()
    return once


def check_key(request: Request, key: str, at_most: int = 255) -> None:
    """Raise 400 for two headers, 422 for a key that is too long or has control characters."""
    refuse_second(request)
    if not _KEY.fullmatch(key) or len(key) > at_most:
        raise invalid(HEADER, f"takes 1 to {at_most} characters, none of them a control character", PATTERN)


def refuse_second(request: Request) -> None:
    """Raise 400 for two headers: which of them is meant?"""
    if len(request.headers.getlist(HEADER)) > 1:
        raise malformed("was sent more than once", HEADER)


async def respond_again(_request: Request, error: Exception) -> Response:
    """The handler of RespondedBefore."""
    assert isinstance(error, RespondedBefore)
    return error.response


def _under_way() -> Problem:
    return Problem(
        problem_types.IDEMPOTENT_CALL_RUNNING,
        f"{HEADER}: a call with this key is under way, or was cut off a moment ago. Try again.",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


OnceDep = Annotated[Once, Depends(_once)]
