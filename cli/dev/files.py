"""What `everhook dev` keeps in its data directory for the commands that are run beside it."""

import os
import shlex
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

DATA_DIR = ".everhook"
KEY_FILE = "api-key"
URL_FILE = "api-url"
"""Where the API is. It is there for as long as `everhook dev` runs."""

ENVIRONMENT_FILE = "environment"
"""Variables that lead other processes to its database and its Temporal, to be read by shells too. There as long."""

DATABASE_VARIABLE = "EVERHOOK_DATABASE_URL"
TEMPORAL_VARIABLE = "TEMPORAL_ADDRESS"


def environment_text(variables: Mapping[str, str]) -> str:
    """Lines for `. .everhook/environment`."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def adopt_environment(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Take the variables of the `everhook dev` that runs in this directory, unless there are own ones that say where
    database or Temporal are. Whether they were taken.

    Only what is on this machine is believed: a directory that came from elsewhere must not lead a key away.
    """
    if DATABASE_VARIABLE in environment or TEMPORAL_VARIABLE in environment:
        return False
    variables = _variables(Path(DATA_DIR) / ENVIRONMENT_FILE)
    if not variables.get(DATABASE_VARIABLE, "").startswith("sqlite") or not is_loopback(
        f"//{variables.get(TEMPORAL_VARIABLE, '')}"
    ):
        return False
    for name, value in variables.items():
        environment.setdefault(name, value)
    return True


def _variables(file: Path) -> dict[str, str]:
    try:
        words = shlex.split(file.read_text(), comments=True)
    except (OSError, ValueError):
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


def is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
