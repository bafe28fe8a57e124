"""The handler `chat`: a text to an incoming webhook of Slack, Mattermost or Teams, through the guarded egress."""

import re
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from everhook import __version__
from everhook.delivery.classify import classify
from everhook.delivery.handling import Job, Made
from everhook.egress import EgressClient
from everhook.internal.templates import render

MAX_TEXT = 4_000

_CALLS_ALL = re.compile(r"@(?=(?:channel|all|here|everyone)\b)", re.IGNORECASE)


def chat_text(job: Job, content: Any) -> str:
    """The text of a message. Values of the payload are escaped, so that they hold no links and mention no one."""
    names = {
        "type": job.event_type,
        "channel": job.channel,
        "messageGid": job.message_gid,
        "deliveryGid": job.delivery_gid,
        "tenant": job.tenant,
    }
    return render(job.handler.text, content, names, at_most=MAX_TEXT, escape=_escaped)


def _escaped(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _CALLS_ALL.sub("@\u200b", text)


async def send_chat(egress: EgressClient, job: Job, content: Any) -> Made:
    """Post the text. What is recorded holds no part of the URL beyond its origin."""
    body = orjson.dumps({"text": chat_text(job, content)})
    headers = (("content-type", "application/json"), ("user-agent", f"Everhook/{__version__}"))
    url = job.handler.url
    exchange = await egress.post(url, headers, body, job.timeout, None, job.tenant_gid)
    classification = classify(exchange.status, exchange.failure, retry_statuses=job.retry_statuses)
    path = url.removeprefix(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}")
    shown = exchange.body.replace(path.encode(), b"/...") if len(path) > 1 else exchange.body
    exchange = replace(exchange, headers=(), body=shown)
    return Made((*headers, ("x-everhook-handler", job.handler.kind.value)), body, exchange, classification)
