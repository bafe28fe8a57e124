"""The retry policies of activities."""

from datetime import timedelta

from temporalio.common import RetryPolicy

RETRY_FOREVER = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=20))
"""For activities that must succeed. They fail only by faults of the installation (no database, a bug), and Temporal
retries them until the fault is fixed."""

RETRY_A_FEW = RetryPolicy(maximum_attempts=5)
"""For passes of a schedule: the next pass does what a failed one did not."""
