"""Hints for operators: which setting would permit a refused URL. Callers do not see them."""

from urllib.parse import urlsplit

import structlog

from everhook.egress.errors import UrlRefused
from everhook.observability.seldom import Seldom

EVERY_S = 60.0

log = structlog.get_logger()


class RefusalHints:
    """Writes at most one line a minute for each tenant."""

    def __init__(self) -> None:
        self._seldom = Seldom(EVERY_S)

    def note(self, url: str, tenant: str, refused: UrlRefused) -> None:
        """Log a refusal if a setting would permit the URL: only the host is logged."""
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
