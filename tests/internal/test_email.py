"""Mails by a real SMTP server: what arrives, what is refused, and what a payload cannot put into a header."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from everhook.contracts import DeadLetterReason, FailureCode, Verdict
from everhook.egress import EgressClient
from everhook.internal.email import Mailer
from everhook.settings import MailServer
from everhook.storage.tables import Attempt
from testing.certificates import Authority
from testing.processes import free_port
from testing.receiver import Receiver
from testing.smtp_server import SmtpServer
from tests.internal.conftest import SENDER, Office, made_office
from tests.stores.factories import Store

ANN, BO = "ann@acme.example", "bo@acme.example"
PASSWORD = "p@ss:w/rd"
REFUSED_LOGIN = "the SMTP server does not take EVERHOOK_SMTP_URL"
ORDER = {"order": {"id": 1042, "name": "Größe"}, "assignees": [ANN, "group:finance", BO, "unnamed@", 3]}


async def test_a_mail_arrives_as_it_was_composed(office: Office) -> None:
    endpoint = await office.endpoint(
        kind="email", to=[ANN], subject="Order {order.id} {order.name}", body="Id {order.id}\n{messageGid}"
    )
    delivery = await office.delivery(endpoint, ORDER)
    result = await office.desk.handle(delivery)
    assert result.outcome is not None and result.outcome.verdict is Verdict.DELIVERED
    (mail,) = office.mails.mails
    assert (mail.sender, mail.to) == ("hooks@acme.example", [ANN])
    assert mail.message["Subject"] == "Order 1042 Größe"
    assert mail.message["From"] == SENDER
    assert mail.message["Message-ID"] == f"<{delivery.gid}@acme.example>"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert mail.text.splitlines() == ["Id 1042", delivery.message_gid]
    attempt = await office.desk.attempt(delivery)
    assert (attempt.url, attempt.peer_address, attempt.status_code) == ("everhook:email", "127.0.0.1", None)
    assert (attempt.response_body, attempt.error) == (b"250 2.0.0 accepted", None)
    assert ["x-everhook-handler", "email"] in (attempt.request_headers or [])
    again = await office.desk.handle(delivery)
    assert again.outcome is not None and again.outcome.attempt_gid == attempt.gid
    assert len(office.mails.mails) == 1


async def test_without_templates_a_mail_holds_the_payload(office: Office) -> None:
    await office.handled(await office.endpoint(kind="email", to=[ANN]), {"a": "<b>ü</b>"})
    (mail,) = office.mails.mails
    assert mail.message["Subject"] == "order.created"
    assert '"a": "<b>ü</b>"' in mail.text
    assert mail.message.get_content_type() == "text/plain"
    assert mail.raw.isascii() and max(map(len, mail.raw.splitlines())) < 100


async def test_a_mail_is_sent_to_the_assignees_that_are_addresses(office: Office) -> None:
    await office.handled(await office.endpoint(kind="email", to=["assignees", ANN]), ORDER)
    assert [mail.to for mail in office.mails.mails] == [[ANN, BO]]


@pytest.mark.parametrize(
    "content",
    [
        {"assignees": []},
        {"assignees": "ann@acme.example"},
        {
            "assignees": [
                f"ann@acme.example{end}" for end in ("\r\nBcc: eve@evil.example", "\n", " ", ",eve@evil.example")
            ]
        },
        {"assignees": [f"a{index}@acme.example" for index in range(51)]},
        ["ann@acme.example"],
    ],
)
async def test_a_mail_without_recipients_or_with_very_many_is_rejected(office: Office, content: Any) -> None:
    attempt = await office.handled(await office.endpoint(kind="email", to=["assignees"]), content)
    assert (attempt.verdict, attempt.error) == (Verdict.REJECTED, FailureCode.INVALID_PAYLOAD)
    assert (attempt.error_detail or "").startswith("assignees: has")
    assert office.mails.mails == []


INJECTIONS = [
    f"x{line_break}Bcc: eve@evil.example{line_break}{line_break}body"
    for line_break in ("\r\n", "\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\x00\n")
] + [
    "=?utf-8?q?x=0D=0ABcc:_eve@evil.example=0D=0A=0D=0Abody?=",
    "==?utf-8?b?eA0KQmNjOiBldmVAZXZpbC5leGFtcGxlDQoNCmJvZHk=?= Bcc",
]


@pytest.mark.parametrize("value", INJECTIONS, ids=ascii)
async def test_a_payload_adds_no_header(office: Office, value: str) -> None:
    endpoint = await office.endpoint(kind="email", to=[ANN], subject="About {a}", body="Body {a}")
    await office.handled(endpoint, {"a": value})
    (mail,) = office.mails.mails
    assert mail.to == [ANN]
    head = mail.raw.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n") if line[:1] not in b" \t"]
    assert sorted(names) == [
        b"auto-submitted", b"content-transfer-encoding", b"content-type", b"date", b"from", b"message-id",
        b"mime-version", b"subject", b"to",
    ]  # fmt: skip
    assert "Bcc" in mail.message["Subject"]


async def test_an_assignee_adds_no_header(office: Office) -> None:
    """An encoded word may be part of a mail address, by the letters that it consists of."""
    endpoint = await office.endpoint(kind="email", to=["assignees"])
    await office.handled(
        endpoint, {"assignees": [ANN, "=?utf-8?q?x=0D=0ABcc=3A_eve=40evil.example=0D=0A?=@example.com"]}
    )
    (mail,) = office.mails.mails
    assert mail.to == [ANN]
    assert b"Bcc" not in mail.raw.partition(b"\r\n\r\n")[0]


async def test_a_payload_that_ends_the_mail_early_is_text(office: Office) -> None:
    """SMTP smuggling: the end of the data is a line with a dot alone."""
    endpoint = await office.endpoint(kind="email", to=[ANN], body="{a}")
    await office.handled(endpoint, {"a": "x\r\n.\r\nMAIL FROM:<eve@evil.example>\r\n\n.\n\r.\r"})
    (mail,) = office.mails.mails
    assert "MAIL FROM:<eve@evil.example>" in mail.text


async def test_long_texts_are_cut(office: Office) -> None:
    endpoint = await office.endpoint(kind="email", to=[ANN], subject="{a}", body="{a}{a}")
    await office.handled(endpoint, {"a": "word " * 40_000})
    (mail,) = office.mails.mails
    assert len(mail.message["Subject"]) <= 200
    assert len(mail.text) <= 100_000 + len("\r\n")


@pytest.mark.parametrize(
    ("response", "verdict", "error"),
    [
        ("450 4.2.1 try later", Verdict.RETRY, FailureCode.MAIL_DEFERRED),
        ("421 4.3.2 closing", Verdict.RETRY, FailureCode.MAIL_DEFERRED),
        ("552 5.2.2 mailbox full", Verdict.REJECTED, FailureCode.MAIL_REJECTED),
    ],
)
async def test_a_response_decides_what_follows(
    office: Office, response: str, verdict: Verdict, error: FailureCode
) -> None:
    office.mails.data = [response]
    endpoint = await office.endpoint(kind="email", to=[ANN])
    delivery = await office.delivery(endpoint, ORDER)
    result = await office.desk.handle(delivery)
    attempt = await office.desk.attempt(delivery)
    assert (attempt.verdict, attempt.error, attempt.error_detail) == (verdict, error, response)
    assert attempt.response_body == response.encode()
    known = await office.desk.handle(delivery)
    assert result.outcome is not None and known.outcome is not None
    reason = DeadLetterReason.REJECTED if verdict is Verdict.REJECTED else None
    assert (result.outcome.reason, known.outcome.reason) == (reason, reason)
    await office.desk.reporter.close()
    failures = sum(report.failures for _, report in office.desk.circuits.reports)
    assert failures == (1 if response.startswith("421") else 0)
    if verdict is Verdict.RETRY:
        again = await office.desk.handle(delivery, 2)
        assert again.outcome is not None and again.outcome.verdict is Verdict.DELIVERED


async def test_a_recipient_that_is_refused_for_now_defers_the_mail_for_all(office: Office) -> None:
    office.mails.recipients[BO] = "451 4.7.1 greylisted"
    attempt = await office.handled(await office.endpoint(kind="email", to=[ANN, BO]), ORDER)
    assert (attempt.verdict, attempt.error) == (Verdict.RETRY, FailureCode.MAIL_DEFERRED)
    assert office.mails.mails == []


async def test_a_recipient_that_is_refused_for_good_is_left_out_and_named_in_the_response(office: Office) -> None:
    office.mails.recipients[BO] = "550 5.1.1 no such user"
    attempt = await office.handled(await office.endpoint(kind="email", to=[BO, ANN]), ORDER)
    assert attempt.verdict is Verdict.DELIVERED
    assert [mail.to for mail in office.mails.mails] == [[ANN]]
    assert b"; 1 of 2 recipients refused: 550 5.1.1 no such user" in (attempt.response_body or b"")


@pytest.mark.parametrize("to", [[BO], [BO, ANN]])
async def test_a_mail_whose_recipients_are_all_refused_is_rejected(office: Office, to: list[str]) -> None:
    office.mails.recipients = {ANN: "550 5.1.1 no", BO: "550 5.1.1 no"}
    attempt = await office.handled(await office.endpoint(kind="email", to=to), ORDER)
    assert (attempt.verdict, attempt.error) == (Verdict.REJECTED, FailureCode.MAIL_REJECTED)


async def refused_connection(mails: SmtpServer) -> MailServer:
    return MailServer("127.0.0.1", free_port())


async def no_host(mails: SmtpServer) -> MailServer:
    return MailServer("mail.invalid", 25)


async def no_tls(mails: SmtpServer) -> MailServer:
    return MailServer("127.0.0.1", mails.port, tls=True)


async def no_response(mails: SmtpServer) -> MailServer:
    mails.hangs = True
    return MailServer("127.0.0.1", mails.port)


@pytest.mark.parametrize(
    ("server", "errors"),
    [
        (refused_connection, {FailureCode.REFUSED}),
        (no_host, {FailureCode.REFUSED}),
        (no_tls, {FailureCode.TLS}),
        (no_response, {FailureCode.TIMEOUT_TOTAL}),
    ],
)
async def test_a_server_that_cannot_be_reached_is_tried_again(
    office: Office, egress: EgressClient, server: Callable[[SmtpServer], Any], errors: set[FailureCode]
) -> None:
    mailer = Mailer(await server(office.mails), SENDER)
    unlucky = made_office(office.store, office.desk.receiver, egress, office.mails, mailer)
    delivery = await unlucky.delivery(await unlucky.endpoint(kind="email", to=[ANN]), ORDER)
    result = await unlucky.desk.handle(delivery, timeout=timedelta(seconds=0.5))
    assert result.outcome is not None and result.outcome.verdict is Verdict.RETRY
    assert result.outcome.error in errors
    await unlucky.desk.reporter.close()
    assert [report.failures for _, report in unlucky.desk.circuits.reports] == [1]


@asynccontextmanager
async def responding(**responses: bytes) -> AsyncIterator[MailServer]:
    """A server that responds to some commands, or `connect`, with these bytes. Empty: with nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(responses.get("connect", b"220 mail.test\r\n"))
        while line := await reader.readline():
            command = line[:4].decode().lower()
            writer.write(responses.get(command, b"354 go on\r\n" if command == "data" else b"250 fine\r\n"))
            if command == "data":
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(responses.get("mails", b"250 accepted\r\n"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield MailServer("127.0.0.1", server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    ("responses", "verdict", "error", "detail"),
    [
        ({"quit": b""}, Verdict.DELIVERED, None, "250 accepted"),
        ({"quit": b"\xff\r\n"}, Verdict.DELIVERED, None, "250 accepted"),
        ({"mails": b"250 \xfcbernommen\r\n"}, Verdict.DELIVERED, None, "250 ?bernommen"),
        ({"mails": b"552 \xfcberf\xfcllt\r\n"}, Verdict.REJECTED, FailureCode.MAIL_REJECTED, "552 ?berf?llt"),
        ({"rcpt": b"450 sp\xe4ter\r\n"}, Verdict.RETRY, FailureCode.MAIL_DEFERRED, "450 sp?ter"),
        ({"connect": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, Verdict.RETRY, FailureCode.PROTOCOL, "-1 "),
        ({"mails": b"\x00\x01\x02\r\n"}, Verdict.RETRY, FailureCode.PROTOCOL, "-1 "),
    ],
)
async def test_any_response_is_understood(
    office: Office,
    egress: EgressClient,
    responses: dict[str, bytes],
    verdict: Verdict,
    error: FailureCode | None,
    detail: str,
) -> None:
    async with responding(**responses) as server:
        sending = made_office(office.store, office.desk.receiver, egress, office.mails, Mailer(server, SENDER))
        delivery = await sending.delivery(await sending.endpoint(kind="email", to=[ANN]), ORDER)
        await sending.desk.handle(delivery, timeout=timedelta(seconds=0.8))
        attempt = await sending.desk.attempt(delivery)
        assert (attempt.verdict, attempt.error) == (verdict, error)
        assert (attempt.error_detail or (attempt.response_body or b"").decode()).startswith(detail)
        await sending.desk.reporter.close()


async def handled_by(
    store: Store, receiver: Receiver, egress: EgressClient, mails: SmtpServer, mailer: Mailer | None
) -> Attempt:
    office = made_office(store, receiver, egress, mails, mailer)
    attempt = await office.handled(await office.endpoint(kind="email", to=[ANN]), ORDER)
    await office.desk.reporter.close()
    assert office.desk.circuits.reports == []
    return attempt


async def test_a_server_that_needs_a_password_gets_it_and_a_wrong_one_is_our_fault(
    store: Store, receiver: Receiver, egress: EgressClient
) -> None:
    async with SmtpServer(password=PASSWORD) as mails:
        url = f"smtp://everhook:p%40ss%3Aw%2Frd@127.0.0.1:{mails.port}"
        right = Mailer(MailServer.from_url(url), SENDER)
        wrong = Mailer(MailServer.from_url(url.replace("p%40ss", "wrong")), SENDER)
        none = Mailer(MailServer.from_url(f"smtp://127.0.0.1:{mails.port}"), SENDER)
        with capture_logs() as logs:
            assert (await handled_by(store, receiver, egress, mails, right)).verdict is Verdict.DELIVERED
            for mailer in (wrong, none, None):
                attempt = await handled_by(store, receiver, egress, mails, mailer)
                assert (attempt.verdict, attempt.error) == (Verdict.RETRY, FailureCode.UNSENDABLE)
                assert "EVERHOOK_SMTP_URL" in (attempt.error_detail or "")
    assert "wrong" not in str(logs) and PASSWORD not in str(logs)
    assert len(mails.mails) == 1


@pytest.mark.parametrize(
    ("response", "error", "detail"),
    [
        (b"535 5.7.8 refused: %b", FailureCode.UNSENDABLE, f"{REFUSED_LOGIN}: 535 5.7.8"),
        (b"500 %b", FailureCode.UNSENDABLE, f"{REFUSED_LOGIN}: 500"),
        (b"454 4.7.0 later: %b", FailureCode.MAIL_DEFERRED, "454 4.7.0"),
        (b"421 %b", FailureCode.MAIL_DEFERRED, "421"),
        (b"%b", FailureCode.PROTOCOL, "-1"),
    ],
)
async def test_a_server_that_repeats_the_login_does_not_reveal_it(
    store: Store, receiver: Receiver, egress: EgressClient, response: bytes, error: FailureCode, detail: str
) -> None:
    line = base64.b64encode(f"\0everhook\0{PASSWORD}".encode())
    responses = {"ehlo": b"250-mail.test\r\n250 AUTH PLAIN\r\n", "auth": response % line + b"\r\n"}
    async with SmtpServer() as mails, responding(**responses) as server:
        mailer = Mailer(replace(server, user="everhook", password=SecretStr(PASSWORD)), SENDER)
        office = made_office(store, receiver, egress, mails, mailer)
        with capture_logs() as logs:
            attempt = await office.handled(await office.endpoint(kind="email", to=[ANN]), ORDER)
    assert (attempt.verdict, attempt.error, attempt.error_detail) == (
        Verdict.RETRY,
        error,
        f"{detail} in response to AUTH",
    )
    assert line.decode() not in f"{logs}{attempt.response_body!r}"


async def test_starttls_is_required_once_it_is_set(
    store: Store, receiver: Receiver, egress: EgressClient, tmp_path: Path
) -> None:
    authority = Authority()
    certificate = authority.issue("localhost")
    trusting = ssl.create_default_context(cadata=authority.pem)
    async with SmtpServer(tls=certificate.server_context(tmp_path)) as mails, SmtpServer() as plain:
        secure = MailServer.from_url(f"smtp://localhost:{mails.port}?starttls")
        assert (
            await handled_by(store, receiver, egress, mails, Mailer(secure, SENDER, tls=trusting))
        ).verdict is Verdict.DELIVERED
        unsecured = MailServer.from_url(f"smtp://localhost:{plain.port}?starttls")
        attempt = await handled_by(store, receiver, egress, plain, Mailer(unsecured, SENDER, tls=trusting))
        assert attempt.error == FailureCode.UNSENDABLE
        office = made_office(store, receiver, egress, mails, Mailer(secure, SENDER))
        distrusted = await office.handled(await office.endpoint(kind="email", to=[ANN]), ORDER)
        assert distrusted.error == FailureCode.TLS
    assert (len(mails.mails), plain.mails) == (1, [])


STARTTLS = b"250-mail.test\r\n250 STARTTLS\r\n"


@pytest.mark.parametrize(
    ("responses", "error"),
    [
        ({"ehlo": b"550 no\r\n"}, FailureCode.UNSENDABLE),
        ({"ehlo": STARTTLS, "star": b"502 5.5.1 no\r\n"}, FailureCode.UNSENDABLE),
        ({"ehlo": STARTTLS, "star": b"454 4.7.0 later\r\n"}, FailureCode.MAIL_DEFERRED),
    ],
)
async def test_a_refused_greeting_or_starttls_is_no_refusal_of_the_mail(
    office: Office, egress: EgressClient, responses: dict[str, bytes], error: FailureCode
) -> None:
    async with responding(**responses) as server:
        mailer = Mailer(replace(server, start_tls=True), SENDER)
        sending = made_office(office.store, office.desk.receiver, egress, office.mails, mailer)
        attempt = await sending.handled(await sending.endpoint(kind="email", to=[ANN]), ORDER)
        assert (attempt.verdict, attempt.error) == (Verdict.RETRY, error)


async def test_a_server_that_refuses_ehlo_and_helo_is_our_fault(office: Office, egress: EgressClient) -> None:
    async with responding(ehlo=b"550 no\r\n", helo=b"550 no\r\n") as server:
        sending = made_office(office.store, office.desk.receiver, egress, office.mails, Mailer(server, SENDER))
        attempt = await sending.handled(await sending.endpoint(kind="email", to=[ANN]), ORDER)
    assert (attempt.verdict, attempt.error) == (Verdict.RETRY, FailureCode.UNSENDABLE)


async def test_mail_is_sent_to_the_domains_of_the_setting_only(office: Office, egress: EgressClient) -> None:
    mailer = Mailer(MailServer.from_url(office.mails.url), SENDER, ("acme.example",))
    strict = made_office(office.store, office.desk.receiver, egress, office.mails, mailer)
    endpoint = await strict.endpoint(kind="email", to=["assignees"])
    await strict.handled(endpoint, {"assignees": ["eve@evil.example", "eve@sub.acme.example", "Ann@ACME.example"]})
    assert [mail.to for mail in office.mails.mails] == [["Ann@ACME.example"]]
    none = await strict.handled(endpoint, {"assignees": ["eve@evil.example"]})
    assert (none.verdict, none.error) == (Verdict.REJECTED, FailureCode.INVALID_PAYLOAD)


async def test_an_address_that_was_stored_before_the_setting_of_domains_gets_no_mail(
    office: Office, egress: EgressClient
) -> None:
    mailer = Mailer(MailServer.from_url(office.mails.url), SENDER, ("acme.example",))
    strict = made_office(office.store, office.desk.receiver, egress, office.mails, mailer)
    refused = await strict.handled(await strict.endpoint(kind="email", to=["eve@evil.example", "assignees"]), {})
    assert (refused.verdict, refused.error) == (Verdict.RETRY, FailureCode.UNSENDABLE)
    assert refused.error_detail == "`to` has no address in a domain of EVERHOOK_SMTP_DOMAINS"
    sent = await strict.handled(await strict.endpoint(kind="email", to=["eve@evil.example", ANN]), {})
    assert [mail.to for mail in office.mails.mails] == [[ANN]]
    assert (sent.response_body or b"").endswith(b"; 1 of `to` not in EVERHOOK_SMTP_DOMAINS")


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://mail.acme.example", MailServer("mail.acme.example", 25)),
        ("smtp://mail.acme.example?starttls", MailServer("mail.acme.example", 587, start_tls=True)),
        ("smtps://a:b@[::1]:2465/", MailServer("::1", 2465, tls=True, user="a", password=SecretStr("b"))),
    ],
)
def test_the_url_of_a_server(url: str, server: MailServer) -> None:
    assert MailServer.from_url(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "", "http://a", "smtp:a", "smtp://", "smtp://a:0", "smtp://a:99999", "smtp://a/path", "smtp://a?tls",
        "smtps://a?starttls", "smtp://user@a", "smtp://a#b", "smtp://a b", "smtp://[a",
    ],
)  # fmt: skip
def test_an_invalid_url_of_a_mail_server_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^not smtp://"):
        MailServer.from_url(url)
