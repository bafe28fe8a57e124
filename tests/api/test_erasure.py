"""Erasing content: what callers see, and what happens to deliveries that are still open."""

from testing.api import JSON, UNKNOWN_SUFFIX, Api, assert_problem, ok


async def erased(api: Api, message_gid: str) -> JSON:
    """Erase a message's content; returns the message afterwards."""
    response = await api.delete(f"/v1/messages/{message_gid}/payload")
    assert (response.status_code, response.content) == (204, b"")
    return ok(await api.get(f"/v1/messages/{message_gid}"))


async def test_the_payload_is_erased_at_once_and_the_message_shows_when(api: Api) -> None:
    """With Temporal stopped: erasing needs the database alone."""
    await api.channel()
    await api.endpoint(channel="orders")
    published = await api.publish({"secret": 1}, idempotencyKey="k")
    before = ok(await api.get(f"/v1/messages/{published['messageGid']}"))
    assert (before["payload"], before["payloadErasedAt"]) == ({"secret": 1}, None)

    message = await erased(api, published["messageGid"])

    assert message["payload"] is None and message["payloadErasedAt"] is not None
    assert {**before, "payload": None, "payloadErasedAt": message["payloadErasedAt"]} == message
    [listed] = await api.walk("/v1/messages")
    assert listed["payloadErasedAt"] == message["payloadErasedAt"]
    assert await erased(api, published["messageGid"]) == message
    assert await api.rows("SELECT gid FROM message WHERE payload IS NOT NULL") == []
    again = await api.publish({"secret": 1}, idempotencyKey="k")
    assert again["duplicate"] and again["messageGid"] == published["messageGid"]


async def test_the_audit_log_records_who_erased_a_payload(api: Api) -> None:
    await api.channel()
    gid = (await api.publish(1))["messageGid"]
    await erased(api, gid)
    [entry] = await api.walk("/v1/audit", subject=gid)
    assert (entry["action"], entry["detail"]) == ("message.payload_erased", {})


async def test_an_unknown_message_cannot_be_erased(api: Api) -> None:
    for gid in (f"msg_{UNKNOWN_SUFFIX}", "nonsense"):
        assert_problem(await api.delete(f"/v1/messages/{gid}/payload"), 404)
