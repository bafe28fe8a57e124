"""What channels do with messages that do not fit the catalogue."""

from enum import StrEnum


class ValidationMode(StrEnum):
    """What a channel does with messages that do not fit the catalogue of event types."""

    OFF = "off"
    WARN = "warn"
    REJECT = "reject"


class FaultKind(StrEnum):
    """Why a message does not fit the catalogue."""

    UNKNOWN_TYPE = "unknown_type"
    ARCHIVED_TYPE = "archived_type"
    PAYLOAD = "payload"
