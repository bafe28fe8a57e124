"""Texts that no database can hold, on both databases through the API: halves of surrogate pairs, which Python reads
from JSON, and NUL, which PostgreSQL refuses."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from testing.api import JSON, Api, assert_problem, running_api, settings_for

pytestmark = pytest.mark.both_databases

URL = "https://hooks.example.com/"
BASIC = {"type": "basic", "username": "u", "password": "p"}
CHAT = {"kind": "chat", "url": URL, "text": "t"}
MESSAGE: JSON = {"type": "a", "payload": 1}


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    async with running_api(settings_for(database_url)) as running:
        await running.channel()
        yield running


def webhook(description: str) -> JSON:
    return {"document": {"openapi": "3.1.0", "webhooks": {"a": {"post": {"description": description}}}}}


async def test_half_of_a_surrogate_pair_is_an_error_of_the_caller(api: Api) -> None:
    half = "\ud800"
    refused: list[tuple[str, JSON, str]] = [
        ("/v1/endpoints", {"url": URL, "auth": {**BASIC, "username": half}}, "auth.username"),
        ("/v1/endpoints", {"url": URL, "auth": {**BASIC, "password": half}}, "auth.password"),
        ("/v1/endpoints", {"mode": "inbox", "options": {"name": "i", "groups": {"g": [half]}}}, "options.groups.g[0]"),
        ("/v1/endpoints", {"mode": "inbox", "options": {"name": "i", "groups": {half: []}}}, "options.groups"),
        ("/v1/endpoints", {"mode": "internal", "options": {"handler": {**CHAT, "text": half}}}, "options.handler.text"),
        ("/v1/event-types/import", webhook(half), "document.webhooks.a.post.description"),
    ]
    for path, body, field in refused:
        assert_problem(await api.post(path, body), 422, field)
    assert await api.count("endpoint") == await api.count("event_type") == 0


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/channels/orders/messages", {**MESSAGE, "endpointGid": "a\0b"}, "endpointGid"),
        ("/v1/channels/orders/messages", {**MESSAGE, "tenant": "a\0b"}, "tenant"),
        ("/v1/channels/orders/messages/batch", {"messages": [{**MESSAGE, "tenant": "a\0b"}]}, "messages[0].tenant"),
        ("/v1/messages/transactional", {"messages": [{**MESSAGE, "channel": "a\0b"}]}, "messages[0].channel"),
        ("/v1/event-types/import", webhook("a\0b"), "document.webhooks.a.post.description"),
    ],
)
async def test_nul_is_an_error_of_the_caller(api: Api, path: str, body: Any, field: str) -> None:
    assert_problem(await api.post(path, body), 422, field)
    assert await api.count("message") == await api.count("event_type") == 0
