"""The settings `EVERHOOK_EGRESS_…` widen and narrow the rules, from the variables to the decision."""

import pytest

from everhook.egress import EgressClient, EgressRules, UrlRefused
from everhook.settings import Settings

ALLOW, PORTS, HTTP = "EVERHOOK_EGRESS_ALLOW", "EVERHOOK_EGRESS_PORTS", "EVERHOOK_EGRESS_HTTP"
INNER = {ALLOW: "10.20.0.0/16, fd12:3456::/32"}
PUBLIC = "https://93.184.215.14"


async def _judge(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = EgressClient(EgressRules.from_settings(Settings()))
    try:
        await client.check_url(url)
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, f"{PUBLIC}/"),
        ({}, f"{PUBLIC}:8443/"),
        ({}, f"{PUBLIC}:1024/"),
        ({}, f"{PUBLIC}:65535/"),
        (INNER, "https://10.20.30.40/"),
        (INNER, "https://[fd12:3456::1]/"),
        (INNER, f"{PUBLIC}/"),
        ({**INNER, HTTP: "true"}, "http://10.20.30.40:8080/"),
        ({**INNER, HTTP: "true", PORTS: "80"}, "http://10.20.30.40/"),
        ({PORTS: "443, 9000"}, f"{PUBLIC}:9000/"),
        ({PORTS: "443, 9000"}, f"{PUBLIC}/"),
        ({ALLOW: "169.254.169.254/32"}, "https://169.254.169.254/"),
    ],
)
async def test_allowed_urls_pass(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str) -> None:
    await _judge(monkeypatch, environment, url)


@pytest.mark.parametrize(
    ("environment", "url", "rule"),
    [
        ({}, f"{PUBLIC}:1023/", "has port 1023, which is not allowed"),
        (INNER, "https://10.21.0.1/", "private"),
        (INNER, "https://[fd12:3457::1]/", "unique local"),
        (INNER, "https://[::ffff:10.20.30.40]/", "IPv4-mapped"),
        (INNER, "https://[64:ff9b::a14:1e28]/", "NAT64"),
        (INNER, "http://10.20.30.40:8080/", "must use https, not plain http"),
        (INNER, "https://169.254.169.254/", "cloud metadata"),
        (
            {**INNER, HTTP: "true"},
            "http://93.184.215.14:8080/",
            "must use https. Plain http is only for networks that the operator has allowed",
        ),
        (
            {**INNER, HTTP: "true"},
            "http://10.20.30.40/",
            "that the operator has allowed. The port must be 443, 8443 or one above 1023",
        ),
        ({PORTS: "443, 9000"}, f"{PUBLIC}:8443/", "has port 8443, which is not allowed; use 443 or 9000"),
        ({HTTP: "true"}, "http://127.0.0.1:8080/", "loopback"),
    ],
)
async def test_urls_that_are_not_allowed_are_refused_with_their_rule(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, rule: str
) -> None:
    with pytest.raises(UrlRefused, match=rule) as refused:
        await _judge(monkeypatch, environment, url)
    assert "EVERHOOK" not in str(refused.value) and environment.get(ALLOW, "/16") not in str(refused.value)
