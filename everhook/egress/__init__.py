"""Requests to endpoints: every one of them leaves through this package.

It guards against SSRF: `url` checks the text of a URL, `dial` checks every address that its host resolves to, and
connects to the address that was checked. `client` sends one POST, within bounds on time and size.
"""

from everhook.egress.client import EgressClient, Exchange, parse_retry_after
from everhook.egress.connection import STORED_BODY_BYTES
from everhook.egress.errors import LocalError, TlsRefused, UnsendableRequest, UrlRefused
from everhook.egress.request import header_fault
from everhook.egress.tls import TlsExtras
from everhook.egress.url import EgressRules, normalise_url

__all__ = [
    "STORED_BODY_BYTES",
    "EgressClient",
    "EgressRules",
    "Exchange",
    "LocalError",
    "TlsExtras",
    "TlsRefused",
    "UnsendableRequest",
    "UrlRefused",
    "header_fault",
    "normalise_url",
    "parse_retry_after",
]
