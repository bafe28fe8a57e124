"""For operators: which setting would have permitted a URL that was refused. Callers are not told: it is not theirs."""

from urllib.parse import urlsplit

import structlog

from everhook.egress.errors import UrlRefused
from everhook.observability.seldom import Seldom

EVERY_S = 60.0

log = structlog.get_logger()


class RefusalHints:
    """Writes one line a minute, at most, for each tenant."""

    def __init__(self) -> None:
        self._seldom = Seldom(EVERY_S)

    def note(self, url: str, tenant: str, refused: UrlRefused) -> None:
        """Log the refusal if a setting would permit the URL: its host, and nothing else of it."""
        if refused.setting is None:
            return
        left_out = self._seldom.due(tenant)
        if left_out is not None:
            log.info(
                "an endpoint's URL was refused; a setting would permit it",
                setting=refused.setting,
                host=_host(url),
                tenant=tenant,
                rule=refused.rule,
                left_out=left_out,
            )


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
