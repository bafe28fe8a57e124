"""Gates in tests: inboxes, and the decisions of people."""

from typing import Any

import httpx

from testing.api import JSON, Api, created, ok

APPROVE: JSON = {"outcome": "approved"}
REJECT: JSON = {"outcome": "rejected", "comment": "too expensive"}
ABOVE_1000 = {"amount": {"$gt": 1000}}


async def inbox(api: Api, name: str = "Managers", **more: Any) -> str:
    options = {"name": name, "task": more.pop("task", {})}
    made = created(await api.post("/v1/endpoints", {"mode": "inbox", "options": options, **more}))
    gid: str = made["endpointGid"]
    return gid


async def statuses(api: Api, message: JSON) -> dict[str, str]:
    """By endpoint; of several deliveries, the newest."""
    found = ok(await api.get("/v1/deliveries", messageGid=message["messageGid"]))["data"]
    return {each["endpointGid"]: each["status"] for each in reversed(found)}


async def gate_of(api: Api, message: JSON) -> Any:
    return ok(await api.get(f"/v1/messages/{message['messageGid']}"))["gate"]


async def open_task(api: Api, message: JSON) -> JSON:
    tasks = ok(await api.get("/v1/tasks", state="open"))["data"]
    (found,) = [each for each in tasks if each["messageGid"] == message["messageGid"]]
    return dict(found)


async def decide(api: Api, message: JSON, body: JSON) -> httpx.Response:
    task = await open_task(api, message)
    return await api.post(f"/v1/tasks/{task['taskGid']}/decide", {"version": task["version"], **body})
