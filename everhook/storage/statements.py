"""Statements that the two databases spell differently."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Table, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel


def table_of(model: type[SQLModel]) -> Table:
    """The Core table behind a model: hot paths insert lists of rows, not objects."""
    table: Table = model.__table__  # type: ignore[attr-defined]
    return table


def insert(dialect: str, table: Table) -> Any:
    """An insert that knows `ON CONFLICT`, as the database of that dialect spells it."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)


def insert_ignoring(connection: AsyncConnection, model: type[SQLModel], *conflict: str) -> Any:
    """`INSERT … ON CONFLICT (conflict) DO NOTHING`."""
    statement = insert(connection.dialect.name, table_of(model))
    return statement.on_conflict_do_nothing(index_elements=list(conflict))


def adding(statement: Any, *counts: str) -> Any:
    """`… ON CONFLICT (primary key) DO UPDATE SET count = count + excluded.count`, for an `insert`."""
    table: Table = statement.table
    return statement.on_conflict_do_update(
        index_elements=list(table.primary_key),
        set_={name: table.c[name] + statement.excluded[name] for name in counts},
    )


def total(column: Any) -> ColumnElement[int]:
    """The sum of a column as an integer: of 64-bit columns PostgreSQL makes a decimal."""
    return cast(func.sum(column), BigInteger)


async def lock(connection: AsyncConnection, *name: str) -> None:
    """Have one transaction at a time do what goes by this name, in whichever process. It is held until the end.

    SQLite needs none: a transaction that may write keeps all other writers out from its beginning.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended("/".join(name), 0))))
