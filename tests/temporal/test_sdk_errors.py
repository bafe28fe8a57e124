"""What Temporal's SDK says reaches people in words, and not as values of Rust."""

import io
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import structlog

from everhook.observability.logging import SDK_CORE, OnceAMinute, configure_logging
from everhook.temporal.client import connect
from everhook.temporal.sdk_errors import in_words
from testing.processes import refusing_port

REFUSED = (
    'ConnectError(ConnectError("tcp connect error", 127.0.0.1:7233, '
    'Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }))'
)
STATUS = 'Status { code: Unavailable, message: "tcp connect error", source: Some(tonic::transport::Error(Transport, '


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            f"Failed client connect: Server connection error: tonic::transport::Error(Transport, {REFUSED})",
            "cannot connect to Temporal: 127.0.0.1:7233: Connection refused",
        ),
        (
            "Failed client connect: Server connection error: tonic::transport::Error(Transport, ConnectError("
            'ConnectError("dns error", Custom { kind: Uncategorized, error: "failed to lookup address information: '
            'Name or service not known" })))',
            "cannot connect to Temporal: failed to lookup address information: Name or service not known",
        ),
        (
            "Failed client connect: `get_system_info` call error after connection: Status { code: Cancelled, message: "
            '"operation was canceled", source: Some(tonic::transport::Error(Transport, hyper::Error(Canceled, '
            '"connection closed"))) }',
            "cannot connect to Temporal: `get_system_info` call error after connection: connection closed",
        ),
        (
            "Failed client connect: Server connection error: tonic::transport::Error(Transport, ConnectError(Custom { "
            "kind: InvalidData, error: InvalidMessage(InvalidContentType) }))",
            "cannot connect to Temporal: the server does not speak TLS",
        ),
        (
            f"gRPC call poll_workflow_task_queue retried 6 times {{'error': '{STATUS}{REFUSED})) }}'}}",
            "gRPC call poll_workflow_task_queue retried 6 times {'error': '127.0.0.1:7233: Connection refused'}",
        ),
        ('Status { code: Unavailable, message: "cut', "cut"),
        ("workflow not found for ID: x", "workflow not found for ID: x"),
    ],
)
def test_a_value_of_rust_becomes_its_message(said: str, words: str) -> None:
    assert in_words(said) == words


async def test_an_unreachable_temporal_is_reported_in_words() -> None:
    """With the SDK that is installed, and any message of its core."""
    address = f"127.0.0.1:{refusing_port()}"
    with pytest.raises(RuntimeError) as caught:
        await connect(target_host=address)
    assert in_words(str(caught.value)) == f"cannot connect to Temporal: {address}: Connection refused"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged, as `everhook worker` logs it."""
    root, output = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    configure_logging("json", "info", handler=logging.StreamHandler(output))
    yield output
    root.handlers, root.level = handlers, level
    logging.getLogger(SDK_CORE).filters = []
    structlog.reset_defaults()


def test_logs_have_no_values_of_rust_and_the_same_line_of_the_sdk_once(log: io.StringIO) -> None:
    said = f"{STATUS}{REFUSED})) }}"
    for tries in range(5, 9):
        logging.getLogger(SDK_CORE).warning("gRPC call poll_activity_task_queue retried %s times: %s", tries, said)
    structlog.get_logger().warning("waiting for temporal", error=said)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2
    assert all("127.0.0.1:7233: Connection refused" in line and "tonic" not in line for line in lines)


def forwarded(message: str, fields: dict[str, str]) -> logging.LogRecord:
    """A line of the SDK's core as its forwarder hands it on."""
    entry = SimpleNamespace(target="temporalio_client::retry", message=message, fields=fields)
    record = logging.LogRecord(
        "core", logging.WARNING, "", 0, f"[sdk_core::{entry.target}] {message} {fields}", (), None
    )
    record.temporal_log = entry
    return record


def test_lines_that_differ_only_in_ids_and_errors_are_logged_once_a_minute() -> None:
    now = 1000.0
    rule, passed = OnceAMinute(lambda: now), []
    for number in range(400):
        now += 0.2  # 80 s in all
        for message in (
            f"gRPC call poll_activity_task_queue retried {number} times",
            f"Task of dlv_01m8drw0emeh0az887e1zka{number:x} in run 019ac5{number:x}-7b1c-4d not completed",
        ):
            record = forwarded(message, {"error": f"error {'abc'[number % 3]} of 127.0.0.1:{number}"})
            if rule.filter(record):
                passed.append(record.getMessage())
    assert len(passed) == 4
    assert ["suppressed" in line for line in passed] == [False, False, True, True]
    assert passed[-1].endswith("(299 similar lines suppressed)")


def test_different_messages_are_limited_separately() -> None:
    rule = OnceAMinute()
    messages = (
        "gRPC call poll_activity_task_queue retried 5 times",
        "gRPC call poll_workflow_task_queue retried 5 times",
    )
    assert all(rule.filter(forwarded(message, {})) for message in messages)
