"""TLS contexts for endpoints with their own certificate authority or a client certificate.

Contexts are expensive (16 ms of CPU and 0.85 MB each, mostly for the system's authorities), so they are cached by the
hash of their material. That hash is also part of the key of a keep-alive connection, so a connection that was
authenticated with one endpoint's authority or certificate is never used for another endpoint.
"""

import asyncio
import functools
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
    """The TLS material of an endpoint, in PEM. `ca` is added to the system's authorities; `certificate` (leaf first)
    and `key` belong together."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = field(default=None, repr=False)

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(repr((self.ca, self.certificate, self.key)).encode()).digest()


@dataclass(frozen=True)
class Trust:
    """A context and its key; the key of the default context is empty."""

    key: bytes
    context: ssl.SSLContext


class TlsContexts:
    """Contexts by their material; the least recently used ones are dropped."""

    def __init__(self, usual: ssl.SSLContext, *, keep: int = CACHED_CONTEXTS) -> None:
        self._usual = Trust(b"", usual)
        self._cache: LRUCache[bytes, Trust] = LRUCache(keep)
        self._one_at_a_time = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._cache)

    async def get(self, extras: TlsExtras | None) -> Trust:
        """The context for an endpoint. Raises `TlsRefused` and `LocalError`."""
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
    """The default context: the system's authorities, TLS 1.2 and later, HTTP/1.1."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


@functools.cache
def shared_context() -> ssl.SSLContext:
    """The default context of this process, which nothing may change. Reading the authorities takes 40 ms."""
    return usual_context()


def make_context(extras: TlsExtras) -> ssl.SSLContext:
    """Create a context. Raises `TlsRefused` if `extras` cannot be used, `LocalError` if they could not be tried."""
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
        raise LocalError(f"cannot create a file for OpenSSL ({error.strerror})") from error


def _no_password() -> str:
    """Refuse encrypted keys: otherwise OpenSSL would ask for the password at the worker's terminal."""
    raise TlsRefused("the key is encrypted")


@contextmanager
def _as_file(text: str) -> Iterator[str]:
    """A file with this text, because `ssl` reads client certificates only from files. In memory where possible,
    since a key should not be on disk."""
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
