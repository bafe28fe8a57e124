"""Names to addresses, so that no slow name server holds up anyone but its own tenant.

The event loop's own `getaddrinfo` shares the default executor: six threads on two cores, and six stalled names stop
every tenant. Here lookups have threads of their own, one lookup a name at a time, a short cache and a limit.
"""

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from everhook.egress.errors import OurFault, is_ours

Resolver = Callable[[str], Awaitable[tuple[str, ...]]]
"""All addresses of a name, or `NameUnresolved`. `OurFault` if we could not ask."""

THREADS = 32
CACHED_NAMES = 4096

_OUR_GAI_ERRORS = (socket.EAI_MEMORY,)


class NameUnresolved(Exception):
    """The name has no address, or its name servers did not say in time."""


Answer = tuple[str, ...] | NameUnresolved | OurFault


class CachingResolver:
    """`Resolver` over `lookup`, a blocking function: answers are kept 30 s, failures 5 s, and 5 s is the limit."""

    def __init__(
        self,
        lookup: Callable[[str], tuple[str, ...]] | None = None,
        *,
        limit: timedelta = timedelta(seconds=5),
        keep: timedelta = timedelta(seconds=30),
        keep_failure: timedelta = timedelta(seconds=5),
        threads: int = THREADS,
    ) -> None:
        self._lookup = lookup or getaddrinfo
        self._limit = limit.total_seconds()
        self._keep = keep.total_seconds()
        self._keep_failure = keep_failure.total_seconds()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="everhook-dns")
        self._cache: OrderedDict[str, tuple[float, Answer]] = OrderedDict()
        self._asking: dict[str, _Question] = {}

    async def __call__(self, name: str) -> tuple[str, ...]:
        answer = self._cached(name)
        if answer is None:
            answer = await self._ask(name)
        if isinstance(answer, Exception):
            raise type(answer)(*answer.args)  # a copy: waiters would pile their tracebacks onto one instance
        return answer

    def close(self) -> None:
        """Does not wait for stalled lookups: nothing ends a thread inside `getaddrinfo`."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _cached(self, name: str) -> Answer | None:
        expires, answer = self._cache.get(name, (0.0, None))
        return answer if time.monotonic() < expires else None

    async def _ask(self, name: str) -> Answer:
        """Wait for the one lookup of `name` under way; the lookup outlives those who give up on it."""
        question = self._asking.get(name)
        if question is None:
            question = self._asking[name] = _Question(name, self._lookup, self._threads)
            question.answer.add_done_callback(lambda _: self._learn(question))
        try:
            async with asyncio.timeout(self._limit):
                return await asyncio.shield(question.answer)
        except TimeoutError:
            return NameUnresolved("no answer in time") if question.started else OurFault("no resolver thread was free")

    def _learn(self, question: "_Question") -> None:
        del self._asking[question.name]
        if question.answer.cancelled():
            return
        answer = question.answer.result()
        if isinstance(answer, OurFault):
            return
        keep = self._keep_failure if isinstance(answer, NameUnresolved) else self._keep
        self._cache[question.name] = (time.monotonic() + keep, answer)
        self._cache.move_to_end(question.name)
        if len(self._cache) > CACHED_NAMES:
            self._cache.popitem(last=False)


class _Question:
    """One lookup in a thread. `started` tells a slow name server (theirs) from a queue for threads (ours)."""

    def __init__(self, name: str, lookup: Callable[[str], tuple[str, ...]], threads: ThreadPoolExecutor) -> None:
        self.name = name
        self.started = False
        self._lookup = lookup
        self.answer: asyncio.Future[Answer] = asyncio.wrap_future(threads.submit(self._run))

    def _run(self) -> Answer:
        """Never raises: a failed lookup that nobody waits for any more must not become a warning in the log."""
        self.started = True
        try:
            return self._lookup(self.name) or NameUnresolved("no address")
        except (NameUnresolved, OurFault) as answer:
            return answer
        except socket.gaierror as error:
            ours = error.errno in _OUR_GAI_ERRORS
            return OurFault("the resolver is out of memory") if ours else NameUnresolved("no address")
        except OSError as error:
            return OurFault("no socket for the resolver") if is_ours(error) else NameUnresolved("no address")
        except Exception as error:
            return OurFault(f"the resolver failed ({type(error).__name__})")


def getaddrinfo(name: str) -> tuple[str, ...]:
    """All addresses of `name`, each once, in the system's order of preference.

    Passed as bytes because for `str` Python applies the IDNA of 2003 a second time. Without AI_ADDRCONFIG: an answer
    that this machine could not dial is judged all the same.
    """
    found = socket.getaddrinfo(name.encode("ascii"), None, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
