"""Commands beside an `everhook dev` find what it runs on; what is not theirs to find they leave."""

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


def test_what_dev_runs_on_is_found() -> None:
    dev_runs_here()
    environment: dict[str, str] = {}
    assert adopt_environment(environment)
    assert environment == DEV


def test_what_was_set_by_hand_stays() -> None:
    dev_runs_here()
    environment = {"EVERHOOK_MASTER_KEYS": "new,a"}
    assert adopt_environment(environment)
    assert environment == {**DEV, "EVERHOOK_MASTER_KEYS": "new,a"}


@pytest.mark.parametrize("name", ["EVERHOOK_DATABASE_URL", "TEMPORAL_ADDRESS"])
def test_where_the_environment_names_another_it_is_left_alone(name: str) -> None:
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
def test_a_file_that_leads_to_another_machine_is_not_believed(name: str, value: str) -> None:
    dev_runs_here(**{name: value})
    environment: dict[str, str] = {}
    assert not adopt_environment(environment)
    assert environment == {}


def test_where_nothing_runs_nothing_is_found() -> None:
    assert not adopt_environment({})


def test_a_file_that_no_shell_would_read_is_left_alone() -> None:
    Path(".everhook").mkdir()
    Path(".everhook/environment").write_text("export A='open")
    assert not adopt_environment({})
