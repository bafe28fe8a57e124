"""Migrations that repair what earlier versions stored."""

import asyncio
from typing import Any

import orjson
import pytest
from alembic import command
from sqlmodel import select

from everhook.contracts import DeliveryMode
from everhook.storage.migrate import alembic_config
from everhook.storage.tables import Endpoint
from tests.stores.factories import Store


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.both_databases
async def test_defaults_and_choices_of_forms_that_fit_in_no_response_are_removed(
    store: Store, database_url: str
) -> None:
    fine = {"type": "string", "enum": ["a", "b"], "default": "a"}
    wrong = {"type": "string", "enum": ["a", nested(248)], "default": nested(248)}
    useless = {"type": "number", "enum": [nested(248)], "title": "Amount"}
    properties = {"fine": fine, "wrong": wrong, "useless": useless}
    task = {"title": "Approve?", "form": {"type": "object", "properties": properties}}
    broken = await store.endpoint(mode=DeliveryMode.INBOX, options={"name": "Managers", "task": task})
    plain = await store.endpoint(mode=DeliveryMode.INBOX, options={"name": "Others", "task": None})

    config = alembic_config(database_url)
    await asyncio.to_thread(command.downgrade, config, "0020")
    await asyncio.to_thread(command.upgrade, config, "head")

    async with store.database.reading() as session:
        rows = {row.gid: row.options for row in (await session.execute(select(Endpoint))).scalars()}
    orjson.dumps({"data": [{"options": rows[broken.gid]}]})
    assert rows[broken.gid]["task"]["form"]["properties"] == {
        "fine": fine,
        "wrong": {"type": "string", "enum": ["a"]},
        "useless": {"type": "number", "title": "Amount"},
    }
    assert rows[plain.gid] == {"name": "Others", "task": None}
