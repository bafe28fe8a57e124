"""Texts with `{path}` in them. There is no template language: a path names a value of the payload. Pure."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_PATH = re.compile(r"\{([A-Za-z0-9_$-]+(?:\.[A-Za-z0-9_$-]+)*)\}")
_UNSET = object()


def render(
    template: str,
    content: Any,
    names: Mapping[str, str],
    *,
    at_most: int,
    escape: Callable[[str], str] = lambda text: text,
) -> str:
    """The template with each `{path}` replaced by the value in `content`, or else by the one in `names`; by nothing if
    there is neither. `{payload}` is the whole content. What was substituted is not searched again.

    `escape` is applied to each value. The result has `at_most` characters.
    """
    parts: list[str] = []
    length = end = 0
    for found in _PATH.finditer(template):
        value = escape(_shown(_value(found[1], content, names))[:at_most])
        for part in (template[end : found.start()], value):
            parts.append(part)
            length += len(part)
        end = found.end()
        if length > at_most:  # the rest could only cost time
            break
    else:
        parts.append(template[end:])
    return _cut("".join(parts), at_most)


def _cut(text: str, at_most: int) -> str:
    # A lone surrogate is valid in JSON, and in no message.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= at_most else text[: at_most - 1] + "…"


def _value(path: str, content: Any, names: Mapping[str, str]) -> Any:
    value = content
    for step in path.split("."):
        value = _member(value, step)
        if value is _UNSET:
            return content if path == "payload" else names.get(path, "")
    return value


def _member(value: Any, step: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(step, _UNSET)
    if isinstance(value, list) and step.isascii() and step.isdecimal() and len(step) < 10 and int(step) < len(value):
        return value[int(step)]
    return _UNSET


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, indent=2 if isinstance(value, Mapping | list) else None)
