"""How much a key may publish: beyond it 429 and when to come back, before anything is read or accepted."""

from collections.abc import AsyncIterator

import pytest

from everhook.errors import ConfigurationError
from everhook.settings import Settings, load_settings
from testing.api import Api, accepted, assert_problem, running_api

RATE = "5/hour"


@pytest.fixture
async def limited(settings: Settings) -> AsyncIterator[Api]:
    async with running_api(settings.model_copy(update={"publish_rate": RATE})) as api:
        await api.channel()
        yield api


def message(n: int) -> dict[str, object]:
    return {"type": "a", "payload": n}


async def test_beyond_the_rate_it_is_429_and_nothing_is_accepted(limited: Api) -> None:
    for n in range(5):
        accepted(await limited.try_publish(message(n)))

    response = await limited.try_publish(message(5))

    problem = assert_problem(response, 429)
    assert problem["type"] == "/problems/rate-limited"
    assert "5 per 1 hour" in problem["detail"]
    assert 1 <= int(response.headers["retry-after"]) <= 3600
    assert await limited.count("message") == 5


async def test_of_a_batch_each_message_counts_and_all_or_none(limited: Api) -> None:
    accepted(await limited.try_batch([message(n) for n in range(3)]))

    assert_problem(await limited.try_batch([message(n) for n in range(3)]), 429)
    accepted(await limited.try_batch([message(n) for n in range(2)]))
    assert_problem(await limited.try_publish(message(0)), 429)
    assert await limited.count("message") == 5


async def test_a_batch_that_could_never_pass_is_told_so(limited: Api) -> None:
    assert_problem(await limited.try_batch([message(n) for n in range(6)]), 422, "messages")
    accepted(await limited.try_batch([message(n) for n in range(5)]))


async def test_each_key_has_the_rate_to_itself(limited: Api) -> None:
    first, second = await limited.key("publish"), await limited.key("publish")
    for n in range(5):
        accepted(await first.try_publish(message(n)))

    assert_problem(await first.try_publish(message(5)), 429)
    accepted(await second.try_publish(message(5)))


@pytest.mark.parametrize("path", ["/v1/channels/orders/messages", "/v1/channels/orders/messages/batch"])
async def test_of_what_is_too_much_nothing_is_read(limited: Api, path: str) -> None:
    async def body() -> object:
        raise AssertionError("the body was read")
        yield b""

    accepted(await limited.try_batch([message(n) for n in range(5)]))

    assert_problem(await limited.http.post(path, content=body()), 429)  # type: ignore[arg-type]


async def test_a_moment_later_it_goes_on(settings: Settings) -> None:
    async with running_api(settings.model_copy(update={"publish_rate": "2/second"})) as api:
        await api.channel()
        statuses = {(await api.try_publish(message(n))).status_code for n in range(30)}
        assert statuses == {202, 429}


async def test_other_calls_are_not_counted(limited: Api) -> None:
    accepted(await limited.try_batch([message(n) for n in range(5)]))

    assert len(await limited.walk("/v1/messages", limit=1)) == 5


@pytest.mark.parametrize("rate", ["many", "0/second", "5", "5/fortnight", "5/second;6/second"])
def test_a_rate_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, rate: str) -> None:
    monkeypatch.setenv("EVERHOOK_PUBLISH_RATE", rate)
    with pytest.raises(ConfigurationError, match="EVERHOOK_PUBLISH_RATE"):
        load_settings(dev=True)
