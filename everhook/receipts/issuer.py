"""Issues receipts: from a finished attempt to its signed receipt."""

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any

from everhook.contracts import AttemptRecord
from everhook.errors import ConfigurationError
from everhook.ids import Kind, new_gid
from everhook.receipts.keys import ReceiptKey, key_at
from everhook.receipts.receipt import Receipt, ReceiptSigner
from everhook.settings import Settings


@dataclass(frozen=True)
class Issuer:
    """The issuer of receipts: a name, and all keys that ever signed for it, newest first."""

    name: str
    keys: tuple[ReceiptKey, ...]

    @cached_property
    def signer(self) -> ReceiptSigner:
        return ReceiptSigner(self.keys)

    def must_sign_at(self, moment: datetime) -> None:
        """Raise NoReceiptKey if no key signs at this moment: the clock of this machine is far behind that of the
        machine that created the first key."""
        key_at(self.keys, moment)


@dataclass(frozen=True)
class ReceiptContext:
    """What a receipt contains in addition to the attempt's record."""

    tenant_gid: str
    message_gid: str
    url: str
    decision: dict[str, Any] | None = None


@dataclass(frozen=True)
class SignedReceipt:
    gid: str
    tenant_gid: str
    jws: str


def issuer_name(settings: Settings) -> str:
    """The configured issuer. Raises ConfigurationError if it is not set: receipts bear this name permanently, so
    there is no default outside of dev."""
    if settings.issuer is None:
        raise ConfigurationError(
            "set EVERHOOK_ISSUER, the permanent name of the issuer of receipts, such as hooks.example.com"
        )
    return settings.issuer


def url_digest(url: str) -> str:
    return sha256(url.encode()).hexdigest()


def issue(record: AttemptRecord, context: ReceiptContext, issuer: Issuer) -> SignedReceipt:
    """Issue the receipt of an attempt. Raises NoReceiptKey."""
    receipt = Receipt(
        gid=new_gid(Kind.RECEIPT),
        issuer=issuer.name,
        tenant=context.tenant_gid,
        endpoint_gid=record.endpoint_gid,
        delivery_gid=record.delivery_gid,
        message_gid=context.message_gid,
        attempt_gid=record.attempt_gid,
        round=record.round,
        number=record.number,
        url=url_of(record, context.url),
        request_sha256=record.request_sha256,
        signatures_sha256=record.signatures_sha256,
        outcome=record.verdict.value,
        started_at=record.started_at,
        ended_at=record.started_at + timedelta(milliseconds=record.duration_ms),
        status_code=record.status_code,
        error=record.error,
        response_sha256=record.response_sha256,
        peer_address=record.peer_address,
        decision=context.decision,
    )
    return SignedReceipt(receipt.gid, receipt.tenant, issuer.signer.sign(receipt))


def url_of(record: AttemptRecord, url: str) -> str:
    """The URL of an attempt. If the endpoint was changed before a late record was made, only the hash of the old URL
    is known; RFC 6920 defines a URL for a hash."""
    if url_digest(url) == record.url_sha256:
        return url
    digest = urlsafe_b64encode(bytes.fromhex(record.url_sha256)).decode().rstrip("=")
    return f"ni:///sha-256;{digest}"
