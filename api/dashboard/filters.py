"""The filters of lists: fields of an address, checked as the API checks them, and kept from page to page."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from api.dashboard.forms import wrong_fields
from api.dead_letters.schemas import OneOrMore
from api.schemas import ApiModel, EndpointRef, EventType, Gid, Moment, Name
from everhook.contracts import DeliveryStatus
from everhook.delivery.service import DeliveryQuery
from everhook.errors import InvalidField
from everhook.publishing.service import MessageQuery

MOMENTS = ("since", "until")
LISTED = ("channel", "type", "tenant", "status", "messageGid", "deadLetterReason", "lastStatusCode")
"""Filters that take several values, with commas between them. A URL may have a comma of its own."""

Choice = TypeVar("Choice", bound=ApiModel)


class _InTime(ApiModel):
    """`since` and `until` bound the time of acceptance."""

    channel: OneOrMore[Name] = None
    type: OneOrMore[EventType] = None
    tenant: OneOrMore[Name] = None
    since: Moment | None = None
    until: Moment | None = None


class MessageChoice(_InTime):
    def query(self) -> MessageQuery:
        return MessageQuery(self.tenant, self.channel, self.type, self.since, self.until)


class DeliveryChoice(_InTime):
    status: OneOrMore[DeliveryStatus] = None
    endpoint_gid: OneOrMore[EndpointRef] = None
    message_gid: OneOrMore[Gid] = None

    def query(self) -> DeliveryQuery:
        return DeliveryQuery(
            tenants=self.tenant,
            endpoints=self.endpoint_gid,
            messages=self.message_gid,
            channels=self.channel,
            types=self.type,
            statuses=self.status,
            since=self.since,
            until=self.until,
        )


@dataclass(frozen=True)
class Filters(Generic[Choice]):
    """`chosen` is what was asked for, to be shown and asked again; `choice` what it means, None where some of it means
    nothing: `wrong` says which."""

    chosen: Mapping[str, str]
    choice: Choice | None
    wrong: Mapping[str, str]

    def refused(self, error: InvalidField) -> "Filters[Choice]":
        """The same, if what was asked for is well-formed and is not there."""
        return Filters(self.chosen, None, {error.field: error.message})

    @property
    def status(self) -> HTTPStatus:
        return HTTPStatus.UNPROCESSABLE_ENTITY if self.wrong else HTTPStatus.OK


def read(model: type[Choice], values: Mapping[str, str]) -> Filters[Choice]:
    chosen = chosen_of(model, values)
    try:
        return Filters(chosen, choice_of(model, chosen), {})
    except ValidationError as error:
        return Filters(chosen, None, wrong_fields(error))


def chosen_of(model: type[ApiModel], values: Mapping[str, str]) -> dict[str, str]:
    """Of moments, what a field for them can show: it knows no zone, and its label says UTC."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    given = {name: values[name].strip() for name in names if values.get(name, "").strip()}
    return {name: value.removesuffix("Z") if name in MOMENTS else value for name, value in given.items()}


def choice_of(model: type[Choice], chosen: Mapping[str, str]) -> Choice:
    """ValidationError where some of it means nothing."""
    given: dict[str, Any] = dict(chosen)
    for name in MOMENTS:
        if name in given and len(given[name]) <= len("2026-01-31T12:00:00.000000"):
            given[name] += "Z"
    for name in LISTED:
        if "," in given.get(name, ""):
            given[name] = [value.strip() for value in given[name].split(",") if value.strip()]
    return model(**given)
