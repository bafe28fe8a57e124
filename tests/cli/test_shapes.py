"""The client says of the API what the API says of itself."""

from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from pydantic import BaseModel

from api.channels import schemas as channels_schemas
from api.dead_letters import schemas as dead_letters_schemas
from api.deliveries import schemas as deliveries_schemas
from api.endpoints import schemas as endpoints_schemas
from api.health import schemas as health_schemas
from api.health.readiness import Readiness
from api.messages import schemas as messages_schemas
from api.subscriptions import schemas as subscriptions_schemas
from api.tasks import schemas as tasks_schemas
from cli import options
from cli.api_client import shapes
from cli.commands import dead_letters, deliveries, endpoints, tasks
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.policy import PRESETS
from everhook.storage.tables import TaskState

SCHEMAS: dict[type[Any], type[BaseModel]] = {
    shapes.Channel: channels_schemas.ChannelOut,
    shapes.Circuit: endpoints_schemas.CircuitOut,
    shapes.PublicKey: endpoints_schemas.PublicKeyOut,
    shapes.Endpoint: endpoints_schemas.EndpointOut,
    shapes.EndpointCreated: endpoints_schemas.EndpointCreated,
    shapes.SecretRotated: endpoints_schemas.SecretRotated,
    shapes.TestSent: endpoints_schemas.TestSent,
    shapes.Subscription: subscriptions_schemas.SubscriptionOut,
    shapes.DeliverySummary: messages_schemas.DeliverySummary,
    shapes.Delivery: deliveries_schemas.Delivery,
    shapes.Attempt: deliveries_schemas.Attempt,
    shapes.DeliveryDetail: deliveries_schemas.DeliveryDetail,
    shapes.DeadLetterDetail: dead_letters_schemas.DeadLetterDetail,
    shapes.LiveDelivery: deliveries_schemas.LiveDelivery,
    shapes.Task: tasks_schemas.TaskOut,
    shapes.TaskDetail: tasks_schemas.TaskDetail,
    shapes.BulkOperation: dead_letters_schemas.BulkOperation,
    shapes.Batch: dead_letters_schemas.Batch,
    shapes.Readiness: Readiness,
    shapes.AttemptStats: health_schemas.AttemptStatsOut,
    shapes.ScoreComponent: health_schemas.ScoreComponentOut,
    shapes.RecurringError: health_schemas.RecurringErrorOut,
    shapes.ScoredEndpoint: health_schemas.ScoredEndpointOut,
    shapes.EndpointHealth: health_schemas.EndpointHealthOut,
    shapes.HealthOverview: health_schemas.OverviewOut,
}


@pytest.mark.parametrize("shape", SCHEMAS, ids=lambda shape: shape.__name__)
def test_a_shape_has_no_field_that_the_api_has_not_and_knows_which_may_be_null(shape: type[Any]) -> None:
    answered = {field.alias or name: field.annotation for name, field in SCHEMAS[shape].model_fields.items()}
    for name, kind in get_type_hints(shape).items():
        assert name in answered
        assert _may_be_null(kind) == _may_be_null(answered[name]) or kind is Any, name


@pytest.mark.parametrize(
    ("group", "field", "values"),
    [
        (deliveries.Selection, "status", DeliveryStatus),
        (dead_letters.Selection, "dead_letter_reason", DeadLetterReason),
        (tasks.Selection, "state", TaskState),
        (endpoints.Settings, "format", BodyFormat),
        (options.PolicyOptions, "preset", StrEnum("Preset", list(PRESETS))),
    ],
)
def test_what_an_option_may_be_is_what_the_api_takes(group: type[Any], field: str, values: type[StrEnum]) -> None:
    assert set(_choices(get_type_hints(group)[field])) == {value.value for value in values}


def _may_be_null(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind)


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return tuple(kind)
    return next((found for part in get_args(kind) if (found := _choices(part))), ())
