"""How to reach Temporal: what is read, and what is refused by every command that connects, before it does anything."""

import os
from pathlib import Path

import pytest
from temporalio.service import TLSConfig

from cli import main as cli
from cli.errors import UsageError
from everhook.errors import ConfigurationError
from everhook.storage.keyring import new_master_key
from everhook.temporal.options import connect_options
from testing.certificates import Authority, encrypted

COMMANDS = (["serve"], ["serve", "--worker"], ["worker"], ["setup"], ["doctor"])

SECRET = "temporal-secret"

WRONG: dict[str, dict[str, str]] = {
    "TEMPORAL_ADDRESS: ": {"TEMPORAL_ADDRESS": "temporal.internal"},
    "TEMPORAL_NAMESPACE: ": {"TEMPORAL_NAMESPACE": "every hook"},
    "TEMPORAL_API_KEY: ": {"TEMPORAL_API_KEY": f"{SECRET}\n"},
    "TEMPORAL_TLS: ": {"TEMPORAL_TLS": "no"},
    "TEMPORAL_TLS_CLIENT_CERT_PATH: ": {"TEMPORAL_TLS_CLIENT_CERT_PATH": "/nowhere/client.pem"},
    "TEMPORAL_TLS_CLIENT_KEY_PATH: ": {"TEMPORAL_TLS_CLIENT_KEY_PATH": "/nowhere/client.key"},
    "TEMPORAL_TLS_SERVER_CA_CERT_PATH: ": {"TEMPORAL_TLS_SERVER_CA_CERT_PATH": "/"},
    "TEMPORAL_TLS_CLIENT_CERT_…, TEMPORAL_TLS_CLIENT_KEY_…: ": {"TEMPORAL_TLS_CLIENT_KEY_DATA": SECRET},
    "TEMPORAL_TLS_CLIENT_CERT_PATH, TEMPORAL_TLS_CLIENT_CERT_DATA: ": {
        "TEMPORAL_TLS_CLIENT_CERT_PATH": __file__,
        "TEMPORAL_TLS_CLIENT_CERT_DATA": "x",
    },
    "TEMPORAL_TLS_SERVER_CA_CERT_PATH or TEMPORAL_TLS_SERVER_CA_CERT_DATA: ": {
        "TEMPORAL_TLS_SERVER_CA_CERT_PATH": __file__
    },
    "TEMPORAL_TLS_SERVER_NAME: ": {"TEMPORAL_TLS_SERVER_NAME": "https://temporal"},
    "TEMPORAL_CONFIG_FILE: ": {"TEMPORAL_CONFIG_FILE": "/nowhere/temporal.toml"},
    "TEMPORAL_CONFIG_FILE, TEMPORAL_PROFILE: ": {"TEMPORAL_PROFILE": "none-such"},
    "TEMPORAL_GRPC_META_TEAM_NAME: ": {"TEMPORAL_GRPC_META_TEAM_NAME": f"{SECRET}\n"},
}
"""What the message begins with, by the variables that are wrong."""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("TEMPORAL_", "EVERHOOK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EVERHOOK_API_KEY", "k" * 24)
    monkeypatch.setenv("EVERHOOK_MASTER_KEYS", new_master_key())
    monkeypatch.setenv("EVERHOOK_ISSUER", "hooks.example.com")
    monkeypatch.setenv("EVERHOOK_PORT", "0")
    monkeypatch.setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")


def _set(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("begins", WRONG)
def test_every_command_refuses_what_is_wrong_in_one_line_with_status_2(
    begins: str, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _set(monkeypatch, WRONG[begins])
    assert cli.run(command) == UsageError.status
    out, err = capsys.readouterr()
    assert err.startswith(f"everhook: {begins}") and err.count("\n") == 1 and out == ""
    assert SECRET not in err


@pytest.mark.parametrize(
    "address",
    ["temporal", "temporal:", ":7233", "temporal:0", "temporal:65536", "temporal:grpc", "temporal:7233/", "a b:7233",
     "https://temporal:7233", "::1:7233", "[::g]:7233", "temporal:7233,other:7233", "-a:7233", "temporäl:7233"],
)  # fmt: skip
def test_an_address_is_a_host_and_a_port(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    with pytest.raises(ConfigurationError, match="TEMPORAL_ADDRESS: not host:port"):
        connect_options()


@pytest.mark.parametrize(
    "address", ["localhost:7233", "temporal.internal.:7233", "my_temporal:1", "10.0.0.1:65535", "[::1]:7233"]
)
def test_addresses_that_people_have_are_taken(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", address)
    assert connect_options()["target_host"] == address


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and unit files set empty ones for what is optional."""
    names = ("ADDRESS", "NAMESPACE", "API_KEY", "TLS", "TLS_CLIENT_CERT_PATH", "TLS_CLIENT_KEY_DATA", "CONFIG_FILE")
    _set(monkeypatch, {f"TEMPORAL_{name}": "" for name in names})
    assert connect_options() == {"target_host": "localhost:7233", "namespace": "everhook"}


def test_a_key_switches_tls_on_and_tls_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPORAL_API_KEY", SECRET)
    assert connect_options()["tls"] is True
    monkeypatch.setenv("TEMPORAL_TLS", "False")
    assert connect_options()["tls"] is False


def test_the_profile_file_is_read_and_our_namespace_takes_the_place_of_its_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text('[profile.default]\naddress = "other:7233"\nnamespace = "default"\n')
    monkeypatch.delenv("TEMPORAL_ADDRESS")
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(file))
    assert connect_options() == {"target_host": "other:7233", "namespace": "everhook"}
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "default")
    assert connect_options()["namespace"] == "default"


@pytest.mark.parametrize("text", [f'api_key "{SECRET}"', f"[profile.default]\napi_key = {SECRET}"])
def test_a_profile_file_that_is_no_toml_is_not_quoted(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "temporal.toml"
    file.write_text(text)
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(file))
    with pytest.raises(ConfigurationError, match=r"^TEMPORAL_CONFIG_FILE, TEMPORAL_PROFILE: ") as error:
        connect_options()
    assert SECRET not in str(error.value)


def test_certificates_and_keys_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = Authority()
    pair = authority.issue("client")
    (tmp_path / "ca.pem").write_text(authority.pem)
    _set(
        monkeypatch,
        {
            "TEMPORAL_TLS_SERVER_CA_CERT_PATH": str(tmp_path / "ca.pem"),
            "TEMPORAL_TLS_SERVER_NAME": "temporal.example.com",
            "TEMPORAL_TLS_CLIENT_CERT_DATA": pair.certificate,
            "TEMPORAL_TLS_CLIENT_KEY_DATA": pair.key,
        },
    )
    assert connect_options()["tls"] == TLSConfig(
        server_root_ca_cert=authority.pem.encode(),
        domain="temporal.example.com",
        client_cert=pair.certificate.encode(),
        client_private_key=pair.key.encode(),
    )
    monkeypatch.setenv("TEMPORAL_TLS_CLIENT_KEY_DATA", encrypted(pair.key))
    with pytest.raises(
        ConfigurationError, match="TEMPORAL_TLS_CLIENT_KEY_DATA: no private key in PEM format without a password"
    ):
        connect_options()
