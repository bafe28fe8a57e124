"""API keys as they are asked for and shown."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field

from api import patterns
from api.schemas import ApiModel, Moment, Name
from everhook.tenants.api_keys import ApiKeyView, CreatedApiKey, NewApiKey

API_KEY_EXAMPLE: dict[str, Any] = {
    "keyGid": "ek_01m83prhbfe23sdyzab24cmhby",
    "name": "portal of acme",
    "scopes": ["publish", "tenant:ten_01m83prhbfe23sdyzab24cmhby"],
    "tenant": "acme",
    "state": "active",
    "createdBy": "environment",
    "createdAt": "2026-01-31T12:00:00Z",
    "expiresAt": None,
    "revokedAt": None,
}


class ApiKeyIn(ApiModel):
    """A key with `tenant` reaches that tenant only, and `publish` is the one scope that can be added to it. With a
    scope for one endpoint it reaches that endpoint only."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"name": "billing", "scopes": ["publish"], "expiresAt": "2099-01-31T12:00:00Z"}]
        }
    )

    name: str = Field(description="Who uses the key. The name is recorded with each action.")
    scopes: list[Annotated[str, Field(pattern=patterns.SCOPE)]] = Field(
        default_factory=list,
        description=(
            "`admin`, `publish` and `read`. Or `receive:<endpoint gid>`: to poll, stream and acknowledge the "
            "deliveries of this endpoint, and nothing else. Or `tasks:<endpoint gid>`: to see and decide the tasks of "
            "this inbox, as the person whom `name` names."
        ),
    )
    tenant: Name | None = Field(None, description="The tenant's name.")
    expires_at: Moment | None = None

    def new(self) -> NewApiKey:
        return NewApiKey(self.name, self.scopes, self.tenant, self.expires_at)


class ApiKey(ApiModel):
    """A key without the key itself."""

    model_config = ConfigDict(json_schema_extra={"examples": [API_KEY_EXAMPLE]})

    key_gid: str
    name: str
    scopes: list[str]
    tenant: str | None
    state: Literal["active", "expired", "revoked"]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, view: ApiKeyView, **more: Any) -> Self:
        """`more` are the further fields of a subclass."""
        row = view.row
        return cls(
            key_gid=row.gid,
            name=row.name,
            scopes=view.scopes,
            tenant=view.tenant,
            state=view.state,
            created_by=row.created_by,
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            **more,
        )


class ApiKeyCreated(ApiKey):
    """A new key, with the key itself."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{**API_KEY_EXAMPLE, "key": "ek_01m83prhbfe23sdyzab24cmhby_…"}]}
    )

    key: str = Field(description="Shown this once.")

    @classmethod
    def of_created(cls, created: CreatedApiKey) -> "ApiKeyCreated":
        return cls.of(created, key=created.key)
