"""The units in deploy/systemd: they run commands that exist, as users without privileges, and wait for the drain."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cli.main import WorkerRole, app
from cli.supervisor import DRAIN_S
from everhook.serving.server import PRODUCTION_GRACE_S
from everhook.settings import Settings
from everhook.storage.keyring import new_master_key
from tests.test_compose import FOREIGN_VARIABLES, OUR_VARIABLES
from worker import GRACE

ROOT = Path(__file__).resolve().parents[1]
SYSTEMD = ROOT / "deploy/systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
OURS = [unit for unit in UNITS if unit.name.startswith("everhook")]
RUNNING = [unit for unit in UNITS if unit.name != "everhook-setup.service"]
COMMANDS: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009 - of click's Group
DEPLOYMENT = (ROOT / "docs/deployment.md").read_text()

HARDENING = {
    "NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectClock", "ProtectControlGroups", "ProtectHome",
    "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces",
    "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality",
}  # fmt: skip


def _values(unit: Path) -> dict[tuple[str, str], list[str]]:
    """Values by section and key. A key may occur several times, which `configparser` does not support."""
    found: dict[tuple[str, str], list[str]] = {}
    section = ""
    for line in unit.read_text().splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert section and equals and re.fullmatch(r"[A-Z]\w+", key), line
            found.setdefault((section, key), []).append(value)
    return found


def _one(unit: Path, key: str, section: str = "Service") -> str:
    (value,) = _values(unit)[section, key]
    return value


def _variables(file: str) -> dict[str, str]:
    lines = [line for line in (SYSTEMD / file).read_text().splitlines() if line and not line.startswith("#")]
    return dict(re.fullmatch(r"([A-Z_]+)=(.*)", line).groups() for line in lines)  # type: ignore[union-attr,misc]


def each(units: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("unit", units, ids=lambda unit: unit.name)


def test_the_units_are_those_that_the_documentation_names() -> None:
    names = {unit.name.removesuffix(".service") for unit in UNITS}
    assert names == {"everhook", "everhook-api", "everhook-worker@", "everhook-setup", "temporal"}
    assert all(f"`{name}" in DEPLOYMENT for name in names)
    assert set(re.findall(r"everhook-worker@(\w+)`", DEPLOYMENT)) == {role.value for role in WorkerRole}


@each(OURS)
def test_every_unit_runs_a_command_with_options_that_it_has(unit: Path) -> None:
    for line in _values(unit)["Service", "ExecStart"]:
        program, name, *options = shlex.split(line.replace("%i", "all"))
        assert program == "/usr/local/bin/everhook"
        COMMANDS[name].make_context(name, options).close()


@each(UNITS)
def test_every_unit_has_a_user_of_its_own_and_no_privileges(unit: Path) -> None:
    service = {key: values for (section, key), values in _values(unit).items() if section == "Service"}
    user = unit.name.removesuffix(".service").partition("-")[0]
    assert (service["User"], service["Group"]) == ([user], [user])
    assert {key for key in HARDENING if service.get(key) == ["yes"]} == HARDENING
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"]) == (["strict"], [""])


@each(RUNNING)
def test_units_are_started_at_boot_and_restarted_when_they_end(unit: Path) -> None:
    assert _one(unit, "Restart") == "always"
    assert _one(unit, "StartLimitIntervalSec", "Unit") == "0"
    assert _one(unit, "WantedBy", "Install") == "multi-user.target"
    assert int(_one(unit, "LimitNOFILE")) >= 65_536


@each([unit for unit in OURS if unit in RUNNING])
def test_units_have_more_time_to_stop_than_their_processes_take(unit: Path) -> None:
    seconds = int(_one(unit, "TimeoutStopSec"))
    assert seconds > DRAIN_S > PRODUCTION_GRACE_S + GRACE.total_seconds()
    assert f"{seconds} s with `--processes`" in DEPLOYMENT
    assert _one(unit, "KillMode") == "mixed"  # the parent of several processes hands the signal on


@each(OURS)
def test_every_unit_has_the_environment_and_may_have_more(unit: Path) -> None:
    assert _values(unit)["Service", "EnvironmentFile"] == ["/etc/everhook/everhook.env", "-/etc/everhook/%N.env"]
    assert _one(unit, "WorkingDirectory") == "/opt/everhook"


def test_the_example_environment_is_accepted_once_it_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = _variables("everhook.env.example")
    assert variables.keys() <= OUR_VARIABLES
    assert [name for name, value in variables.items() if not value] == ["EVERHOOK_MASTER_KEYS"]
    for name, value in (variables | {"EVERHOOK_MASTER_KEYS": new_master_key()}).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.database_url == "postgresql+asyncpg://everhook:PASSWORD@db.internal/everhook"
    assert not settings.dev


def test_temporals_example_environment_has_what_its_server_reads() -> None:
    variables = _variables("temporal.env.example")
    assert variables.keys() == FOREIGN_VARIABLES["temporalio/server"]
    assert variables["TEMPORAL_ALLOW_NO_AUTH"] == "true"
    assert variables["NUM_HISTORY_SHARDS"] == "512"


@pytest.mark.parametrize("file", ["everhook.env.example", "temporal.env.example"])
def test_systemd_and_a_shell_read_the_same_from_an_example_environment(file: str) -> None:
    assert all(re.fullmatch(r"[\w.:/@+=,-]*", value) for value in _variables(file).values())


def test_the_command_runs_the_checkout_and_not_the_current_directory(tmp_path: Path) -> None:
    script = (SYSTEMD / "everhook.sh").read_text()
    here = script.replace("/opt/everhook/.venv/bin/python", sys.executable).replace("/opt/everhook", str(ROOT))
    (tmp_path / "everhook.py").write_text("raise SystemExit('another everhook')")
    (tmp_path / "command").write_text(here)
    done = subprocess.run(["sh", "command", "keys", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: everhook keys " in done.stdout


def test_systemd_itself_finds_no_fault(tmp_path: Path) -> None:
    """The unit with programs that exist here, because those of an installation do not."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("no systemd-analyze here; Debian's package `systemd` has it")
    files = []
    for unit in UNITS:
        file = tmp_path / unit.name.replace("@", "@all")
        file.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={sys.executable}", unit.read_text()))
        files.append(file)
    done = subprocess.run([analyze, "verify", "--man=no", *files], capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or any(f.name in line for f in files)]
    assert (done.returncode, ours) == (0, [])
