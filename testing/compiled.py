"""Compile each statement once in a process, rather than once in a test.

An engine keeps its compiled statements, and most tests have a database, and so engines, of their own: a quarter of the
CPU time of the API's tests was spent in compiling. Here all engines of the product share a cache, larger than their own
ones of 500 statements. The dialect is part of the key of a compiled statement, so engines of SQLite that are made with
the same options share that too.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache

from everhook.storage import engine as storage

_dialects: dict[str | None, Dialect] = {}
_cache: LRUCache[Any, Any] = LRUCache(4_000)


def share_compiled_statements() -> None:
    """Have all databases that are opened from now on share them. SQLAlchemy has no option for it: this sets attributes
    of the engine."""
    create = storage.create_async_engine  # type: ignore[attr-defined]  # imported there

    def create_sharing(url: Any, **options: Any) -> AsyncEngine:
        created = create(url, **options)
        engine = created.sync_engine
        if engine.dialect.name == "sqlite":
            level: str | None = options["isolation_level"]
            if level in _dialects:
                engine.dialect = engine.pool._dialect = _dialects[level]
            else:
                # A dialect knows the server's version from its engine's first connection on.
                event.listen(engine.pool, "first_connect", lambda *_: _dialects.setdefault(level, engine.dialect))
        engine._compiled_cache = _cache
        return created

    storage.create_async_engine = create_sharing  # type: ignore[attr-defined]
