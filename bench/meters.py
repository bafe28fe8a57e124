"""CPU and memory of processes, added up by group."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import psutil

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
