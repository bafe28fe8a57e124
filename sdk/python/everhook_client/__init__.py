"""The Python client of Everhook: publish, wait for outcomes, consume endpoints, and verify webhooks.

`Client` and `AsyncClient` have the same methods. `Webhook` and `Seen` are for receivers of webhooks.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from everhook_client.calls import RawJson as RawJson
    from everhook_client.client import AsyncClient as AsyncClient
    from everhook_client.client import Client as Client
    from everhook_client.consumer import Consumer as Consumer
    from everhook_client.consumer import Reject as Reject
    from everhook_client.consumer import Retry as Retry
    from everhook_client.errors import ApiError as ApiError
    from everhook_client.errors import ConnectionFailed as ConnectionFailed
    from everhook_client.errors import EverhookError as EverhookError
    from everhook_client.messages import Message as Message
    from everhook_client.observing import Observer as Observer
    from everhook_client.retries import Retries as Retries
    from everhook_client.seen import Seen as Seen
    from everhook_client.webhook import InvalidSignature as InvalidSignature
    from everhook_client.webhook import Webhook as Webhook
    from everhook_client.webhook import WebhookMessage as WebhookMessage

__version__ = "0.1.0"

_HOMES = {
    "ApiError": "errors",
    "AsyncClient": "client",
    "Client": "client",
    "ConnectionFailed": "errors",
    "Consumer": "consumer",
    "EverhookError": "errors",
    "InvalidSignature": "webhook",
    "Message": "messages",
    "Observer": "observing",
    "RawJson": "calls",
    "Reject": "consumer",
    "Retries": "retries",
    "Retry": "consumer",
    "Seen": "seen",
    "Webhook": "webhook",
    "WebhookMessage": "webhook",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    """Import on first use: code that reads models or verifies webhooks does not load the HTTP client."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
