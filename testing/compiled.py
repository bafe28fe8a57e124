"""Compile each statement once in a process, rather than once in a test.

An engine keeps its compiled statements, and most tests have a database, and so engines, of their own: a quarter of the
CPU time of the API's tests was spent in compiling. Here all engines of SQLite that are made with the same options share
a dialect, which is part of the key of a compiled statement, and a cache.
"""

from typing import Any

from sqlalchemy import URL, event
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache

from everhook.storage import engine as storage

_dialects: dict[str | None, Dialect] = {}
_cache: LRUCache[Any, Any] = LRUCache(4_000)


def share_compiled_statements() -> None:
    """Have all databases that are opened from now on share them. SQLAlchemy has no option for it: this sets attributes
    of the engine."""
    make = storage._sqlite_engine

    def make_sharing(url: URL, *, pool_size: int, begin: str | None) -> AsyncEngine:
        made = make(url, pool_size=pool_size, begin=begin)
        engine = made.sync_engine
        if begin in _dialects:
            engine.dialect = engine.pool._dialect = _dialects[begin]
        else:
            # A dialect knows the server's version from its engine's first connection on.
            event.listen(engine.pool, "first_connect", lambda *_: _dialects.setdefault(begin, engine.dialect))
        engine._compiled_cache = _cache
        return made

    storage._sqlite_engine = make_sharing
