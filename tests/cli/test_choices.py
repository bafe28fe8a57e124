"""Options offer what the API accepts."""

from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from cli import options
from cli.commands import dead_letters, deliveries, endpoints, tasks
from everhook.contracts import DeadLetterReason, DeliveryStatus
from everhook.delivery.body_formats import BodyFormat
from everhook.delivery.policy import PRESETS
from everhook.storage.tables import TaskState


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
def test_the_choices_of_an_option_are_those_of_the_api(group: type[Any], field: str, values: type[StrEnum]) -> None:
    assert set(_choices(get_type_hints(group)[field])) == {value.value for value in values}


def _choices(kind: Any) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return tuple(kind)
    return next((found for part in get_args(kind) if (found := _choices(part))), ())
