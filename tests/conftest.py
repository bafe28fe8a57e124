"""What all tests share.

Temporary files are in memory, one throwaway certificate authority is all that is trusted, tests are collected without
the garbage collector, statements are compiled once, tracebacks are plain, and a run in several processes forks them
and has its own order.
"""

import atexit
import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from testing.certificates import Authority
from testing.collected import forks_of
from testing.compiled import share_compiled_statements
from testing.documented import take_undocumented
from testing.forks import one_server_for_all
from testing.schedule import ByGroup, in_order
from testing.tracebacks import log_plain_tracebacks

MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 1024**3
_OUR_AUTHORITY = "TEST_AUTHORITY_FILE"


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


def _trust_one_throwaway_authority() -> None:
    """To read the hundred and more certificates of the system takes 20 ms for each context, in each client and process.

    No test connects to a server that one of them has signed. What the environment names is replaced: a shell that sets
    `SSL_CERT_FILE` to the system's certificates would make each context cost these 20 ms again.
    """
    if _OUR_AUTHORITY in os.environ:  # in each further process of a run, too
        return
    directory = tempfile.TemporaryDirectory(prefix="everhook-ca-")
    atexit.register(directory.cleanup)
    file = Path(directory.name) / "ca.pem"
    file.write_text(Authority("Throwaway CA").pem)
    os.environ["SSL_CERT_FILE"] = os.environ[_OUR_AUTHORITY] = str(file)
    os.environ["SSL_CERT_DIR"] = directory.name


def _choose_how_many_examples() -> None:
    """`EVERHOOK_HYPOTHESIS=thorough` searches for long; a test that names a number of examples keeps it."""
    settings.register_profile("quick", max_examples=50, deadline=None)
    settings.register_profile("thorough", max_examples=2_000, deadline=None)
    settings.load_profile(os.environ.get("EVERHOOK_HYPOTHESIS", "quick"))


_choose_how_many_examples()
_keep_temporary_files_in_memory()
_trust_one_throwaway_authority()
share_compiled_statements()
log_plain_tracebacks()


def pytest_configure(config: pytest.Config) -> None:
    """Have xdist fork its processes."""
    if "popen" in (config.getoption("tx", None) or ()):
        servers = contextlib.ExitStack()
        config.add_cleanup(servers.close)
        servers.enter_context(one_server_for_all())
        python = servers.enter_context(forks_of(config.args))
        config.option.tx = [f"popen//python={python}" if tx == "popen" else tx for tx in config.option.tx]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests are created and all of them stay: the collector would look at them again and again. While they
    run, it collects less often than by default, which takes 6 % less time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Fail a test in which the API responded with a problem that its OpenAPI document lacks."""
    try:
        yield
    finally:
        undocumented = take_undocumented()
    assert not undocumented, f"not in the OpenAPI document: {undocumented}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items[:] = in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGroup:
    config.option.loadscopereorder = False
    return ByGroup(config, log)
