"""`everhook keys`, and the key that `everhook serve` requires, from the command line."""

import asyncio
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from cli.api_keys import create, require_a_key
from cli.main import run as everhook
from everhook.settings import MIN_API_KEY_LENGTH, Settings
from everhook.storage.engine import Database
from everhook.storage.keyring import new_master_key
from everhook.storage.migrate import migrate
from everhook.storage.tables import AuditEntry
from everhook.tenants import store as tenants
from everhook.tenants.api_keys_store import ApiKeys, Holder, Scope
from testing.processes import refusing_port

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "everhook.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
def database_url(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    shutil.copy(migrated, tmp_path / "everhook.db")
    url = f"sqlite+aiosqlite:///{tmp_path / 'everhook.db'}"
    monkeypatch.setenv("EVERHOOK_DATABASE_URL", url)
    monkeypatch.setenv("EVERHOOK_MASTER_KEYS", new_master_key())
    for name in ("EVERHOOK_API_KEY", "EVERHOOK_DEV"):
        monkeypatch.delenv(name, raising=False)
    return url


@pytest.fixture
def run(database_url: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `everhook …`: status, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = everhook(list(arguments))
        return status, *capsys.readouterr()

    return run


def holder_of(database_url: str, key: str) -> Holder | None:
    async def ask() -> Holder | None:
        database = Database(database_url)
        try:
            return await ApiKeys(database).holder(key)
        finally:
            await database.close()

    return asyncio.run(ask())


def actions(database_url: str) -> list[tuple[str, str]]:
    async def ask() -> list[tuple[str, str]]:
        database = Database(database_url)
        try:
            async with database.reading() as session:
                rows = (await session.execute(select(AuditEntry).order_by("gid"))).scalars()
                return [(row.actor, row.action) for row in rows]
        finally:
            await database.close()

    return asyncio.run(ask())


def test_a_created_key_is_the_only_output_and_is_valid(run: Run, database_url: str) -> None:
    status, out, err = run("keys", "create", "--name", "first", "--scope", "admin", "--scope", "publish")

    assert status == 0
    holder = holder_of(database_url, out.strip())
    assert holder is not None and holder.name == "first"
    assert holder.scopes == {Scope.ADMIN, Scope.PUBLISH}
    assert holder.gid in err and out.strip() not in err
    assert actions(database_url) == [("command line", "api_key.created")]


def test_a_tenants_key_that_expires_as_json(run: Run, database_url: str) -> None:
    async def make_tenant() -> None:
        database = Database(database_url)
        async with database.writing() as session:
            await tenants.create(session, "acme")
        await database.close()

    asyncio.run(make_tenant())

    _, out, _ = run("keys", "create", "--name", "portal", "--tenant", "acme", "--expires-in-days", "1", "--json")

    made = json.loads(out)
    assert made["tenant"] == "acme" and made["expiresAt"] > made["createdAt"]
    holder = holder_of(database_url, made["key"])
    assert holder is not None and made["scopes"] == [f"tenant:{holder.tenant_gid}"]


def test_keys_are_listed_without_their_secrets_and_revoked_at_once(run: Run, database_url: str) -> None:
    name = "the first key of billing and of its reports"
    _, out, _ = run("keys", "create", "--name", name, "--scope", "read", "--scope", "publish", "--scope", "admin")
    key = out.strip()
    gid = key[:29]

    _, listed, _ = run("keys", "list")
    row = rf"{gid}  {name}  (admin|publish|read| ){{5}}  +active +never"
    assert re.fullmatch(rf"key +name +scopes .*\n{row} *\n", listed)
    assert key[29:] not in listed
    assert run("keys", "revoke", gid)[0] == 0

    assert holder_of(database_url, key) is None
    _, listed, _ = run("keys", "list", "--json")
    assert [(one["keyGid"], one["state"]) for one in json.loads(listed)] == [(gid, "revoked")]
    assert actions(database_url)[-1] == ("command line", "api_key.revoked")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "--name", "x"], "everhook: --scope: "),
        (["create", "--name", "x", "--scope", "root"], "everhook: --scope: "),
        (["create", "--name", "", "--scope", "read"], "everhook: --name: "),
        (["create", "--name", "x", "--scope", "receive:ep_1"], "everhook: --scope: "),
        (["create", "--name", "x", "--tenant", "nosuch"], "there is no tenant nosuch"),
        (["revoke", "ek_1"], "There is no API key ek_1"),
    ],
)
def test_an_invalid_argument_is_one_line_and_status_2(run: Run, arguments: list[str], message: str) -> None:
    status, _, err = run("keys", *arguments)

    assert status == 2
    assert message in err and len(err.splitlines()) == 1


def test_without_a_schema_the_command_says_what_to_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "everhook.db").unlink()

    for arguments in (["keys", "list"], ["serve"]):
        status, _, err = run(*arguments)
        assert status == 2
        assert "everhook migrate" in err and len(err.splitlines()) == 1


def test_serve_does_not_start_without_any_key(run: Run) -> None:
    key = run("keys", "create", "--name", "x", "--scope", "read")[1]
    run("keys", "revoke", key[:29])

    status, _, err = run("serve")

    assert status == 2
    assert "everhook keys create" in err and "EVERHOOK_API_KEY" in err and len(err.splitlines()) == 1


async def test_serve_starts_with_a_key_or_while_the_database_is_unavailable(database_url: str, lost_url: str) -> None:
    await require_a_key(Settings(dev=True, database_url=database_url))
    await require_a_key(Settings(api_key=SecretStr("k" * MIN_API_KEY_LENGTH), database_url=database_url))
    await require_a_key(Settings(database_url=lost_url))
    await create("first", ["read"], None, None)
    await require_a_key(Settings(database_url=database_url))


@pytest.fixture
def lost_url() -> str:
    return f"postgresql://everhook@127.0.0.1:{refusing_port()}/everhook"
