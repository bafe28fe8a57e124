"""What endpoints are called: by their URL, or by how they receive without one."""

from typing import Any, Protocol

from markupsafe import Markup, escape

from api.dashboard.code import url_markup
from api.endpoints.schemas import EndpointMode
from everhook.contracts import DeliveryMode

MODES = {
    EndpointMode.HTTP: "Webhooks to a URL",
    EndpointMode.POLL: "Consumers poll",
    EndpointMode.STREAM: "Consumers stream",
    EndpointMode.INBOX: "People decide",
    EndpointMode.INTERNAL: "Everhook handles it",
}


class Named(Protocol):
    """An endpoint's row."""

    gid: str
    url: str
    mode: DeliveryMode
    options: dict[str, Any]


def endpoint_name(endpoint: Named) -> Markup:
    """The URL; of an inbox its name; in other modes how it receives, and its id."""
    if endpoint.url:
        return url_markup(endpoint.url)
    if endpoint.mode is DeliveryMode.INBOX:
        return escape(inbox_name(endpoint))
    return Markup("{}: <wbr>{}").format(endpoint.mode.value, endpoint.gid)


def endpoint_title(endpoint: Named) -> str:
    """The same as text."""
    if endpoint.mode is DeliveryMode.INBOX:
        return inbox_name(endpoint)
    return endpoint.url or f"{endpoint.mode}: {endpoint.gid}"


def inbox_name(inbox: Named) -> str:
    """What people know an inbox by."""
    name: str = inbox.options.get("name") or inbox.gid
    return name
