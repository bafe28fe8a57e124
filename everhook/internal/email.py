"""The handler `email`: one mail by the operator's SMTP server.

The server is named by a setting of the operator, so it is trusted: it may have a private address, and is not reached
through the egress rules, which guard against URLs of tenants.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, parseaddr
from typing import Any

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPConnectResponseError,
    SMTPException,
    SMTPHeloError,
    SMTPNotSupported,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
)

from everhook.contracts import DeadLetterReason, FailureCode, Verdict
from everhook.delivery.classify import Classification
from everhook.delivery.handling import Job, Made
from everhook.egress import Exchange, LocalError
from everhook.internal.options import ASSIGNEES, MAX_RECIPIENTS, MAX_SUBJECT, in_domains, is_address, one_line
from everhook.internal.payloads import InvalidPayload
from everhook.internal.templates import render
from everhook.settings import MailServer

_WIRE = SMTP_POLICY.clone(cte_type="7bit")

MAX_BODY = 100_000
MAX_RESPONSE = 1_000
QUIT_TIMEOUT_S = 1.0

CLOSING = 421
NEEDS_LOGIN = frozenset({530, 534, 535, 538})
"""Responses that a setting of the operator has to fix: RFC 4954 section 6."""

_ENHANCED_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}\b")
"""RFC 3463."""


@dataclass(frozen=True)
class Reply:
    """What the server responded to a mail. `code` is None if there was no response to the mail itself."""

    code: int | None
    text: str
    failure: FailureCode | None = None
    peer: str | None = None


def recipients(job: Job, content: Any, domains: Sequence[str]) -> list[str]:
    """The addresses that a mail goes to: those of the endpoint and of the event that are in `domains`.

    The endpoint may be older than the setting. Raises LocalError if only addresses of the endpoint outside of the
    domains are left, and InvalidPayload if there is none otherwise, or there are too many.
    """
    found: dict[str, None] = {}
    for entry in job.handler.to:
        found |= dict.fromkeys(_assignees(content) if entry == ASSIGNEES else [entry])
    found = {address: None for address in found if in_domains(address, domains)}
    if not found and _left_out(job, domains):
        raise LocalError("`to` has no address in a domain of EVERHOOK_SMTP_DOMAINS")
    if not found:
        raise InvalidPayload("assignees: has no mail address that mail may be sent to")
    if len(found) > MAX_RECIPIENTS:
        raise InvalidPayload(f"assignees: has more than {MAX_RECIPIENTS} mail addresses")
    return list(found)


def _assignees(content: Any) -> list[str]:
    assignees = content.get("assignees") if isinstance(content, dict) else None
    return list(filter(is_address, assignees)) if isinstance(assignees, list) else []


def _left_out(job: Job, domains: Sequence[str]) -> int:
    """The number of addresses of the endpoint that mail may not be sent to."""
    return sum(address != ASSIGNEES and not in_domains(address, domains) for address in job.handler.to)


def compose(job: Job, content: Any, to: Sequence[str], sender: str) -> EmailMessage:
    """The mail as RFC 5322 has it. Its Message-ID is that of the delivery, so a mail that is sent twice can be
    recognised. It is plain text, so nothing in it can be markup."""
    names = {
        "type": job.event_type,
        "channel": job.channel,
        "messageGid": job.message_gid,
        "deliveryGid": job.delivery_gid,
        "tenant": job.tenant,
    }
    subject = _header(render(job.handler.subject, content, names, at_most=MAX_SUBJECT))
    body = render(job.handler.body, content, names, at_most=MAX_BODY)
    mail = EmailMessage()
    mail["From"] = sender
    mail["To"] = ", ".join(to)
    mail["Subject"] = subject or job.event_type
    mail["Date"] = format_datetime(job.accepted_at)
    mail["Message-ID"] = f"<{job.delivery_gid}@{_domain(sender)}>"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notices in response
    mail.set_content("".join(char for char in body if char >= " " or char in "\n\t"), cte="quoted-printable")
    return mail


def _header(text: str) -> str:
    """A text that can be set as a header. `email` decodes encoded words (RFC 2047) in it, and Python without the fix of
    CVE-2024-6923 writes the line breaks that come out of them: nothing may be left that begins like one."""
    return one_line(text).replace("=?", "= ?").strip()


def _domain(sender: str) -> str:
    return parseaddr(sender)[1].rpartition("@")[2]


@dataclass(frozen=True)
class Mailer:
    """Sends mails by one server, each over a connection of its own. `domains`: those that mail may be sent to."""

    server: MailServer
    sender: str
    domains: Sequence[str] = ()
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    async def make(self, job: Job, content: Any) -> Made:
        """Send the mail of a job. Raises InvalidPayload, and LocalError for a server that cannot be used so."""
        to = recipients(job, content, self.domains)
        mail = compose(job, content, to, self.sender).as_bytes(policy=_WIRE)
        started = time.monotonic()
        reply = await self._send(mail, to, job.timeout)
        left_out = _left_out(job, self.domains)
        text = f"{reply.text}; {left_out} of `to` not in EVERHOOK_SMTP_DOMAINS" if left_out else reply.text
        exchange = Exchange(
            status=None,
            failure=reply.failure,
            detail=text,
            duration=timedelta(seconds=time.monotonic() - started),
            body=text.encode() if reply.code is not None else b"",
            peer_address=reply.peer,
        )
        return Made((("x-everhook-handler", job.handler.kind.value),), mail, exchange, classify_reply(reply))

    async def _send(self, mail: bytes, to: Sequence[str], timeout: timedelta) -> Reply:
        client = SMTP(
            hostname=self.server.host,
            port=self.server.port,
            timeout=timeout.total_seconds(),
            use_tls=self.server.tls,
            start_tls=False,
            tls_context=self.tls,
            local_hostname=_domain(self.sender),
        )
        peers: list[str] = []
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                reply = await self._exchange(client, mail, to, peers)
            with suppress(SMTPException, OSError):  # the mail is accepted, even if this fails
                await client.quit(timeout=QUIT_TIMEOUT_S)
        except TimeoutError:
            reply = Reply(None, "no response in time", FailureCode.TIMEOUT_TOTAL)
        except (SMTPException, OSError) as error:
            reply = _failed(error)
        finally:
            client.close()
        return Reply(reply.code, reply.text, reply.failure, peers[0] if peers else None)

    async def _exchange(self, client: SMTP, mail: bytes, to: Sequence[str], peers: list[str]) -> Reply:
        """One mail. It is sent to none if one of its recipients is refused for now, so that a retry sends it to none
        twice; those that are refused for good are left out, unless all are."""
        await client.connect()
        peer = client.get_transport_info("peername")
        if peer:
            peers.append(str(peer[0]))
        if self.server.start_tls:
            await client.ehlo()
            if not client.supports_extension("starttls"):
                raise LocalError("the SMTP server does not support STARTTLS, which EVERHOOK_SMTP_URL requires")
            await _start_tls(client)
        if self.server.user is not None and self.server.password is not None:
            await _log_in(client, self.server.user, self.server.password.get_secret_value())
        await client.mail(parseaddr(self.sender)[1])
        refused: list[SMTPRecipientRefused] = []
        for address in to:
            try:
                await client.rcpt(address)
            except SMTPRecipientRefused as error:
                if error.code < 500 or len(to) == 1:
                    raise
                refused.append(error)
        if len(refused) == len(to):
            raise refused[0]
        accepted = await client.data(mail)
        left_out = f"; {len(refused)} of {len(to)} recipients refused: {_text(refused[0])}" if refused else ""
        return Reply(accepted.code, _short(f"{accepted.code} {accepted.message}") + left_out)


async def _start_tls(client: SMTP) -> None:
    """A refusal for good is no response to the mail: the server announces STARTTLS, but its TLS does not work."""
    try:
        await client.starttls()
    except SMTPResponseException as error:
        if error.code < 500:
            raise
        raise LocalError(
            f"the SMTP server refuses STARTTLS, which EVERHOOK_SMTP_URL requires: {_text(error)}"
        ) from None


async def _log_in(client: SMTP, user: str, password: str) -> None:
    """Log in. Of a refusal only the codes are kept: a server may repeat the line with the password."""
    try:
        await client.login(user, password)
    except SMTPResponseException as error:
        enhanced = _ENHANCED_STATUS.match(error.message)
        text = f"{enhanced[0]} in response to AUTH" if enhanced else "in response to AUTH"
        raise SMTPAuthenticationError(error.code, text) from None


def classify_reply(reply: Reply) -> Classification:
    """What a reply means: in SMTP 4xx is for now, and 5xx for good (RFC 5321 section 4.2.1)."""
    if reply.failure is None:
        return Classification(Verdict.DELIVERED, healthy=True)
    if reply.failure is FailureCode.MAIL_REJECTED:
        return Classification(Verdict.REJECTED, DeadLetterReason.REJECTED, healthy=True)
    if reply.failure is FailureCode.MAIL_DEFERRED:
        return Classification(Verdict.RETRY, healthy=reply.code != CLOSING)
    return Classification(Verdict.RETRY, healthy=False)


def _failed(error: SMTPException | OSError) -> Reply:
    """An error as a reply. Raises LocalError for one that only the operator can fix."""
    refused = isinstance(error, SMTPAuthenticationError | SMTPHeloError) and error.code >= 500
    if refused or isinstance(error, SMTPNotSupported):
        raise LocalError(f"the SMTP server does not take EVERHOOK_SMTP_URL: {_text(error)}") from None
    if isinstance(error, SMTPConnectResponseError):
        return Reply(None, _text(error), FailureCode.REFUSED)
    if isinstance(error, SMTPResponseException):
        if error.code in NEEDS_LOGIN:
            raise LocalError(f"the SMTP server does not take EVERHOOK_SMTP_URL: {_text(error)}") from None
        if not 400 <= error.code < 600:  # aiosmtplib has -1 for a line that is no response of SMTP
            return Reply(None, _text(error), FailureCode.PROTOCOL)
        code = FailureCode.MAIL_DEFERRED if error.code < 500 else FailureCode.MAIL_REJECTED
        return Reply(error.code, _text(error), code)
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLError):
        return Reply(None, "TLS with the SMTP server failed", FailureCode.TLS)
    if isinstance(error, SMTPServerDisconnected):
        return Reply(None, "the SMTP server closed the connection", FailureCode.RESET)
    if isinstance(error, SMTPConnectError):
        return Reply(None, "no connection to the SMTP server", FailureCode.REFUSED)
    return Reply(None, "the connection to the SMTP server failed", FailureCode.RESET)


def _text(error: SMTPException | OSError) -> str:
    """What the server said."""
    if isinstance(error, SMTPResponseException):
        return _short(f"{error.code} {error.message}")
    return type(error).__name__


def _short(text: str) -> str:
    """A response as it can be stored: a server may respond with bytes that are no UTF-8."""
    return one_line(text)[:MAX_RESPONSE].encode(errors="replace").decode()
