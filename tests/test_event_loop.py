"""The event loop and the file descriptors of every process."""

import asyncio
import subprocess
import sys
from contextlib import suppress

import pytest

from everhook import event_loop
from everhook.event_loop import end_task, sleep_unless

PROGRAM = """
import resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(hard, 4_096)))
from everhook import event_loop
async def main():
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], min(hard, 4_096), event_loop.file_limit())
event_loop.run(main())
"""


def test_a_process_takes_all_the_file_descriptors_that_it_may_have() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=30)
    soft, hard, known = done.stdout.split()
    assert soft == hard == known


async def test_a_task_is_cancelled_although_what_it_waits_for_happens_at_the_same_time() -> None:
    event = asyncio.Event()

    async def serve() -> None:
        while True:
            event.clear()
            await sleep_unless(event, 60)

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    event.set()
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=1)
    assert done == {task}


async def test_a_task_is_cancelled_again_if_a_library_swallows_the_cancellation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "CANCEL_AGAIN_S", 0.01)

    async def serve() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await asyncio.sleep(60)

    task = asyncio.create_task(serve())
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled()
