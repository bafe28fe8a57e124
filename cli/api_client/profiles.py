"""The client's config file: named addresses of APIs, each with its key.

profile = "production"

[profiles.production]
url = "https://everhook.example.com"
api_key = "ek_…"
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tomli_w
import typer

from cli.errors import UsageError

PRIVATE = 0o600
OTHERS = 0o077

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Profile:
    url: str
    api_key: str | None = None


@dataclass(frozen=True)
class Config:
    """The content of the file. `current` is the profile that is used if none is named."""

    current: str | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)

    def profile(self, name: str) -> Profile:
        """Raises UsageError if there is no profile of that name."""
        if name not in self.profiles:
            known = ", ".join(sorted(self.profiles)) or "none"
            raise UsageError(f"there is no profile {name} (there are: {known}); create it with `everhook profile set`")
        return self.profiles[name]

    def with_profile(self, name: str, profile: Profile) -> "Config":
        """A copy with the profile added. The first profile becomes the current one."""
        return replace(self, current=self.current or name, profiles={**self.profiles, name: profile})

    def without(self, name: str) -> "Config":
        self.profile(name)
        left = {other: profile for other, profile in self.profiles.items() if other != name}
        return Config(self.current if self.current in left else None, left)


def config_file() -> Path:
    """`~/.config/everhook/config.toml`, or the location for this platform."""
    if (home := os.environ.get("XDG_CONFIG_HOME")) and os.name == "posix":
        return Path(home) / "everhook" / "config.toml"
    return Path(typer.get_app_dir("everhook")) / "config.toml"


def load() -> Config:
    """Raises UsageError if the file exists and cannot be used."""
    file = config_file()
    try:
        with file.open("rb") as opened:
            return _parsed(tomllib.load(opened))
    except FileNotFoundError:
        return Config()
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be used: {error}; fix it, or move it away") from error


def save(config: Config) -> Path:
    """Write the file atomically, readable for its owner only; returns its path."""
    file = config_file()
    draft = file.with_name(f"{file.name}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w", encoding="utf-8") as output:
            output.write(_written(config))
        draft.replace(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error}") from error
    return file


def is_open_to_others() -> bool:
    """Whether other users of this machine may read the file."""
    if os.name != "posix":
        return False
    try:
        return bool(config_file().stat().st_mode & OTHERS)
    except OSError:
        return False


def check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError("a profile's name may have letters, digits, - and _ (64 at most)")
    return name


def _parsed(document: Mapping[str, Any]) -> Config:
    profiles = document.get("profiles", {})
    current = document.get("profile")
    if not isinstance(profiles, dict) or not (current is None or isinstance(current, str)):
        raise ValueError("`profile` must be a name, and `profiles` must be tables")
    return Config(current, {name: _parsed_profile(name, table) for name, table in profiles.items()})


def _parsed_profile(name: str, table: Any) -> Profile:
    known = {"url", "api_key"}
    if not isinstance(table, dict) or not all(key in known and isinstance(table[key], str) for key in table):
        raise ValueError(f"[profiles.{name}] has `url` and `api_key`, both strings")
    if "url" not in table:
        raise ValueError(f"[profiles.{name}] has no `url`")
    return Profile(table["url"], table.get("api_key") or None)


def _written(config: Config) -> str:
    """The file in TOML."""
    profiles = {name: _table(profile) for name, profile in config.profiles.items()}
    current = {"profile": config.current} if config.current else {}
    return tomli_w.dumps({**current, "profiles": profiles})


def _table(profile: Profile) -> dict[str, str]:
    table = {"url": profile.url} | ({"api_key": profile.api_key} if profile.api_key else {})
    if not all(text.isprintable() for text in table.values()):
        raise UsageError("a URL and a key may have printable characters only")
    return table
