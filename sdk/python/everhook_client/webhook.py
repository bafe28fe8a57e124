"""Verify webhooks, over the library of Standard Webhooks (https://www.standardwebhooks.com)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import standardwebhooks

from everhook_client.errors import EverhookError


class InvalidSignature(EverhookError):
    """A request is not signed with any of the secrets, or its time is more than 5 minutes from the clock here. Respond
    with 401."""


@dataclass(frozen=True)
class WebhookMessage:
    """A request that was verified. `body` is its JSON; `raw` are its bytes.

    `type` is signed in the body formats `event` and `cloudevents` only; otherwise it comes from a header that is not.
    """

    gid: str
    type: str
    body: Any
    raw: bytes

    @property
    def payload(self) -> Any:
        """The payload as it was published, in any body format. No payload can hold the gid of its own message, which
        distinguishes the formats."""
        if isinstance(self.body, dict):
            if self.body.get("messageGid") == self.gid and "payload" in self.body:
                return self.body["payload"]
            if self.body.get("id") == self.gid and "data" in self.body:
                return self.body["data"]
        return self.body


class Webhook:
    """Verifies requests that are signed with one of the secrets (`whsec_…`). Several are needed only where different
    senders have different ones, or where yours are changed at different times: during a rotation each request is signed
    with the old and the new secret."""

    def __init__(self, *secrets: str) -> None:
        if not secrets:
            raise ValueError("give at least one secret (whsec_…)")
        self._verifiers = [_verifier(secret) for secret in secrets]

    def verify(self, headers: Mapping[str, str], body: bytes) -> WebhookMessage:
        """The message of a request. `body` are its bytes as they came. Raises InvalidSignature."""
        named = {name.lower(): value for name, value in headers.items()}
        reasons = [_why_invalid(verifier, named, body) for verifier in self._verifiers]
        if None not in reasons:
            raise InvalidSignature(str(reasons[0]))
        content = json.loads(body)
        signed_type = (
            content.get("type") if isinstance(content, dict) and content.get("id") == named["webhook-id"] else None
        )
        return WebhookMessage(named["webhook-id"], str(signed_type or named.get("x-webhook-event", "")), content, body)


def _verifier(secret: str) -> standardwebhooks.Webhook:
    try:
        return standardwebhooks.Webhook(secret)
    except Exception as error:  # it has several, and none names the secret
        raise ValueError("a secret is `whsec_` and base64") from error


def _why_invalid(verifier: standardwebhooks.Webhook, headers: dict[str, str], body: bytes) -> str | None:
    """Why a request is not genuine; None if it is."""
    try:
        verifier.verify(body, headers, json_parse=False)
    except standardwebhooks.WebhookVerificationError as error:
        return str(error)
    except ValueError:  # a list of signatures that is none, no base64, no UTF-8
        return "The signature cannot be read"
    return None
