"""The queue of an endpoint's attempts. Pure."""

UNLIMITED = 1_000.0
"""Requests per second of an endpoint without a rate limit: the highest possible limit."""


def queue_limit(rate_limit: float | None, max_in_flight: int | None) -> float | None:
    """The rate limit that workflows know of an endpoint. None: its attempts are made on the fair queue.

    Those of an endpoint with `max_in_flight` wait for their turn on the queue for limited endpoints, so that the ones
    that wait hold no slots of the other queue.
    """
    return UNLIMITED if rate_limit is None and max_in_flight is not None else rate_limit
