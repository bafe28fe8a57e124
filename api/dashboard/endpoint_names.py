"""What endpoints are called: by their URL, or by how they receive without one."""

from typing import Protocol

from markupsafe import Markup

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


def endpoint_name(endpoint: Named) -> Markup:
    """The URL; in other modes how it receives, and its id."""
    if endpoint.url:
        return url_markup(endpoint.url)
    return Markup("{}: <wbr>{}").format(endpoint.mode.value, endpoint.gid)
