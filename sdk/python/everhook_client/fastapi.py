"""Verify webhooks in FastAPI: `pip install 'everhook-client[fastapi]'`."""

from collections.abc import Awaitable, Callable

from fastapi import HTTPException, Request

from everhook_client.webhook import InvalidSignature, Webhook, WebhookMessage

MAX_BODY_BYTES = 2 * 1024 * 1024


def verified(
    webhook: Webhook, *, max_body_bytes: int = MAX_BODY_BYTES
) -> Callable[[Request], Awaitable[WebhookMessage]]:
    """A dependency that is the message of a request. It responds with 401 to requests that are not genuine, and with
    413 to bodies that are too large.

    `message: Annotated[WebhookMessage, Depends(verified(Webhook(secret)))]`
    """

    async def message(request: Request) -> WebhookMessage:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_body_bytes:
                raise HTTPException(413, "The body is too large.")
        try:
            return webhook.verify(request.headers, bytes(body))
        except InvalidSignature as error:
            raise HTTPException(401, f"{error}.") from error

    return message
