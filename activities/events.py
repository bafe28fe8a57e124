"""`publish_events`: operators are told what happened."""

import structlog
from temporalio import activity

from everhook.contracts import EventsResult
from everhook.delivery.dispatcher import Dispatcher
from everhook.health.alerts_store import AlertEvaluator
from everhook.notifications.publisher_store import EventPublisher

BATCHES = 10
"""A pass is to be short: what is left, the next one publishes."""

log = structlog.get_logger()


class EventActivities:
    def __init__(self, publisher: EventPublisher, watch: AlertEvaluator, dispatcher: Dispatcher) -> None:
        self._publisher = publisher
        self._watch = watch
        self._dispatcher = dispatcher

    @activity.defn(name="publish_events")
    async def publish_events(self) -> EventsResult:
        """Look at the thresholds, and publish what is not published; where there is nothing, a few look-ups."""
        crossed = await self._watch.evaluate()
        if crossed:
            log.warning("a threshold was crossed", kinds=[kind.value for kind in crossed])
        count = 0
        for _ in range(BATCHES):
            published = await self._publisher.publish_some()
            self._dispatcher.dispatch(published.new)
            count += published.events
            if not published.events:
                break
        return EventsResult(count)
