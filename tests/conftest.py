"""What all tests share: temporary files in memory, quick collection, and the order of a run in several processes."""

import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from testing.schedule import ByGroup, in_order

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 1024**3


def _keep_temporary_files_in_memory() -> None:
    """Databases of tests are written to disk at each commit; in memory that takes no time (a disk: 1 to 5 ms).

    Nothing is lost that a test checks: what was written survives the death of a process in memory, too. A `TMPDIR`
    that is set is respected; so is a file system where nothing may be executed, or one that is nearly full.
    """
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if os.statvfs(MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(MEMORY).free < ENOUGH_BYTES:
        return
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


_keep_temporary_files_in_memory()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests are created and all of them stay: the collector would look at them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items[:] = in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config) -> ByGroup:
    config.option.loadscopereorder = False
    return ByGroup(config)
