"""Keep one core busy for a share of the time: `python -m bench.burner CORE SHARE`."""

import os
import sys
import time

PERIOD_S = 0.02


def main(core: int, share: float) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        until = time.monotonic() + PERIOD_S * share
        while time.monotonic() < until:
            pass
        time.sleep(PERIOD_S * (1 - share))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
