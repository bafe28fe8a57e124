"""Settings from the environment: how they are parsed, refused, and masked."""

import base64
from datetime import timedelta
from ipaddress import ip_network
from typing import Any, get_origin

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from everhook.errors import ConfigurationError
from everhook.receipts.issuer import issuer_name
from everhook.settings import MIN_API_KEY_LENGTH, Settings, load_settings
from everhook.storage.keyring import KeyRing, new_master_key

KEY = "k" * MIN_API_KEY_LENGTH
LISTS = [name for name, field in Settings.model_fields.items() if get_origin(field.annotation) is list]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EVERHOOK_{name.upper()}", raising=False)


def from_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings()


def test_without_any_variable_the_defaults_are_those_of_production() -> None:
    settings = Settings()
    assert not settings.dev
    assert settings.api_key is None
    assert not settings.egress_http
    assert (settings.egress_allow, settings.egress_ports) == ([], [])
    assert settings.max_payload_bytes == 256 * 1024
    assert settings.log_format == "json"


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("EVERHOOK_PORT", "9000", "port", 9000),
        ("everhook_port", "9000", "port", 9000),
        ("EVERHOOK_DEV", "true", "dev", True),
        ("EVERHOOK_DEV", "0", "dev", False),
        ("EVERHOOK_EXPRESS", "no", "express", False),
        ("EVERHOOK_LOG_FORMAT", "console", "log_format", "console"),
        ("EVERHOOK_RECONCILE_EVERY_SECONDS", "2.5", "reconcile_every_seconds", 2.5),
        ("EVERHOOK_ISSUER", "hooks.example.com/eu", "issuer", "hooks.example.com/eu"),
        ("EVERHOOK_EGRESS_PORTS", "443", "egress_ports", [443]),
        ("EVERHOOK_EGRESS_PORTS", "443, 8443,", "egress_ports", [443, 8443]),
        ("EVERHOOK_EGRESS_PORTS", "", "egress_ports", []),
        ("EVERHOOK_EGRESS_ALLOW", "", "egress_allow", []),
        ("EVERHOOK_EGRESS_ALLOW", "10.0.0.0/8", "egress_allow", [ip_network("10.0.0.0/8")]),
        (
            "EVERHOOK_EGRESS_ALLOW",
            " 10.0.0.0/8 , fd00::/8,127.0.0.1",
            "egress_allow",
            [ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1/32")],
        ),
    ],
)
def test_a_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: Any
) -> None:
    assert getattr(from_environment(monkeypatch, **{variable: text}), field) == value


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p@db/everhook", "postgresql+asyncpg://u:p@db/everhook"),
        ("postgres://u:p@db/everhook", "postgresql+asyncpg://u:p@db/everhook"),
        ("postgresql+asyncpg://u:p@db/everhook", "postgresql+asyncpg://u:p@db/everhook"),
        ("postgresql://u:p?#[@db:5433/x?sslmode=require", "postgresql+asyncpg://u:p?#[@db:5433/x?ssl=require"),
        ("postgresql:///x?host=/run/pg&service=a", "postgresql+asyncpg:///x?host=/run/pg&service=a"),
        ("postgresql://[::1]/x", "postgresql+asyncpg://[::1]/x"),
        ("sqlite:///everhook.db", "sqlite+aiosqlite:///everhook.db"),
        ("sqlite:////data/everhook.db", "sqlite+aiosqlite:////data/everhook.db"),
        ("sqlite+aiosqlite:///everhook.db", "sqlite+aiosqlite:///everhook.db"),
    ],
)
def test_common_forms_of_database_urls_are_accepted(monkeypatch: pytest.MonkeyPatch, given: str, used: str) -> None:
    assert from_environment(monkeypatch, EVERHOOK_DATABASE_URL=given).database_url == used
    url = make_url(used)
    url.get_dialect()().create_connect_args(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nope",
        "postgres:/x",
        "mysql://a:hunter2@b/c",
        "postgresql+psycopg2://u:hunter2@h/x",
        "postgresql://u:hunter2@h:port/x",
        "postgresql://h:65536/x",
        "postgresql://h/x?hunter2=1",
        "postgresql://h/x?prepared_statement_cache_size=many",
        "sqlite://host/x.db",
        "sqlite:x.db",
        "sqlite:///",
        "sqlite:////",
        "sqlite:///x?timeout=hunter2",
        "sqlite:///x?check_same_thread=bogus",
        "sqlite:///x?y=z",
        "postgresql://h/x?port=hunter2",
        "postgresql://h/x?host=/tmp&port=1,2",
        "postgresql://h/x?host=a,b&port=1,2,3",
        "postgresql://u:p@hunter2@h/x",
        "postgresql://u@hunter2@h/x",
        "postgresql://u:p@h/hunter2@h/x",
        "postgresql://u:p@h/x?host=hunter2@h",
        "postgresql://h/x?host=a&host=b",
        "postgresql://h/x?host=a,b",
        "postgresql://h/x?port=0",
        "postgresql://h/x?port=65536",
        "postgresql://h/x?host=a,b&port=1,70000",
        "postgresql://h/x?sslmode=hunter2",
        "postgresql://h/x?target_session_attrs=hunter2",
    ],
)
def test_an_unusable_database_url_is_reported_in_one_line_that_does_not_show_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("EVERHOOK_DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match=r"^EVERHOOK_DATABASE_URL: [^\n]*$") as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)
    assert ("%40" in str(refused.value)) == (url.count("@") > 1)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("EVERHOOK_EGRESS_ALLOW", "intranet", "'intranet' does not appear to be an IPv4 or IPv6 network"),
        ("EVERHOOK_TRUSTED_PROXIES", "10.0.0.0/8,10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("EVERHOOK_EGRESS_PORTS", "443,65536", "Input should be less than or equal to 65535"),
    ],
)
def test_an_error_in_a_list_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, message: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert str(refused.value) == f"{variable}: {message}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("EVERHOOK_PORT", "-1"),
        ("EVERHOOK_PORT", "65536"),
        ("EVERHOOK_PORT", "http"),
        ("EVERHOOK_DEV", "perhaps"),
        ("EVERHOOK_LOG_FORMAT", "xml"),
        ("EVERHOOK_LOG_LEVEL", "loud"),
        ("EVERHOOK_MAX_PAYLOAD_BYTES", "0"),
        ("EVERHOOK_DATABASE_POOL_SIZE", "0"),
        ("EVERHOOK_DISPATCH_CONCURRENCY", "0"),
        ("EVERHOOK_RECONCILE_EVERY_SECONDS", "0"),
        ("EVERHOOK_PARK_CHECK_SECONDS", "-1"),
        ("EVERHOOK_DEAD_LETTER_RETENTION_DAYS", "0"),
        ("EVERHOOK_DEAD_LETTER_RETENTION_DAYS", "1e9"),
        ("EVERHOOK_RETENTION_EVERY_SECONDS", "0"),
        ("EVERHOOK_PAYLOAD_RETENTION_DAYS", "-1"),
        ("EVERHOOK_DELIVERY_RETENTION_DAYS", "1e9"),
        ("EVERHOOK_CIRCUIT_FAILURE_THRESHOLD", "0"),
        ("EVERHOOK_RELEASE_RATE", "0"),
        ("EVERHOOK_ISSUER", "https://hooks.example.com"),
        ("EVERHOOK_ISSUER", "hooks example com"),
        ("EVERHOOK_ISSUER", ""),
        ("EVERHOOK_SEAL_RECEIPTS_EVERY_SECONDS", "61"),
        ("EVERHOOK_EGRESS_ALLOW", "10.0.0.1/8"),
        ("EVERHOOK_EGRESS_ALLOW", "intranet"),
        ("EVERHOOK_EGRESS_ALLOW", "10.0.0.0/8;127.0.0.1"),
        ("EVERHOOK_CIRCUIT_DISABLE_AFTER_HOURS", "inf"),
        ("EVERHOOK_EGRESS_PORTS", "https"),
        ("EVERHOOK_EGRESS_PORTS", "443 8443"),
        ("EVERHOOK_SMTP_DOMAINS", "@acme.example"),
        ("EVERHOOK_SMTP_DOMAINS", "acme.example."),
        ("EVERHOOK_SMTP_DOMAINS", "*"),
        *((f"EVERHOOK_{name.upper()}", text) for name in LISTS for text in (",", " ", " , ,")),
    ],
)
def test_an_invalid_value_is_refused_with_the_name_of_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        from_environment(monkeypatch, **{variable: text})
    assert {error["loc"][0] for error in refused.value.errors()} == {variable.removeprefix("EVERHOOK_").lower()}


@pytest.mark.parametrize("key", ["short", "k" * (MIN_API_KEY_LENGTH - 1)])
def test_a_short_api_key_is_refused_outside_dev(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    with pytest.raises(ValidationError, match="EVERHOOK_API_KEY must have at least 24 characters"):
        from_environment(monkeypatch, EVERHOOK_API_KEY=key)
    assert from_environment(monkeypatch, EVERHOOK_API_KEY=key, EVERHOOK_DEV="1").api_key is not None


@pytest.mark.parametrize("dev", ["0", "1"])
def test_an_empty_api_key_is_refused_in_every_environment(monkeypatch: pytest.MonkeyPatch, dev: str) -> None:
    with pytest.raises(ValidationError, match="EVERHOOK_API_KEY is empty"):
        from_environment(monkeypatch, EVERHOOK_API_KEY="", EVERHOOK_DEV=dev)


def test_a_long_api_key_is_taken_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_environment(monkeypatch, EVERHOOK_API_KEY=KEY)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == KEY
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()


def test_master_keys_are_a_list_newest_first_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    new, old = new_master_key(), new_master_key()
    settings = from_environment(monkeypatch, EVERHOOK_MASTER_KEYS=f"{new}, {old},")
    assert [key.get_secret_value() for key in settings.master_keys] == [new, old]
    shown = repr(settings) + str(settings) + settings.model_dump_json()
    assert new not in shown and old not in shown
    ring = KeyRing.from_settings(settings)
    assert ring.is_current(KeyRing([new]).encrypt("x", "place"))
    assert ring.decrypt(KeyRing([old]).encrypt("x", "place"), "place") == "x"


@pytest.mark.parametrize("keys", ["", "short", f"{base64.b64encode(bytes(32)).decode()},c2hvcnQ="])
def test_unusable_master_keys_are_reported_in_one_line_that_shows_none(
    monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"^[^\n]*EVERHOOK_MASTER_KEYS[^\n]*$") as refused:
        KeyRing.from_settings(from_environment(monkeypatch, EVERHOOK_MASTER_KEYS=keys))
    assert not any(key in str(refused.value) for key in keys.split(",") if key)


def test_the_issuer_is_required_outside_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    assert issuer_name(from_environment(monkeypatch, EVERHOOK_DEV="1")) == "localhost"
    assert issuer_name(from_environment(monkeypatch, EVERHOOK_DEV="0", EVERHOOK_ISSUER="a.example")) == "a.example"
    monkeypatch.delenv("EVERHOOK_ISSUER")
    with pytest.raises(ConfigurationError, match="EVERHOOK_ISSUER"):
        issuer_name(Settings())


TIMES = [name for name in Settings.model_fields if name.endswith(("_seconds", "_hours", "_days"))]


def test_no_time_is_longer_than_a_century(monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer one would end a worker, or a query, with an error: dates and timers have limits."""
    assert len(TIMES) > 20
    for name in TIMES:
        with pytest.raises(ValidationError, match=rf"(?s)^1 validation error.*\n{name}\n"):
            Settings.model_validate({"dev": True, name: 1e10})


def test_no_number_is_larger_than_the_database_can_count_to(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float, int | None)]
    assert len(numbers) > 50 and "undispatched_limit" in numbers
    for name in numbers:
        with pytest.raises(ValidationError, match=rf"(?s)^1 validation error.*\n{name}\n"):
            Settings.model_validate({"dev": True, name: 10**26})


def test_domains_of_mail_are_compared_without_case(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_environment(monkeypatch, EVERHOOK_SMTP_DOMAINS="ACME.example, b.example,")
    assert settings.smtp_domains == ["acme.example", "b.example"]


def test_the_password_of_the_database_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_environment(monkeypatch, EVERHOOK_DATABASE_URL="postgresql://everhook:hunter2@db/everhook")
    assert "hunter2" in settings.database_url
    assert "hunter2" not in repr(settings) + str(settings)


def test_variables_without_our_prefix_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment(monkeypatch, PORT="1", EVERHOOKPORT="2", EVERHOOK_UNKNOWN="3").port == 8080


def test_the_circuit_policy_is_built_from_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = from_environment(
        monkeypatch,
        EVERHOOK_CIRCUIT_FAILURE_THRESHOLD="3",
        EVERHOOK_CIRCUIT_COOLDOWN_SECONDS="1.5",
        EVERHOOK_CIRCUIT_COOLDOWN_MAX_SECONDS="9",
        EVERHOOK_CIRCUIT_DISABLE_AFTER_HOURS="2",
        EVERHOOK_RELEASE_RATE="7",
        EVERHOOK_RELEASE_RATE_MAX="70",
    ).circuit_policy
    assert (policy.failure_threshold, policy.cooldown, policy.cooldown_max, policy.disable_after) == (
        3,
        timedelta(seconds=1.5),
        timedelta(seconds=9),
        timedelta(hours=2),
    )
    assert (policy.release_rate, policy.release_rate_max) == (7, 70)


def test_the_default_circuit_policy_is_that_of_the_design() -> None:
    policy = Settings().circuit_policy
    assert (policy.failure_threshold, policy.cooldown, policy.cooldown_max, policy.disable_after) == (
        5,
        timedelta(seconds=30),
        timedelta(minutes=10),
        timedelta(days=5),
    )


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_a_refused_api_key_is_not_shown_either(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError) as refused:
        from_environment(monkeypatch, EVERHOOK_API_KEY="hunter2")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "temporal.example.com", 'https://a"b', ""])
def test_settings_that_become_links_are_web_addresses(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(dev=True, temporal_ui_url=url)


@pytest.mark.parametrize(
    "origin", ["app.example.com", "https://a.example; script-src *", "https://a.example/path", "*"]
)
def test_the_setting_of_who_may_frame_the_portal_is_an_origin(origin: str) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"dev": True, "portal_frame_ancestors": origin})
