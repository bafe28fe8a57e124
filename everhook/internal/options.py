"""What an endpoint of the mode `internal` does: `options.handler`, parsed and checked. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from everhook.errors import InvalidField

AT = "options.handler"

MAX_RECIPIENTS = 50
MAX_ADDRESS = 254
MAX_SUBJECT = 200
MAX_TEMPLATE = 10_000

ASSIGNEES = "assignees"
"""In `to`: the assignees of the event that are mail addresses."""

_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)+"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")


class HandlerKind(StrEnum):
    """What Everhook does with a delivery itself."""

    EMAIL = "email"
    CHAT = "chat"
    REMINDER = "reminder"
    ESCALATION = "escalation"


@dataclass(frozen=True)
class Handler:
    """The handler of an endpoint. Fields of other kinds are empty.

    `to` are mail addresses, and `assignees`. `subject`, `body` and `text` are templates: see `templates.py`. `url` is
    that of an incoming webhook, which is a secret.
    """

    kind: HandlerKind
    to: tuple[str, ...] = ()
    subject: str = "{type}"
    body: str = "{payload}\n\n-- \n{type} on {channel}, {messageGid}\n"
    text: str = "{type}: {payload}"
    url: str = field(default="", repr=False)

    @property
    def place(self) -> str:
        """What attempts and receipts name in place of a URL: of a webhook its origin alone."""
        return _origin(self.url) if self.kind is HandlerKind.CHAT else f"everhook:{self.kind}"


_FIELDS: Mapping[HandlerKind, frozenset[str]] = {
    HandlerKind.EMAIL: frozenset({"to", "subject", "body"}),
    HandlerKind.CHAT: frozenset({"url", "text"}),
    HandlerKind.REMINDER: frozenset(),
    HandlerKind.ESCALATION: frozenset(),
}


def parse_handler(document: Any) -> Handler:
    """A handler as requests spell it. Raises InvalidField, which names the field: `options.handler.to[1]`.

    The URL of a webhook is not checked here, because that needs the egress rules.
    """
    if not isinstance(document, Mapping):
        raise InvalidField(AT, "is required for the mode internal: an object with a `kind`", "missing")
    kinds = ", ".join(HandlerKind)
    if document.get("kind") not in set(HandlerKind):
        raise InvalidField(f"{AT}.kind", f"is one of {kinds}", "missing" if "kind" not in document else "enum")
    kind = HandlerKind(document["kind"])
    for name in document:
        if name != "kind" and name not in _FIELDS[kind]:
            raise InvalidField(f"{AT}.{name}", f"has no meaning for a handler of the kind {kind}")
    fields: dict[str, Any] = {}
    if kind is HandlerKind.EMAIL:
        fields["to"] = _recipients(document.get("to"))
    if kind is HandlerKind.CHAT:
        fields["url"] = _text(document.get("url"), "url", 2_048)
    if "subject" in document:
        fields["subject"] = _one_line(document["subject"], "subject", MAX_SUBJECT)
    for name in ("body", "text"):
        if name in document:
            fields[name] = _text(document[name], name, MAX_TEMPLATE)
    return Handler(kind, **fields)


def is_address(text: Any) -> bool:
    """Whether a text is a mail address, in the form that needs no quoting. It cannot hold a line break, nor an encoded
    word (RFC 2047), in which one could be hidden."""
    return (
        isinstance(text, str) and len(text) <= MAX_ADDRESS and "=?" not in text and _ADDRESS.fullmatch(text) is not None
    )


def in_domains(address: str, domains: Sequence[str]) -> bool:
    """Whether mail may be sent to an address. No domains: to any."""
    return not domains or address.rpartition("@")[2].lower() in domains


def check_domains(handler: Handler, domains: Sequence[str]) -> None:
    """Raise InvalidField for an address that mail may not be sent to."""
    for index, address in enumerate(handler.to):
        if address != ASSIGNEES and not in_domains(address, domains):
            raise InvalidField(f"{AT}.to[{index}]", "is not in a domain of EVERHOOK_SMTP_DOMAINS")


def masked_url(url: str) -> str:
    """How the URL of a webhook is shown."""
    return f"{_origin(url)}/…"


def one_line(text: str) -> str:
    """A text without line breaks and other control characters."""
    return _CONTROL.sub(" ", text)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _recipients(value: Any) -> tuple[str, ...]:
    place = f"{AT}.to"
    if not isinstance(value, list | tuple) or not value:
        reason = f"is required: a list of mail addresses, or `{ASSIGNEES}` for those of the event"
        raise InvalidField(place, reason, "missing" if value is None else "invalid")
    if len(value) > MAX_RECIPIENTS:
        raise InvalidField(place, f"has more than {MAX_RECIPIENTS} addresses", "too_long")
    for index, address in enumerate(value):
        if address != ASSIGNEES and not is_address(address):
            raise InvalidField(f"{place}[{index}]", "is not a mail address such as ann@acme.example")
    return tuple(dict.fromkeys(value))


def _one_line(value: Any, name: str, at_most: int) -> str:
    text = _text(value, name, at_most)
    if _CONTROL.search(text):
        raise InvalidField(f"{AT}.{name}", "must not hold line breaks or other control characters")
    return text


def _text(value: Any, name: str, at_most: int) -> str:
    if value is None:
        raise InvalidField(f"{AT}.{name}", "is required", "missing")
    if not isinstance(value, str) or not value.strip():
        raise InvalidField(f"{AT}.{name}", "is a text that is not empty")
    if len(value) > at_most:
        raise InvalidField(f"{AT}.{name}", f"has more than {at_most:,} characters", "string_too_long")
    return value
