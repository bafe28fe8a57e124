"""`publish_events`: notifies operators of what happened."""

from datetime import timedelta

import structlog
from temporalio import activity

from everhook.contracts import EventsResult
from everhook.delivery.dispatcher import Dispatcher
from everhook.health.alerts_store import AlertEvaluator
from everhook.notifications.publisher_store import EventPublisher
from everhook.observability.seldom import Seldom

SAME_ERROR_S = 60.0
BATCHES = 10
"""A pass is short. The next pass publishes the rest."""

log = structlog.get_logger()


class EventActivities:
    def __init__(
        self,
        publisher: EventPublisher,
        alerts: AlertEvaluator,
        dispatcher: Dispatcher,
        every: timedelta = timedelta(seconds=5),
    ) -> None:
        """`every`: how long after a pass the next one is due."""
        self._publisher = publisher
        self._alerts = alerts
        self._dispatcher = dispatcher
        self._every = every
        self._seldom = Seldom(SAME_ERROR_S)

    @activity.defn(name="publish_events")
    async def publish_events(self) -> EventsResult:
        """Evaluate the alert rules and publish pending events. If there are none, this costs a few queries."""
        try:
            return EventsResult(await self._pass(), self._every)
        except Exception as error:  # the next pass is due in seconds
            if (suppressed := self._seldom.due(type(error).__name__)) is not None:
                log.exception("a pass of operational events failed", suppressed=suppressed)
            raise

    async def _pass(self) -> int:
        try:
            await self._alerts.evaluate()
        finally:  # a rule that cannot be evaluated holds back no event
            count = await self._publish()
        return count

    async def _publish(self) -> int:
        count = 0
        for _ in range(BATCHES):
            published = await self._publisher.publish_some()
            self._dispatcher.dispatch(published.new)
            count += published.events
            if not published.events:
                break
        return count
