"""Gates: the steps of approval that a message has to pass before it is sent. Pure.

A step names the inbox that is asked, and may have a `task`, a part of the document of its task, and a `filter` on the
payload. A step whose filter does not match is skipped. What people approve is what is sent: payloads never change, so
the filters are evaluated once, when the message is accepted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from everhook.errors import InvalidField
from everhook.field_errors import MISSING, UNKNOWN, unknown_words, words
from everhook.inbox.tasks import parse_spec
from everhook.publishing.matching import Filter, ListIndex, check_filter, compile_filter, stored_filter

MAX_STEPS = 10
MAX_FILTER_BYTES = 16 * 1024
MAX_FILTER_COST = 1_000
"""Steps of matching, as for one subscription."""

NO_INBOX = "there is no such inbox"
"""Also for an endpoint of another mode, and for one of another tenant: callers cannot distinguish them."""

_MEMBERS = ("inbox", "task", "filter")


class StepState(StrEnum):
    """`SKIPPED`: its filter does not match, or the gate ended before it. `WAITING`: a step before it is open."""

    SKIPPED = "skipped"
    WAITING = "waiting"
    OPEN = "open"
    PASSED = "passed"
    DECLINED = "declined"


@dataclass(frozen=True)
class Step:
    """A step of a gate. `document` is as it was given, and as it is stored."""

    inbox: str
    filter: Filter | None
    document: Mapping[str, Any]

    def matches(self, content: Any, lists: ListIndex) -> bool:
        return self.filter is None or self.filter.matches(content, lists)


def compiled(documents: Sequence[Mapping[str, Any]]) -> tuple[Step, ...]:
    """The steps of documents that `parse_gates` has checked, perhaps that of another version."""
    return tuple(Step(each.get("inbox", ""), stored_filter(each.get("filter")), each) for each in documents)


def parse_gates(given: Sequence[Any], at: str) -> tuple[Step, ...]:
    """The steps of a publish or of a channel. `at` names them in errors: `gates`. Raises InvalidField."""
    if len(given) > MAX_STEPS:
        raise InvalidField(at, f"takes at most {MAX_STEPS} steps", "too_long")
    return compiled([_checked(step, f"{at}[{index}]") for index, step in enumerate(given)])


def _checked(step: Any, at: str) -> dict[str, Any]:
    if not isinstance(step, Mapping):
        raise InvalidField(at, "must be an object with an `inbox`", "dict_type")
    for name in step:
        if name not in _MEMBERS:
            raise InvalidField(f"{at}.{name}", unknown_words(name, _MEMBERS), UNKNOWN)
    inbox = step.get("inbox")
    if not inbox:
        raise InvalidField(f"{at}.inbox", words(MISSING), MISSING)
    if not isinstance(inbox, str):
        raise InvalidField(f"{at}.inbox", "must be a string, the gid of an endpoint", "string_type")
    document: dict[str, Any] = {"inbox": inbox}
    if step.get("task") is not None:
        document["task"] = parse_spec(step["task"], f"{at}.task").document()
    if step.get("filter") is not None:
        document["filter"] = _checked_filter(step["filter"], f"{at}.filter")
    return document


def _checked_filter(conditions: Any, at: str) -> Mapping[str, Any]:
    try:
        check_filter(conditions)
    except RecursionError as error:
        raise InvalidField(at, "is nested too deeply") from error
    except ValueError as error:
        raise InvalidField(at, str(error)) from error
    try:
        size = len(json.dumps(conditions, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:
        raise InvalidField(at, "has a number or a text that JSON in UTF-8 cannot hold") from error
    if size > MAX_FILTER_BYTES:
        raise InvalidField(at, f"takes at most {MAX_FILTER_BYTES} bytes", "too_large")
    checked: Mapping[str, Any] = conditions
    compiled = compile_filter(checked)
    if compiled is not None and compiled.cost > MAX_FILTER_COST:
        raise InvalidField(at, f"costs {compiled.cost} steps of matching; at most {MAX_FILTER_COST} are allowed")
    return checked


def following(steps: Sequence[Mapping[str, Any]], after: int) -> int | None:
    """The index of the next step that is asked; None after the last one."""
    return next((index for index in range(after + 1, len(steps)) if not steps[index].get("skipped")), None)


def task_of(step: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given for the task of a step: by the step itself, then by the publisher."""
    own = step.get("task") or {}
    if "kind" in own and "outcomes" not in own:  # a kind brings its own outcomes
        given = {name: value for name, value in given.items() if name != "outcomes"}
    return {**given, **own}
