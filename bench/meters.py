"""CPU and memory of processes, added up by group."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import psutil

SAMPLE_S = 1.0

Members = Callable[[], Iterable[psutil.Process]]
"""The processes of a group as they are now: servers start and end some while they run."""


@dataclass(frozen=True)
class Cpu:
    """CPU seconds by group."""

    groups: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.groups.values())

    def __add__(self, other: "Cpu") -> "Cpu":
        return Cpu({name: seconds + other.groups.get(name, 0.0) for name, seconds in self.groups.items()})

    def __sub__(self, other: "Cpu") -> "Cpu":
        return Cpu({name: seconds - other.groups[name] for name, seconds in self.groups.items()})

    def __mul__(self, factor: float) -> "Cpu":
        return Cpu({name: seconds * factor for name, seconds in self.groups.items()})


class Meter:
    """CPU and memory of some groups of processes."""

    def __init__(self, groups: Mapping[str, Members]) -> None:
        self._groups = groups

    @property
    def names(self) -> list[str]:
        return list(self._groups)

    def cpu(self) -> Cpu:
        """CPU used so far, by children that have ended and were waited for as well."""
        return Cpu({name: sum(cpu_seconds(process) for process in of()) for name, of in self._groups.items()})

    def resident_mb(self, group: str) -> float:
        """Resident memory, shared libraries included."""
        return sum(process.memory_info().rss for process in self._groups[group]()) / 1e6

    def private_mb(self) -> dict[str, float]:
        """Memory by group without what is shared with other processes: files and PostgreSQL's shared buffers."""
        return {name: sum(private_mb(process) for process in of()) for name, of in self._groups.items()}


def alone(pid: int) -> Members:
    """One process without its children."""
    process = psutil.Process(pid)
    return lambda: [process]


def family(pid: int) -> Members:
    """A process with all its descendants."""
    process = psutil.Process(pid)
    return lambda: [process, *process.children(recursive=True)]


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time; none for a process that has just ended: its parent has it then."""
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system + times.children_user + times.children_system
    return 0.0


def private_mb(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        memory = process.memory_info()
        return (memory.rss - memory.shared) / 1e6
    return 0.0


class Others:
    """How much CPU other processes of this machine use while a block runs: it explains figures that are off."""

    def __init__(self) -> None:
        self.cores = 0.0
        """Cores that they used on average, once the block has ended."""
        self._own: dict[int, float] = {}
        self._own_used = 0.0

    async def __aenter__(self) -> Self:
        self._own = _own_seconds()
        self._began, self._busy = time.monotonic(), _busy_seconds()
        self._task = asyncio.create_task(self._sample_forever())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        self._sample()
        self.cores = max(0.0, _busy_seconds() - self._busy - self._own_used) / (time.monotonic() - self._began)

    async def _sample_forever(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            self._sample()

    def _sample(self) -> None:
        """Add what this process and each one below it used since the last sample."""
        own = _own_seconds()
        self._own_used += sum(seconds - self._own.get(pid, 0.0) for pid, seconds in own.items())
        self._own = own


def _own_seconds() -> dict[int, float]:
    """CPU seconds of this process and those below it, by process id."""
    own = {}
    for process in family(os.getpid())():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            own[process.pid] = times.user + times.system
    return own


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
