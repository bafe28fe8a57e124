"""The Helm chart, rendered by `helm` and validated with Kubernetes' own schemas."""

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import typer.main
import yaml

from cli.main import app
from everhook.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "deploy/helm/everhook"
KUBERNETES = "1.30"
CRDS = {"ServiceMonitor", "PrometheusRule"}
REQUIRED = {"issuer": "hooks.example.com"}
EVERYTHING = {
    **REQUIRED,
    "publicUrl": "https://hooks.example.com",
    "temporal": {"tls": True, "apiKey": {"name": "temporal", "key": "api-key"}},
    "env": {"EVERHOOK_TEMPORAL_HISTORY": "exceptions"},
    "api": {"worker": False, "autoscaling": {"enabled": True}, "podAnnotations": {"a": "b"}},
    "workers": {"enabled": True, "autoscaling": {"enabled": True}},
    "ingress": {"enabled": True, "host": "hooks.example.com", "tlsSecret": "tls", "className": "nginx"},
    "networkPolicy": {"from": [{"namespaceSelector": {}}], "metricsFrom": [{"namespaceSelector": {}}]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "imagePullSecrets": [{"name": "registry"}],
}
HELM = shutil.which("helm")

pytestmark = pytest.mark.skipif(HELM is None, reason="no `helm` here")


def helm(*arguments: str, values: Mapping[str, Any], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    assert HELM is not None
    return subprocess.run(
        [HELM, *arguments, str(CHART), "--values", str(file)], capture_output=True, text=True, check=False, cwd=tmp_path
    )


def rendered(values: Mapping[str, Any], tmp_path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Manifests by kind and name."""
    result = helm("template", "hooks", "--kube-version", KUBERNETES, values=values, tmp_path=tmp_path)
    assert result.returncode == 0, result.stderr
    found = [document for document in yaml.safe_load_all(result.stdout) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def container_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("values", [REQUIRED, EVERYTHING], ids=["least", "everything"])
def test_every_manifest_is_one_that_kubernetes_takes(values: Mapping[str, Any], tmp_path: Path) -> None:
    assert helm("lint", "--strict", values=values, tmp_path=tmp_path).returncode == 0
    manifests = rendered(values, tmp_path)
    for (kind, _), manifest in manifests.items():
        if kind not in CRDS:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    assert {kind for kind, _ in manifests} >= CRDS or values is REQUIRED


def test_the_issuer_must_be_named(tmp_path: Path) -> None:
    result = helm("template", "hooks", values={}, tmp_path=tmp_path)
    assert result.returncode != 0 and "issuer" in result.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": {"role": "senders"}},
        {"temporal": {"address": "temporal"}},
        {"env": {"PATH": "/"}},
        {"terminationGracePeriodSeconds": 30},
        {"replicas": 2},
    ],
)
def test_wrong_values_are_refused(wrong: Mapping[str, Any], tmp_path: Path) -> None:
    assert helm("template", "hooks", values={**REQUIRED, **wrong}, tmp_path=tmp_path).returncode != 0


def test_containers_run_commands_and_set_variables_that_exist(tmp_path: Path) -> None:
    commands = typer.main.get_group(app).commands
    variables = {f"EVERHOOK_{name.upper()}" for name in Settings.model_fields}
    workloads = [m for (kind, _), m in rendered(EVERYTHING, tmp_path).items() if kind in ("Deployment", "Job")]
    assert len(workloads) == 4
    for manifest in workloads:
        container = container_of(manifest)
        name, *options = container["args"]
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert {option for option in options if option.startswith("--")} <= known
        assert {each["name"] for each in container["env"] if each["name"].startswith("EVERHOOK_")} <= variables


def test_no_secret_is_in_a_manifest_and_no_container_is_privileged(tmp_path: Path) -> None:
    manifests = rendered(EVERYTHING, tmp_path)
    assert not [name for kind, name in manifests if kind == "Secret"]
    for (kind, _), manifest in manifests.items():
        if kind not in ("Deployment", "Job"):
            continue
        container = container_of(manifest)
        secret = {each["name"] for each in container["env"] if "valueFrom" in each}
        assert {"EVERHOOK_DATABASE_URL", "EVERHOOK_MASTER_KEYS", "TEMPORAL_API_KEY"} <= secret
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert manifest["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


def test_the_schema_and_the_namespace_are_ready_before_processes_of_a_release_start(tmp_path: Path) -> None:
    manifests = rendered(REQUIRED, tmp_path)
    hooks = [manifests["Job", f"hooks-everhook-{name}"]["metadata"]["annotations"] for name in ("migrate", "setup")]
    assert [hook["helm.sh/hook"] for hook in hooks] == ["pre-install,pre-upgrade"] * 2
    assert int(hooks[0]["helm.sh/hook-weight"]) < int(hooks[1]["helm.sh/hook-weight"])


def test_only_processes_that_serve_get_requests_and_the_api_key(tmp_path: Path) -> None:
    manifests = rendered(EVERYTHING, tmp_path)
    worker = container_of(manifests["Deployment", "hooks-everhook-worker"])
    assert [port["name"] for port in worker["ports"]] == ["metrics"]
    assert "EVERHOOK_API_KEY" not in {each["name"] for each in worker["env"]}
    selector = manifests["Service", "hooks-everhook"]["spec"]["selector"]
    labels = manifests["Deployment", "hooks-everhook-api"]["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert selector["app.kubernetes.io/component"] == "api"


def test_the_alert_rules_are_those_of_the_repository(tmp_path: Path) -> None:
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    assert rendered(EVERYTHING, tmp_path)["PrometheusRule", "hooks-everhook"]["spec"] == rules
    jobs = set(re.findall(r'job="?=?~?"?([a-z|.*-]+)"', json.dumps(rules).replace('\\"', '"')))
    assert any(re.fullmatch(pattern, "everhook") for pattern in jobs)


def test_the_version_is_that_of_the_package() -> None:
    from everhook import __version__

    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
