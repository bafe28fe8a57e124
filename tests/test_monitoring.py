"""Prometheus' rules and Grafana's board, as far as they can be checked without a running stack."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.prometheus import tool

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "deploy/prometheus"
BOARD: dict[str, Any] = json.loads((ROOT / "deploy/grafana/everhook.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"][0]["rules"]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}

PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]

UNITS = {"short", "s", "ms", "percentunit", "reqps", "ops", "bytes"}
"""Of Grafana's units, those that are used: a misspelt one is shown as text after the number."""


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")],
    ids=" ".join,
)
def test_promtool_finds_no_fault(arguments: tuple[str, ...]) -> None:
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_an_injected_fault(tmp_path: Path) -> None:
    for name in ("rules.yml", "rules_test.yml"):
        (tmp_path / name).write_text((PROMETHEUS / name).read_text().replace("> 120", "> 1200"))
    assert promtool("test", "rules", str(tmp_path / "rules_test.yml")).returncode != 0


def test_every_alert_is_tested_in_firing_and_in_silence() -> None:
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    cases = [
        (case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test.get("alert_rule_test", [])
    ]
    assert {name for name, fires in cases if fires} == set(ALERTS)
    silent_in_the_first = tests[0]["promql_expr_test"][0]
    assert (silent_in_the_first["expr"], silent_in_the_first["exp_samples"]) == ("ALERTS", [])


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_says_what_it_is_and_leads_to_a_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"] and rule["annotations"]["description"] and rule["for"]
    assert rule["annotations"]["runbook"] == f"docs/operating.md#{alert.lower()}"
    text = (ROOT / "docs/operating.md").read_text()
    runbook = text.split(f"\n### {alert}\n", 1)[1].split("\n### ", 1)[0]
    assert len(runbook.split()) > 120, "a runbook is more than a remark"


def test_the_jobs_that_alerts_and_board_go_by_are_scraped() -> None:
    """`everhook-api` and `everhook-worker` are for separate APIs and workers, which Compose does not run."""
    scraped = {job["job_name"] for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]}
    expressions = [rule["expr"] for rule in RULES]
    expressions += [target["expr"] for panel in PANELS for target in panel["targets"]]
    matchers = {matcher for text in expressions for matcher in re.findall(r'job=~?"([^"]+)"', text)}
    assert len(matchers) > 2
    for matcher in matchers:
        assert any(re.fullmatch(matcher, job) for job in scraped), matcher


def test_temporal_has_the_metrics_that_alerts_ask_it_for() -> None:
    """The embedded server is the same code; its binary has the names of all its metrics."""
    asked = {name for rule in RULES for name in re.findall(r'(\w+)\{job="temporal"', rule["expr"])} - {"up"}
    assert len(asked) == 5
    image = (Path(sys.executable).parent / "temporal").read_bytes()
    assert [name for name in asked if name.removesuffix("_bucket").encode() not in image] == []
    assert b"approximate_backlog_age_hours" not in image


def test_there_is_no_runbook_without_an_alert() -> None:
    assert set(re.findall(r"^### (Everhook\w+)$", (ROOT / "docs/operating.md").read_text(), re.MULTILINE)) == set(
        ALERTS
    )


def test_the_board_is_one_that_grafana_takes() -> None:
    assert (BOARD["uid"], BOARD["title"]) == ("everhook", "Everhook")
    assert BOARD["schemaVersion"] >= 36 and BOARD["time"] and BOARD["templating"]["list"]
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    (variable,) = BOARD["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == ("datasource", "datasource", "prometheus")


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["type"] in ("stat", "timeseries")
    assert panel["title"] and len(panel["description"]) > 20
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEF"[: len(panel["targets"])])
    assert all(target["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for target in panel["targets"])
    assert all(target["legendFormat"] for target in panel["targets"])


def test_panels_do_not_overlap_and_fill_the_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)
