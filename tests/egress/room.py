"""A closed room: a network namespace in which every address is this machine.

Every connection of a process inside, for example to 8.8.8.8 or 169.254.169.254, arrives at a server that listens here,
so that a test sees each connection that must not be made. Name servers are on 127.0.0.1. Linux only; no privileges are
needed where the kernel allows user namespaces.
"""

import functools
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_SET_UP = """
set -e
ip link set lo up
ip route add local 0.0.0.0/0 dev lo
ip -6 route add local ::/0 dev lo
mount --bind "$1/resolv.conf" /etc/resolv.conf
if [ -e /etc/nsswitch.conf ]; then mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf; fi
shift
exec "$@"
"""


def inside(command: Sequence[str], directory: Path) -> list[str]:
    """`command`, to be run in a new room; its configuration is written to `directory`."""
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
    (directory / "nsswitch.conf").write_text("hosts: files dns\n")
    return ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", _SET_UP, "room", str(directory), *command]


@functools.cache
def why_not() -> str | None:
    """The reason why this machine cannot create a room; None if it can."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            subprocess.run(inside(["true"], Path(directory)), check=True, capture_output=True, text=True, timeout=20)
        except FileNotFoundError:
            return "there is no `unshare` here"
        except subprocess.CalledProcessError as error:
            return f"no network namespace: {error.stderr.strip()}"
    return None
