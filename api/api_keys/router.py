"""API keys: created, listed, revoked. A key is shown once, when it is created."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from api.api_keys.schemas import ApiKey, ApiKeyCreated, ApiKeyIn
from api.dependencies import Paging, Principal, ServicesDep, Store
from api.idempotency import NOT_KEYED, OnceDep
from api.schemas import Gid, ListOf

router = APIRouter(prefix="/api-keys", tags=["API keys"])


@router.post("", status_code=HTTPStatus.CREATED)
async def create_api_key(
    body: ApiKeyIn, services: ServicesDep, store: Store, caller: Principal, once: OnceDep = NOT_KEYED
) -> ApiKeyCreated:
    """Create a key. The response holds it; afterwards only its hash is stored."""
    async with once.writing(store) as session:
        created = await services.api_keys.create(session, caller.actor, body.new())
        response = ApiKeyCreated.of_created(created)
        return await once.keep(session, response, HTTPStatus.CREATED, created.row.tenant_gid)


@router.get("")
async def list_api_keys(paging: Paging, services: ServicesDep, store: Store) -> ListOf[ApiKey]:
    """Newest first, expired and revoked ones included."""
    async with store.reading() as session:
        page = await services.api_keys.page(session, after=paging.after, limit=paging.limit)
    return ListOf(data=[ApiKey.of(view) for view in page.rows], next_cursor=paging.next_cursor(page.next_key))


@router.get("/{gid}")
async def get_api_key(gid: Gid, services: ServicesDep, store: Store) -> ApiKey:
    """One key: whose it is, its scopes and its state. The key itself is not shown again."""
    async with store.reading() as session:
        return ApiKey.of(await services.api_keys.get(session, gid))


@router.delete("/{gid}", status_code=HTTPStatus.NO_CONTENT, response_class=Response)
async def revoke_api_key(gid: Gid, services: ServicesDep, store: Store, caller: Principal) -> None:
    """Revoke a key. Every process rejects it once the call has returned."""
    async with store.writing() as session:
        await services.api_keys.revoke(session, caller.actor, gid)
