"""The calls as methods, grouped by resource, for both clients.

`blocking` and `awaitable` make a method of a function that returns a Call, with the same parameters and docstring;
`pages` and `async_pages` one of a function that returns a Listing.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from everhook_client import calls
from everhook_client.calls import Call, Listing

P = ParamSpec("P")
T = TypeVar("T")


class Sends(Protocol):
    """What makes calls: a client."""

    def send(self, call: Call[T]) -> T: ...


class SendsAsync(Protocol):
    """What makes calls: an asynchronous client."""

    async def send(self, call: Call[T]) -> T: ...


def blocking(function: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], T]:
    @functools.wraps(function)
    def method(self: Sends, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(function(*args, **kwargs))

    return method


def awaitable(function: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], Awaitable[T]]:
    @functools.wraps(function)
    async def method(self: SendsAsync, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.send(function(*args, **kwargs))

    return method


def pages(function: Callable[P, Listing[T]]) -> Callable[Concatenate[Any, P], Iterator[T]]:
    @functools.wraps(function)
    def method(self: Sends, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _items(self, function(*args, **kwargs))

    return method


def async_pages(function: Callable[P, Listing[T]]) -> Callable[Concatenate[Any, P], AsyncIterator[T]]:
    @functools.wraps(function)
    def method(self: SendsAsync, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        return _items_async(self, function(*args, **kwargs))

    return method


def _items(client: Sends, listing: Listing[T]) -> Iterator[T]:
    cursor: str | None = None
    while True:
        page = client.send(listing.page(cursor))
        yield from page["data"]
        cursor = page["nextCursor"]
        if cursor is None:
            return


async def _items_async(client: SendsAsync, listing: Listing[T]) -> AsyncIterator[T]:
    cursor: str | None = None
    while True:
        page = await client.send(listing.page(cursor))
        for item in page["data"]:
            yield item
        cursor = page["nextCursor"]
        if cursor is None:
            return


class _Group:
    def __init__(self, client: Sends) -> None:
        self.send = client.send


class _AsyncGroup:
    def __init__(self, client: SendsAsync) -> None:
        self.send = client.send


class Messages(_Group):
    list = pages(calls.list_messages)
    get = blocking(calls.get_message)
    redeliver = blocking(calls.redeliver_message)
    replay = blocking(calls.replay_channel)
    cancel = blocking(calls.cancel_message)
    events = pages(calls.list_message_events)


class AsyncMessages(_AsyncGroup):
    list = async_pages(calls.list_messages)
    get = awaitable(calls.get_message)
    redeliver = awaitable(calls.redeliver_message)
    replay = awaitable(calls.replay_channel)
    cancel = awaitable(calls.cancel_message)
    events = async_pages(calls.list_message_events)


class Tasks(_Group):
    list = pages(calls.list_tasks)
    get = blocking(calls.get_task)
    decide = blocking(calls.decide_task)
    delegate = blocking(calls.delegate_task)
    comment = blocking(calls.comment_on_task)
    link = blocking(calls.create_task_link)


class AsyncTasks(_AsyncGroup):
    list = async_pages(calls.list_tasks)
    get = awaitable(calls.get_task)
    decide = awaitable(calls.decide_task)
    delegate = awaitable(calls.delegate_task)
    comment = awaitable(calls.comment_on_task)
    link = awaitable(calls.create_task_link)


class Channels(_Group):
    list = pages(calls.list_channels)
    create = blocking(calls.create_channel)
    get = blocking(calls.get_channel)
    update = blocking(calls.update_channel)
    delete = blocking(calls.delete_channel)


class AsyncChannels(_AsyncGroup):
    list = async_pages(calls.list_channels)
    create = awaitable(calls.create_channel)
    get = awaitable(calls.get_channel)
    update = awaitable(calls.update_channel)
    delete = awaitable(calls.delete_channel)


class EventTypes(_Group):
    list = pages(calls.list_event_types)
    create = blocking(calls.create_event_type)
    get = blocking(calls.get_event_type)
    update = blocking(calls.update_event_type)
    delete = blocking(calls.delete_event_type)
    import_document = blocking(calls.import_event_types)
    export = blocking(calls.export_event_types)


class Endpoints(_Group):
    list = pages(calls.list_endpoints)
    create = blocking(calls.create_endpoint)
    get = blocking(calls.get_endpoint)
    update = blocking(calls.update_endpoint)
    delete = blocking(calls.delete_endpoint)
    pause = blocking(calls.pause_endpoint)
    resume = blocking(calls.resume_endpoint)
    enable = blocking(calls.enable_endpoint)
    disable = blocking(calls.disable_endpoint)
    trip_circuit = blocking(calls.trip_circuit)
    reset_circuit = blocking(calls.reset_circuit)
    rotate_secret = blocking(calls.rotate_secret)
    test = blocking(calls.test_endpoint)
    health = blocking(calls.get_endpoint_health)
    queue = blocking(calls.get_queue)


class AsyncEventTypes(_AsyncGroup):
    list = async_pages(calls.list_event_types)
    create = awaitable(calls.create_event_type)
    get = awaitable(calls.get_event_type)
    update = awaitable(calls.update_event_type)
    delete = awaitable(calls.delete_event_type)
    import_document = awaitable(calls.import_event_types)
    export = awaitable(calls.export_event_types)


class AsyncEndpoints(_AsyncGroup):
    list = async_pages(calls.list_endpoints)
    create = awaitable(calls.create_endpoint)
    get = awaitable(calls.get_endpoint)
    update = awaitable(calls.update_endpoint)
    delete = awaitable(calls.delete_endpoint)
    pause = awaitable(calls.pause_endpoint)
    resume = awaitable(calls.resume_endpoint)
    enable = awaitable(calls.enable_endpoint)
    disable = awaitable(calls.disable_endpoint)
    trip_circuit = awaitable(calls.trip_circuit)
    reset_circuit = awaitable(calls.reset_circuit)
    rotate_secret = awaitable(calls.rotate_secret)
    test = awaitable(calls.test_endpoint)
    health = awaitable(calls.get_endpoint_health)
    queue = awaitable(calls.get_queue)


class Subscriptions(_Group):
    list = pages(calls.list_subscriptions)
    create = blocking(calls.create_subscription)
    get = blocking(calls.get_subscription)
    update = blocking(calls.update_subscription)
    delete = blocking(calls.delete_subscription)


class AsyncSubscriptions(_AsyncGroup):
    list = async_pages(calls.list_subscriptions)
    create = awaitable(calls.create_subscription)
    get = awaitable(calls.get_subscription)
    update = awaitable(calls.update_subscription)
    delete = awaitable(calls.delete_subscription)


class Deliveries(_Group):
    list = pages(calls.list_deliveries)
    get = blocking(calls.get_delivery)
    live = blocking(calls.get_live_delivery)
    attempt_now = blocking(calls.attempt_now)


class AsyncDeliveries(_AsyncGroup):
    list = async_pages(calls.list_deliveries)
    get = awaitable(calls.get_delivery)
    live = awaitable(calls.get_live_delivery)
    attempt_now = awaitable(calls.attempt_now)


class DeadLetters(_Group):
    list = pages(calls.list_dead_letters)
    get = blocking(calls.get_dead_letter)
    replay = blocking(calls.replay)
    discard = blocking(calls.discard)
    replay_all = blocking(calls.replay_all)
    purge = blocking(calls.purge)
    batch = blocking(calls.get_batch)


class AsyncDeadLetters(_AsyncGroup):
    list = async_pages(calls.list_dead_letters)
    get = awaitable(calls.get_dead_letter)
    replay = awaitable(calls.replay)
    discard = awaitable(calls.discard)
    replay_all = awaitable(calls.replay_all)
    purge = awaitable(calls.purge)
    batch = awaitable(calls.get_batch)


class Batches(_Group):
    list = pages(calls.list_batches)
    get = blocking(calls.get_batch)
    cancel = blocking(calls.cancel_batch)


class AsyncBatches(_AsyncGroup):
    list = async_pages(calls.list_batches)
    get = awaitable(calls.get_batch)
    cancel = awaitable(calls.cancel_batch)


class Audit(_Group):
    list = pages(calls.list_audit_entries)


class AsyncAudit(_AsyncGroup):
    list = async_pages(calls.list_audit_entries)
