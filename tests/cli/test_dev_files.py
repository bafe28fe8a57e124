"""Commands in the directory of an `everhook dev` find its servers, and ignore settings of others."""

from pathlib import Path

import pytest

from cli.dev.files import adopt_environment, environment_text

DEV = {
    "EVERHOOK_DATABASE_URL": "sqlite+aiosqlite:////a place/with 'quotes'/everhook.db",
    "EVERHOOK_MASTER_KEYS": "a,b",
    "TEMPORAL_ADDRESS": "127.0.0.1:7233",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dev_runs_here(**changed: str) -> None:
    Path(".everhook").mkdir()
    Path(".everhook/environment").write_text(environment_text({**DEV, **changed}))


def test_the_settings_of_a_running_dev_are_found() -> None:
    dev_runs_here()
    environment: dict[str, str] = {}
    assert adopt_environment(environment)
    assert environment == DEV


def test_variables_that_are_set_already_are_kept() -> None:
    dev_runs_here()
    environment = {"EVERHOOK_MASTER_KEYS": "new,a"}
    assert adopt_environment(environment)
    assert environment == {**DEV, "EVERHOOK_MASTER_KEYS": "new,a"}


@pytest.mark.parametrize("name", ["EVERHOOK_DATABASE_URL", "TEMPORAL_ADDRESS"])
def test_an_environment_that_names_another_server_is_left_unchanged(name: str) -> None:
    dev_runs_here()
    environment = {name: "elsewhere"}
    assert not adopt_environment(environment)
    assert environment == {name: "elsewhere"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TEMPORAL_ADDRESS", "temporal.example.com:7233"),
        ("TEMPORAL_ADDRESS", ""),
        ("EVERHOOK_DATABASE_URL", "postgresql://db.example.com/everhook"),
    ],
)
def test_a_file_that_names_another_machine_is_ignored(name: str, value: str) -> None:
    dev_runs_here(**{name: value})
    environment: dict[str, str] = {}
    assert not adopt_environment(environment)
    assert environment == {}


def test_without_a_running_dev_nothing_is_found() -> None:
    assert not adopt_environment({})


def test_a_file_that_is_not_valid_shell_is_ignored() -> None:
    Path(".everhook").mkdir()
    Path(".everhook/environment").write_text("export A='open")
    assert not adopt_environment({})
