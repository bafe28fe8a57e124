"""A real Prometheus with our rules, scraping what a test runs twice a second."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import yaml

from testing.processes import REPOSITORY, Process, free_port

RULES = REPOSITORY / "deploy/prometheus/rules.yml"


def tool(name: str) -> str:
    """`prometheus` or `promtool`; the test is skipped where there is none."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} here; Debian's package `prometheus` has it")
    return found


class PrometheusServer:
    """`jobs`: the address of each job."""

    def __init__(self, directory: Path, jobs: Mapping[str, str]) -> None:
        self.port = free_port()
        config = directory / "prometheus.yml"
        scraped = [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in jobs.items()]
        times = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config.write_text(yaml.safe_dump({"global": times, "rule_files": [str(RULES)], "scrape_configs": scraped}))
        options = [
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]
        self.process = Process([tool("prometheus"), *options], log=directory / "prometheus.log")

    async def __aenter__(self) -> Self:
        self.process.start()
        await self.process.wait_ready(url=f"http://127.0.0.1:{self.port}/-/ready")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.process.terminate()

    async def query(self, expression: str) -> list[float]:
        """The values of an instant query."""
        found = await self._get("query", query=expression)
        return [float(sample["value"][1]) for sample in found["result"]]

    async def rules(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = (await self._get("rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def _get(self, path: str, **params: str) -> dict[str, Any]:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            response = await client.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=params)
        body = response.json()
        assert body["status"] == "success", body
        data: dict[str, Any] = body["data"]
        return data
