"""The script that leaves Temporal's visibility table with the indexes that Everhook needs."""

import importlib.util
from pathlib import Path
from types import ModuleType

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest

from everhook.temporal import search_attributes
from testing.temporal_server import NAMESPACE, TemporalServer

SCRIPT = Path(__file__).resolve().parents[1] / "deploy/temporal/visibility_indexes.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("visibility_indexes", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _load()


async def test_the_columns_of_all_search_attributes_keep_their_indexes(tmp_path: Path) -> None:
    async with TemporalServer(tmp_path) as server:
        client = await server.client()
        columns: set[str] = await script.used_columns(client)
        request = DescribeNamespaceRequest(namespace=NAMESPACE)
        config = (await client.workflow_service.describe_namespace(request)).config
    aliases = dict(config.custom_search_attribute_aliases)
    assert set(aliases.values()) == {key.name for key in search_attributes.ALL}
    kept = {line.split()[6] for line in script.statements(script.needed(columns)) if line.startswith("CREATE")}
    assert kept >= script.KEPT | {f"by_{column[:-2].lower()}_{column[-2:]}" for column in aliases}
    assert len(kept) == len(script.KEPT) + len(columns)


def test_each_index_is_either_created_or_dropped_and_all_can_be_restored() -> None:
    lines: list[str] = script.statements(script.needed({"Keyword09", "Datetime02", "KeywordList01", "Text03"}))
    assert len(lines) == len(script.DEFINITIONS) == 73
    assert (
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS by_keyword_09 ON executions_visibility (namespace_id, Keyword09, "
        "(COALESCE(close_time, '9999-12-31 23:59:59')) DESC, start_time DESC, run_id);"
    ) in lines
    assert "DROP INDEX CONCURRENTLY IF EXISTS by_keyword_01;" in lines
    assert all(line.startswith("CREATE INDEX CONCURRENTLY") for line in script.statements(script.DEFINITIONS))
