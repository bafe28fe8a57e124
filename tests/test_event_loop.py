"""How every process runs."""

import subprocess
import sys

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
