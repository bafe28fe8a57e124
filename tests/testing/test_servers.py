"""Real servers come up, survive what tests do to them, and lose only what a test has them lose."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from testing.postgres_server import PostgresServer, binaries
from testing.stack import Process, ProcessFailed, TemporalServer
from testing.waiting import assert_eventually


@pytest.fixture
async def temporal(tmp_path: Path) -> AsyncIterator[TemporalServer]:
    async with TemporalServer(tmp_path) as server:
        yield server


async def _started(client: Client) -> WorkflowHandle[object, object]:
    return await client.start_workflow("Anything", id="one", task_queue="nobody")


async def test_temporal_keeps_its_workflows_over_kill_9(temporal: TemporalServer) -> None:
    await _started(await temporal.client())
    await temporal.restart(kill=True)
    assert (await (await temporal.client()).get_workflow_handle("one").describe()).id == "one"


async def test_temporal_can_lose_its_store(temporal: TemporalServer) -> None:
    await _started(await temporal.client())
    await temporal.restart(delete_store=True)
    client = await temporal.client()
    with pytest.raises(RPCError, match="not found"):
        await client.get_workflow_handle("one").describe()


async def test_a_suspended_temporal_responds_again_after_resuming(temporal: TemporalServer) -> None:
    client = await temporal.client()
    temporal.suspend()
    await assert_eventually(lambda: _assert_stopped(temporal.process.pid))
    temporal.resume()
    assert (await _started(client)).id == "one"


@pytest.mark.parametrize("directory", binaries(), ids=str)
async def test_postgres_keeps_what_was_committed_over_kill_9(tmp_path: Path, directory: Path) -> None:
    async with PostgresServer(tmp_path / "postgres.log", binaries_in=directory) as server:
        url = await server.create_database("other")
        await _ask(url, "CREATE TABLE t AS SELECT 1 AS x")
        await server.restart(kill=True)
        assert await _ask(url, "SELECT x FROM t") == 1
        await server.stop(immediate=True)
        with pytest.raises(OSError):
            await _ask(url, "SELECT 1")
        await server.start()
        assert await _ask(server.url, "SHOW fsync") == "on"
    assert not server.directory.exists()


async def test_a_process_that_fails_shows_its_log(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "echo why it failed; exit 3"], log=tmp_path / "sh.log")
    with pytest.raises(ProcessFailed, match="why it failed"):
        await process.run()
    process.start()
    with pytest.raises(ProcessFailed, match="status 3"):
        await process.wait_ready(line="never")


async def test_kill_9_takes_the_whole_family(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "setsid sleep 60 & echo started; wait"], log=tmp_path / "sh.log")
    process.start()
    await process.wait_ready(line="started")
    family = await assert_eventually(lambda: _children(process.pid))
    await process.kill9()
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family)


def _children(pid: int) -> list[psutil.Process]:
    children = psutil.Process(pid).children(recursive=True)
    assert children
    return children


def _assert_stopped(pid: int) -> None:
    assert psutil.Process(pid).status() == psutil.STATUS_STOPPED


async def _ask(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
