"""Which messages a caller sees."""

from api.callers import Caller
from everhook.lifecycle.service import Viewer
from everhook.tenants.api_keys_store import Scope


def viewer_of(caller: Caller) -> Viewer:
    """A key that only publishes sees what was published with it. What a tenant sees is bound by its store."""
    sees_all = not caller.scopes.isdisjoint({Scope.ADMIN, Scope.READ, Scope.TENANT})
    return Viewer(None if sees_all else caller.key_gid or "")
