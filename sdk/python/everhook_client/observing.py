"""What a consumer reports while it runs."""

import logging
from typing import Literal

from everhook_client.errors import EverhookError
from everhook_client.messages import Message
from everhook_client.models import LeaseResult

Transport = Literal["stream", "poll"]

log = logging.getLogger("everhook_client")


class Observer:
    """Logs to the logger `everhook_client`. Override what you want to know; an exception of a method ends the
    consumer."""

    def connected(self, transport: Transport) -> None:
        """Messages are received over this transport from now on."""
        log.info("connected: %s", transport)

    def fell_back(self, reason: str) -> None:
        """Streaming does not work here, for this reason: polling for some minutes."""
        log.warning("polling instead of streaming: %s", reason)

    def failed(self, error: EverhookError) -> None:
        """A request failed, and is repeated."""
        log.warning("%s; trying again", error)

    def held(self, reason: str | None) -> None:
        """Nothing is handed out, for this reason: `paused`, `circuit_open`, …; None: it is handed out again."""
        log.info("nothing is handed out: %s", reason) if reason else log.info("messages are handed out again")

    def handler_raised(self, message: Message, error: Exception) -> None:
        """The handler failed: the message is returned, and comes back."""
        log.error("the handler of %s failed", message.gid, exc_info=error)

    def settled(self, message: Message, result: LeaseResult, reason: str | None, seconds: float) -> None:
        """The API took the acknowledgement, or the return with its reason. `seconds` since the handler began."""
        log.log(
            logging.DEBUG if result["status"] in ("acked", "nacked") else logging.WARNING,
            "%s: %s after %.1f s", message.gid, result["status"], seconds,
        )  # fmt: skip

    def lease_lost(self, message: Message, result: LeaseResult) -> None:
        """The lease could not be extended: other consumers may have the message, too."""
        log.warning("the lease of %s is %s; others may have it too", message.gid, result["status"])
