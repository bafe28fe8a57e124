"""Retry policies of activities."""

from datetime import timedelta

from temporalio.common import RetryPolicy

RETRY_FOREVER = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=20))
"""For what must happen. These activities fail only by our own faults (no database, a bug): Temporal retries them until
the fault is fixed."""

RETRY_A_FEW = RetryPolicy(maximum_attempts=5)
"""For passes of a schedule: what a pass did not do, the next one does."""
