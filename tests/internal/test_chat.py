"""Chat messages to a real receiver: what is escaped, what decides, and where the secret URL does not go."""

from ipaddress import ip_network

import pytest
from structlog.testing import capture_logs

from everhook.contracts import FailureCode, Verdict
from everhook.egress import EgressClient, EgressRules
from testing.receiver import Response
from tests.internal.conftest import Office, made_office

SECRET_PATH = "/services/T00/B00/s3cr3t"


async def test_a_text_is_posted_and_values_mention_no_one(office: Office) -> None:
    receiver = office.desk.receiver
    url = receiver.url_for(SECRET_PATH)
    endpoint = await office.endpoint(kind="chat", text="<https://x|Order> {order}: {note}", url=url)
    with capture_logs() as logs:
        attempt = await office.handled(endpoint, {"order": 7, "note": "<!channel> @Channel & <@U1> ann@allied.example"})
    (arrival,) = receiver.arrivals
    assert arrival.body.decode() == (
        '{"text":"<https://x|Order> 7: &lt;!channel&gt; @\u200bChannel &amp; &lt;@U1&gt; ann@allied.example"}'
    )
    headers = {name.lower(): value for name, value in arrival.headers}
    assert headers["content-type"] == "application/json"
    assert not any("signature" in name for name in headers)
    assert (attempt.verdict, attempt.status_code, attempt.url) == (Verdict.DELIVERED, 200, receiver.url_for(""))
    assert attempt.peer_address == "127.0.0.1"
    assert "s3cr3t" not in str(logs)


@pytest.mark.parametrize(
    ("status", "verdict"), [(400, Verdict.REJECTED), (429, Verdict.RETRY), (503, Verdict.RETRY), (302, Verdict.RETRY)]
)
async def test_a_status_decides_and_an_echo_of_the_url_is_not_stored(
    office: Office, status: int, verdict: Verdict
) -> None:
    receiver = office.desk.receiver
    url = receiver.url_for(SECRET_PATH)
    echo = Response(status, f"Cannot POST {SECRET_PATH}".encode(), (("location", url), ("retry-after", "7")))
    receiver.respond(echo)
    attempt = await office.handled(await office.endpoint(kind="chat", url=url), {"a": 1})
    assert (attempt.verdict, attempt.error) == (verdict, f"http_{status}")
    assert attempt.response_body == b"Cannot POST /..."
    assert "s3cr3t" not in str(vars(attempt))


async def test_an_address_that_is_not_allowed_is_blocked(office: Office) -> None:
    closed = EgressClient(EgressRules((ip_network("10.0.0.0/8"),), http=True))
    guarded = made_office(office.store, office.desk.receiver, closed, office.mails, None)
    endpoint = await guarded.endpoint(kind="chat", url="https://localhost:9443" + SECRET_PATH)
    attempt = await guarded.handled(endpoint, {"a": 1})
    await closed.aclose()
    assert (attempt.verdict, attempt.error) == (Verdict.REJECTED, FailureCode.BLOCKED)
    assert "s3cr3t" not in str(vars(attempt))
