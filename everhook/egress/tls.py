"""What an endpoint's TLS may need beyond the usual: a certificate authority of its own, a certificate of ours.

Contexts are dear (16 ms of CPU and 0.85 MB each, nearly all of it the system's authorities), so they are kept by the
hash of what they were made of. That hash is part of the key of a kept-alive connection too: what one endpoint's
authority vouched for, or one endpoint's certificate opened, is never used for another.
"""

import asyncio
import hashlib
import os
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cachetools import LRUCache

from everhook.egress.errors import LocalError, TlsRefused

CACHED_CONTEXTS = 128


@dataclass(frozen=True)
class TlsExtras:
    """All PEM. `ca` adds to the system's authorities; `certificate` (leaf first) and `key` go together."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.ca, self.certificate, self.key)).encode()).digest()


@dataclass(frozen=True)
class Trust:
    """A context, and what tells it from others: empty for the usual one."""

    key: bytes
    context: ssl.SSLContext


class TlsContexts:
    """Contexts by what they are made of; those that were not used for longest give way."""

    def __init__(self, usual: ssl.SSLContext, *, keep: int = CACHED_CONTEXTS) -> None:
        self._usual = Trust(b"", usual)
        self._cache: LRUCache[bytes, Trust] = LRUCache(keep)
        self._one_at_a_time = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._cache)

    async def get(self, extras: TlsExtras | None) -> Trust:
        """Raises `TlsRefused`, `LocalError`."""
        if extras is None or extras == TlsExtras():
            return self._usual
        trust = self._cache.get(extras.digest)
        return trust if trust is not None else await self._make(extras)

    async def _make(self, extras: TlsExtras) -> Trust:
        """Make a context in a thread, because OpenSSL releases the interpreter's lock while it reads certificates."""
        async with self._one_at_a_time:
            trust = self._cache.get(extras.digest)
            if trust is None:
                trust = Trust(extras.digest, await asyncio.to_thread(make_context, extras))
                self._cache[extras.digest] = trust
            return trust


def usual_context() -> ssl.SSLContext:
    """The system's authorities, TLS 1.2 and later, HTTP/1.1."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def make_context(extras: TlsExtras) -> ssl.SSLContext:
    """Raises `TlsRefused` if `extras` cannot be used, `LocalError` if we could not try."""
    context = usual_context()
    if extras.ca is not None:
        _trust(context, extras.ca)
    if extras.certificate is not None and extras.key is not None:
        _present(context, extras.certificate, extras.key)
    elif extras.certificate is not None or extras.key is not None:
        raise TlsRefused("a client certificate and its key go together")
    return context


def _trust(context: ssl.SSLContext, ca: str) -> None:
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError, TypeError):  # TypeError: not ASCII
        raise TlsRefused("the CA is not a certificate in PEM") from None


def _present(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        with _as_file(f"{certificate}\n{key}\n") as path:
            context.load_cert_chain(path, password=_no_password)
    except ssl.SSLError as error:
        known = error.reason == "KEY_VALUES_MISMATCH"
        what = "the key is not the certificate's" if known else "the certificate or its key is not usable PEM"
        raise TlsRefused(f"{what} ({error.reason or 'no reason given'})") from None
    except OSError as error:
        raise LocalError(f"no file to hand a certificate to OpenSSL ({error.strerror})") from error


def _no_password() -> str:
    """Without this OpenSSL would ask for one at the terminal of the worker."""
    raise TlsRefused("the key is encrypted")


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """`ssl` takes certificates of ours from files only. In memory where that can be: no key belongs on a disk."""
    if sys.platform == "linux":
        with os.fdopen(os.memfd_create("everhook-tls"), "w") as memory:
            memory.write(text)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "client.pem")
            path.touch(mode=0o600)
            path.write_text(text)
            yield str(path)
