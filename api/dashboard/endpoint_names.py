"""What endpoints are called: by their URL; without one by their description, or else by how they receive."""

from typing import Any, Protocol

from markupsafe import Markup, escape

from api.dashboard.code import url_markup
from api.endpoints.schemas import EndpointMode
from everhook.contracts import DeliveryMode
from everhook.visible import visible

MODES = {
    EndpointMode.HTTP: "Webhooks to a URL",
    EndpointMode.POLL: "Consumers poll",
    EndpointMode.STREAM: "Consumers stream",
    EndpointMode.INBOX: "People decide",
    EndpointMode.INTERNAL: "Everhook handles it",
}


LONGEST_NAME = 80
"""Characters of a description that is a name."""


class Named(Protocol):
    """An endpoint's row."""

    gid: str
    url: str
    description: str
    mode: DeliveryMode
    options: dict[str, Any]


def endpoint_name(endpoint: Named) -> Markup:
    """The URL; of an inbox its name; in other modes the description, or else how it receives, and its id."""
    if endpoint.url:
        return url_markup(endpoint.url)
    if endpoint.mode is DeliveryMode.INBOX or visible(endpoint.description):
        return escape(endpoint_title(endpoint))
    return Markup("{}: <wbr>{}").format(endpoint.mode.value, endpoint.gid)


def endpoint_title(endpoint: Named) -> str:
    """The same as text."""
    if endpoint.mode is DeliveryMode.INBOX:
        return inbox_name(endpoint)
    described = visible(endpoint.description)
    if len(described) > LONGEST_NAME:
        described = described[: LONGEST_NAME - 1].rstrip() + "…"
    return endpoint.url or described or f"{endpoint.mode}: {endpoint.gid}"


def endpoint_note(endpoint: Named) -> str:
    """What stands under the name: the description, or how it receives where the description is the name."""
    return endpoint.description if endpoint_title(endpoint) != endpoint.description else endpoint.mode.value


def inbox_name(inbox: Named) -> str:
    """What people know an inbox by."""
    name: str = visible(inbox.options.get("name") or "") or inbox.gid
    return name
