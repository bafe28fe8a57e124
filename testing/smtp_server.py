"""A real SMTP server that keeps the mails it accepts, and refuses what a test has it refuse."""

import asyncio
import ssl
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

OK = "250 2.0.0 accepted"


@dataclass(frozen=True)
class Mail:
    """A mail that was accepted: the addresses of its envelope, and what was sent."""

    sender: str
    to: list[str]
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        return message_from_bytes(self.raw, policy=policy.default)

    @property
    def text(self) -> str:
        return str(self.message.get_content())


@dataclass
class SmtpServer:
    """`data` are the responses to coming mails, after which all are accepted; `recipients` those to single addresses.
    With a `password`, clients have to log in as `everhook`."""

    password: str | None = None
    tls: ssl.SSLContext | None = None
    mails: list[Mail] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    recipients: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    port: int = 0
    _protocols: list[SMTP] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(cast(Callable[[], Any], self._protocol), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.close()
        for protocol in self._protocols:
            if protocol.transport is not None:
                protocol.transport.close()
        await asyncio.sleep(0)

    @property
    def url(self) -> str:
        login = f"everhook:{self.password}@" if self.password is not None else ""
        return f"smtp://{login}127.0.0.1:{self.port}"

    def _protocol(self) -> SMTP:
        with warnings.catch_warnings(action="ignore"):  # that passwords are not encrypted
            protocol = SMTP(
                self,
                loop=asyncio.get_running_loop(),
                hostname="mail.test",
                auth_required=self.password is not None,
                auth_require_tls=False,
                authenticator=self._authenticate,
                tls_context=self.tls,
                require_starttls=self.tls is not None,
            )
        self._protocols.append(protocol)
        return protocol

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        return AuthResult(success=data.password.decode() == self.password, handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        response = self.recipients.get(address, OK)
        if response == OK:
            envelope.rcpt_tos.append(address)
        return response

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.hangs:
            await asyncio.sleep(60)
        if self.data:
            return self.data.pop(0)
        assert isinstance(envelope.content, bytes)
        self.mails.append(Mail(str(envelope.mail_from), list(envelope.rcpt_tos), envelope.content))
        return OK
