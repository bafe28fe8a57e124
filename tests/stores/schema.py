"""Whether a PostgreSQL has the schema of the models."""

import asyncio

import asyncpg
from alembic import command

from everhook.storage.migrate import alembic_config

_compared: set[str] = set()

_SCHEMA = """
WITH part AS (
    SELECT c.oid, row(relname, relkind, relispartition, attname, format_type(atttypid, atttypmod), attnotnull,
        attcollation, pg_get_expr(adbin, adrelid))::text AS line
    FROM pg_class c LEFT JOIN pg_attribute ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE relnamespace = current_schema()::regnamespace
), line AS (
    SELECT line FROM part
    UNION SELECT row(pg_get_indexdef(indexrelid), indisvalid)::text FROM pg_index JOIN part ON oid = indexrelid
    UNION SELECT row(conname, conrelid::regclass, pg_get_constraintdef(c.oid))::text FROM pg_constraint c
    WHERE connamespace = current_schema()::regnamespace
)
SELECT md5(string_agg(line, ' ' ORDER BY line)) FROM line
"""


async def assert_as_modelled(url: str) -> None:
    """Alembic compares a schema with the models in 0.3 s: it compares each schema once, for most tests end with one
    that an earlier test had."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    schema: str = await connection.fetchval(_SCHEMA)
    await connection.close()
    if schema not in _compared:
        await asyncio.to_thread(command.check, alembic_config(url))
        _compared.add(schema)
