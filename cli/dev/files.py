"""Files of `everhook dev` in its data directory, for other commands on this machine."""

import os
import shlex
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

DATA_DIR = ".everhook"
KEY_FILE = "api-key"
URL_FILE = "api-url"
"""The API's address. The file exists while `everhook dev` runs."""

ENVIRONMENT_FILE = "environment"
"""Variables with its database and its Temporal, for other processes and shells. Exists while `everhook dev` runs."""

DATABASE_VARIABLE = "EVERHOOK_DATABASE_URL"
TEMPORAL_VARIABLE = "TEMPORAL_ADDRESS"


def environment_text(variables: Mapping[str, str]) -> str:
    """Lines for `. .everhook/environment`."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def adopt_environment(environment: MutableMapping[str, str] = os.environ) -> bool:
    """Set the variables of the `everhook dev` that runs in this directory, unless the environment names a database or
    Temporal. Returns whether they were set.

    Only loopback addresses are accepted: a directory from elsewhere must not redirect a key.
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
