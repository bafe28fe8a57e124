"""Which API a command talks to, and with which key.

The URL is the first of: `--api-url`; `--profile`; `EVERHOOK_URL`; `EVERHOOK_PROFILE`; an `everhook dev` that runs in
this directory; the current profile of the config file; http://127.0.0.1:8080.

The key is `EVERHOOK_API_KEY`, unless `--profile` is given; otherwise the key from the same source as the URL. So a key
of the config file is sent only to the address that it is stored with.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cli.api_client import profiles
from cli.dev.files import DATA_DIR, KEY_FILE, URL_FILE, is_loopback
from cli.errors import UsageError

URL_VARIABLE = "EVERHOOK_URL"
KEY_VARIABLE = "EVERHOOK_API_KEY"
PROFILE_VARIABLE = "EVERHOOK_PROFILE"
VARIABLES = (URL_VARIABLE, KEY_VARIABLE, PROFILE_VARIABLE)

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True)
class Target:
    """`source` and `key_source` say where URL and key come from, for error messages."""

    url: str
    source: str
    api_key: str | None = None
    key_source: str = ""

    @property
    def is_here(self) -> bool:
        """Whether the API is on this machine."""
        return is_loopback(self.url)


def find_target(url: str | None, profile: str | None, environment: Mapping[str, str] = os.environ) -> Target:
    """The target of a command. Raises UsageError if an address or a key is invalid."""
    found = _place(url, profile, environment)
    key = environment.get(KEY_VARIABLE)
    if key and profile is None:
        found = Target(found.url, found.source, key, KEY_VARIABLE)
    return Target(check_url(found.url, found.source), found.source, _checked_key(found), found.key_source)


def _place(url: str | None, profile: str | None, environment: Mapping[str, str]) -> Target:
    if url is not None:
        return _named(profile, "--profile", url) if profile is not None else Target(url, "--api-url")
    if profile is not None:
        return _named(profile, "--profile")
    if given := environment.get(URL_VARIABLE):
        return Target(given, URL_VARIABLE)
    if name := environment.get(PROFILE_VARIABLE):
        return _named(name, PROFILE_VARIABLE)
    return _dev_here(Path(DATA_DIR)) or _current_profile() or Target(DEFAULT_URL, "the default")


def _named(name: str, by: str, url: str | None = None) -> Target:
    """The target of a profile. With `url` the profile's key is sent there: both were given explicitly."""
    found = profiles.load().profile(name)
    place = f"profile {name}"
    return Target(url or found.url, f"{place} ({by})" if url is None else "--api-url", found.api_key, place)


def _current_profile() -> Target | None:
    config = profiles.load()
    if config.current is None:
        return None
    found = config.profile(config.current)
    place = f"profile {config.current}"
    return Target(found.url, place, found.api_key, place)


def _dev_here(directory: Path) -> Target | None:
    """Only loopback addresses are accepted: a directory from elsewhere must not redirect a key or a payload."""
    url = _first_line(directory / URL_FILE)
    if url is None or not is_loopback(url):
        return None
    key_file = directory / KEY_FILE
    return Target(url, "`everhook dev` in this directory", _first_line(key_file), str(key_file))


def _first_line(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def check_url(url: str, source: str) -> str:
    """The normalized URL. Raises UsageError with its source."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment or not url.isprintable():
        raise UsageError(f"{source}: an API's URL must be http(s)://host:port, not {url[:200]!r}")
    return url.rstrip("/")


def _checked_key(target: Target) -> str | None:
    key = target.api_key
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
        raise UsageError(f"{target.key_source}: an API key must be printable ASCII characters without spaces")
    return key
