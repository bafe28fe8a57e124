"""`python -m tests.cli.apart FILE …`: `everhook …` with standard error in a file. A fork writes both outputs to one."""

import os
import sys

from cli.main import main

if __name__ == "__main__":
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600), sys.stderr.fileno())
    main(sys.argv[2:])
