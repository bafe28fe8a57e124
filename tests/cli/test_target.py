"""Where a command finds the API, and which key it takes there."""

import os
from pathlib import Path

import pytest

from cli.api_client import profiles
from cli.api_client.profiles import Config, Profile
from cli.api_client.target import DEFAULT_URL, find_target
from cli.errors import UsageError
from tests.cli.conftest import Everhook, Result

ENVIRONMENT = {"EVERHOOK_URL": "http://env.test", "EVERHOOK_API_KEY": "key-of-env"}


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere: Path) -> None:
    pass


def keep(current: str | None = None, **named: Profile) -> None:
    profiles.save(Config(current, named))


def dev_runs_here(url: str = "http://127.0.0.1:8081", key: str = "key-of-dev") -> None:
    Path(".everhook").mkdir()
    Path(".everhook/api-url").write_text(url + "\n")
    Path(".everhook/api-key").write_text(key + "\n")


def found(url: str | None = None, profile: str | None = None, **environment: str) -> tuple[str, str | None]:
    target = find_target(url, profile, environment)
    return target.url, target.api_key


def test_the_default_target_is_the_default_port_of_this_machine() -> None:
    assert found() == (DEFAULT_URL, None)


def test_an_everhook_dev_in_this_directory_is_found_with_its_key() -> None:
    dev_runs_here()
    assert found() == ("http://127.0.0.1:8081", "key-of-dev")


def test_an_everhook_dev_in_this_directory_wins_over_the_current_profile() -> None:
    keep("production", production=Profile("https://production.test", "key-of-production"))
    dev_runs_here()
    assert found() == ("http://127.0.0.1:8081", "key-of-dev")


def test_a_directory_that_names_another_machine_is_ignored() -> None:
    dev_runs_here("http://attacker.test")
    assert found() == (DEFAULT_URL, None)
    assert found(EVERHOOK_API_KEY="key-of-env")[0] == DEFAULT_URL


def test_the_current_profile_is_used_if_nothing_else_is_given() -> None:
    keep("production", production=Profile("https://production.test/", "key-of-production"))
    assert found() == ("https://production.test", "key-of-production")


def test_the_environment_wins_over_a_dev_and_the_current_profile() -> None:
    keep("production", production=Profile("https://production.test", "key-of-production"))
    dev_runs_here()
    assert found(**ENVIRONMENT) == ("http://env.test", "key-of-env")


def test_a_url_of_the_environment_wins_over_a_profile_of_the_environment() -> None:
    keep(staging=Profile("https://staging.test", "key-of-staging"))
    assert found(EVERHOOK_PROFILE="staging") == ("https://staging.test", "key-of-staging")
    assert found(EVERHOOK_PROFILE="staging", **ENVIRONMENT) == ("http://env.test", "key-of-env")


def test_an_option_wins_over_the_environment() -> None:
    keep(staging=Profile("https://staging.test", "key-of-staging"))
    assert found("http://option.test", **ENVIRONMENT) == ("http://option.test", "key-of-env")
    assert found(profile="staging", **ENVIRONMENT) == ("https://staging.test", "key-of-staging")
    assert found("http://option.test", "staging", **ENVIRONMENT) == ("http://option.test", "key-of-staging")


def test_a_stored_key_is_sent_only_to_its_own_address() -> None:
    keep("production", production=Profile("https://production.test", "key-of-production"))
    dev_runs_here()
    assert found("http://other.test") == ("http://other.test", None)
    assert found(EVERHOOK_URL="http://other.test") == ("http://other.test", None)


def test_an_unknown_profile_is_reported_with_the_known_ones() -> None:
    keep(staging=Profile("https://staging.test"))
    with pytest.raises(UsageError, match=r"no profile production \(there are: staging\)"):
        found(profile="production")


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:0:1", "http://u:p@x", "http://x/?a=b", "http://x\x1b[2J/"],
)
def test_an_invalid_address_is_refused_with_its_source(url: str) -> None:
    with pytest.raises(UsageError, match="--api-url"):
        found(url)


@pytest.mark.parametrize("key", ["two words", "schlüssel", "tab\tbed"])
def test_an_invalid_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UsageError, match="EVERHOOK_API_KEY") as refusal:
        found(EVERHOOK_API_KEY=key)
    assert key not in str(refusal.value)


# The config file


def test_profiles_are_stored_readable_only_by_their_owner_and_read_again() -> None:
    config = Config("b", {"a": Profile("http://a.test", 'quotes " and \\'), "b": Profile("https://b.test/ü")})
    file = profiles.save(config)
    assert file.stat().st_mode & 0o777 == 0o600
    assert profiles.load() == config


@pytest.mark.parametrize(
    "text",
    [
        "not toml",
        "profile = 1",
        "profiles = 1",
        "[profiles.a]\nurl = 1",
        "[profiles.a]\n",
        "[profiles.a]\nurl='x'\nk='y'",
    ],
)
def test_a_config_file_that_cannot_be_used_is_named(text: str) -> None:
    file = profiles.config_file()
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(UsageError, match=str(file)):
        profiles.load()


async def test_profiles_are_set_listed_used_and_removed(plain: Everhook, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await set_profile(plain, monkeypatch, "production", "secret-key-1\n")).status == 0
    keep("production", production=profiles.load().profile("production"), staging=Profile("https://staging.test"))
    await plain.ok("profile", "use", "staging")
    listed = await plain.json("profile", "list")
    assert listed == [
        {"name": "production", "url": "https://production.test", "key": True, "current": False},
        {"name": "staging", "url": "https://staging.test", "key": False, "current": True},
    ]
    shown = await plain.ok("profile", "list")
    assert "secret-key-1" not in shown.out
    await plain.ok("profile", "remove", "staging")
    assert [profile["name"] for profile in await plain.json("profile", "list")] == ["production"]
    assert (await plain("profile", "use", "staging")).status == 2


@pytest.mark.parametrize("text", ["", "\n", " \nsecret-key-1\n"])
async def test_a_profile_without_a_key_is_not_stored(
    plain: Everhook, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    refused = await set_profile(plain, monkeypatch, "production", text)
    assert refused.status == 2 and "no key" in refused.err
    assert profiles.load() == Config()


async def set_profile(everhook: Everhook, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> Result:
    """The key is read from standard input, where it is not visible in the list of processes."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        return await everhook("profile", "set", name, "--api-url", f"https://{name}.test")


async def test_a_config_file_that_others_can_read_is_warned_of(plain: Everhook) -> None:
    keep("here", here=Profile("http://127.0.0.1:1", "k"))
    file = profiles.config_file()
    assert "chmod" not in (await plain("channels", "list")).err
    file.chmod(0o644)
    assert f"chmod 600 {file}" in (await plain("channels", "list")).err
