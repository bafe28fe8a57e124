"""An endpoint's own certificate authority and client certificate, against real TLS servers on loopback."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from everhook.contracts import FailureCode
from everhook.egress import EgressClient, EgressRules, Exchange, TlsExtras, TlsRefused
from everhook.egress.tls import TlsContexts
from testing.certificates import Authority, encrypted, self_signed
from tests.egress.test_egress import (
    BODY,
    HEADERS,
    LOOPBACK,
    SECOND,
    Receiver,
    client,
    keeping_alive,
    receiving,
    resolving,
)

HOST = "hooks.test"
RULES = EgressRules(LOOPBACK.allow)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def clients_authority() -> Authority:
    return Authority("Clients' CA")


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[tuple[Receiver, EgressClient, str]]:
    async with receiving(keeping_alive(), context) as receiver, client(RULES, resolving(("127.0.0.1",))) as egress:
        yield receiver, egress, f"https://{HOST}:{receiver.port}/"


async def _post(egress: EgressClient, url: str, tls: TlsExtras | None) -> Exchange:
    return await egress.post(url, HEADERS, BODY, 5 * SECOND, tls)


async def test_an_authority_of_the_endpoints_own_is_trusted_for_that_endpoint_only(
    authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.issue(HOST).server_context(tmp_path)) as (receiver, egress, url):
        with_ca = await _post(egress, url, TlsExtras(ca=authority.pem))
        without = await _post(egress, url, None)
        with_another = await _post(egress, url, TlsExtras(ca=Authority().pem))
        again = await _post(egress, url, TlsExtras(ca=authority.pem))
    assert (with_ca.status, again.status, again.reused) == (200, 200, True)
    assert (without.failure, with_another.failure) == (FailureCode.TLS, FailureCode.TLS)
    assert "certificate refused" in without.detail
    assert len(receiver.requests) == 2


async def test_one_of_several_authorities_in_a_bundle_is_enough(authority: Authority, tmp_path: Path) -> None:
    bundle = f"{Authority().pem}\n# ours\n{authority.pem}"
    async with serving(authority.issue(HOST).server_context(tmp_path)) as (_, egress, url):
        assert (await _post(egress, url, TlsExtras(ca=bundle))).status == 200


async def test_an_authority_of_its_own_does_not_excuse_a_wrong_name(authority: Authority, tmp_path: Path) -> None:
    async with serving(authority.issue("other.test").server_context(tmp_path)) as (receiver, egress, url):
        exchange = await _post(egress, url, TlsExtras(ca=authority.pem))
    assert (exchange.failure, receiver.requests) == (FailureCode.TLS, [])


async def test_a_client_certificate_is_presented(
    authority: Authority, clients_authority: Authority, tmp_path: Path
) -> None:
    ours = clients_authority.issue("everhook")
    tls = TlsExtras(authority.pem, ours.certificate, ours.key)
    server = authority.issue(HOST).server_context(tmp_path, clients_authority.pem)
    async with serving(server) as (receiver, egress, url):
        assert (await _post(egress, url, tls)).status == 200
        assert (await _post(egress, url, tls)).reused
        assert len(receiver.requests) == 2


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_connection_with_a_client_certificate_is_not_reused_without_it(
    authority: Authority, clients_authority: Authority, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    ours, untrusted = clients_authority.issue("everhook"), Authority().issue("everhook")
    tls = TlsExtras(authority.pem, ours.certificate, ours.key)
    server = authority.issue(HOST).server_context(tmp_path, clients_authority.pem)
    server.minimum_version = server.maximum_version = version
    async with serving(server) as (receiver, egress, url):
        assert (await _post(egress, url, tls)).status == 200
        without = await _post(egress, url, TlsExtras(authority.pem))
        with_anothers = await _post(egress, url, TlsExtras(authority.pem, untrusted.certificate, untrusted.key))
    assert (without.failure, with_anothers.failure) == (FailureCode.TLS, FailureCode.TLS)
    assert len(receiver.requests) == 1


def _unusable() -> dict[str, TlsExtras]:
    pair, other = self_signed("a.test"), self_signed("a.test")
    return {
        "the CA is not a certificate in PEM": TlsExtras(
            ca="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
        ),
        "the CA is not a certificate in PEM ": TlsExtras(ca=""),
        "the CA is not a certificate in PEM  ": TlsExtras(ca="é"),
        "go together": TlsExtras(certificate=pair.certificate),
        "go together ": TlsExtras(key=pair.key),
        "the key is not the certificate's": TlsExtras(certificate=pair.certificate, key=other.key),
        "the key is encrypted": TlsExtras(certificate=pair.certificate, key=encrypted(pair.key)),
        "not usable PEM": TlsExtras(certificate=pair.certificate, key="-----BEGIN PRIVATE KEY-----\nAA"),
        "not usable PEM ": TlsExtras(certificate="/etc/passwd", key=pair.key),
    }


@pytest.mark.parametrize(("rule", "extras"), _unusable().items())
async def test_unusable_tls_settings_are_refused_and_a_failure_of_the_endpoint(rule: str, extras: TlsExtras) -> None:
    async with client(RULES, resolving(("127.0.0.1",))) as egress:
        with pytest.raises(TlsRefused, match=rule.strip()) as refused:
            await egress.check_tls(extras)
        exchange = await egress.post("https://hooks.test:9443/", HEADERS, BODY, SECOND, extras)
    assert (exchange.failure, refused.value.rule in exchange.detail) == (FailureCode.TLS, True)
    assert "BEGIN" not in exchange.detail


async def test_usable_extras_pass_the_check(authority: Authority) -> None:
    pair = authority.issue("everhook")
    async with client(RULES) as egress:
        await egress.check_tls(TlsExtras(authority.pem, pair.certificate, pair.key))


def test_a_key_is_not_shown() -> None:
    pair = self_signed("a.test")
    assert pair.key not in repr(TlsExtras(None, pair.certificate, pair.key))


async def test_contexts_are_kept_by_content_and_the_longest_unused_give_way(authority: Authority) -> None:
    contexts = TlsContexts(ssl.create_default_context(), keep=2)
    extras = [TlsExtras(ca=authority.pem + "\n" * number) for number in range(3)]
    first, second = [(await contexts.get(one)) for one in extras[:2]]
    assert (await contexts.get(replace(extras[0]))).context is first.context
    await contexts.get(extras[2])
    assert len(contexts) == 2
    assert (await contexts.get(extras[0])).context is first.context
    made_again = await contexts.get(extras[1])
    assert made_again.context is not second.context
    assert made_again.key == second.key


async def test_concurrent_requests_share_one_context(authority: Authority) -> None:
    contexts = TlsContexts(ssl.create_default_context())
    got = await asyncio.gather(*(contexts.get(TlsExtras(ca=authority.pem)) for _ in range(20)))
    assert len({id(one.context) for one in got}) == 1


async def test_no_tls_settings_mean_the_default_trust() -> None:
    usual = ssl.create_default_context()
    contexts = TlsContexts(usual)
    assert [(await contexts.get(extras)).context is usual for extras in (None, TlsExtras())] == [True, True]
    assert len(contexts) == 0


def test_fields_are_not_confused_in_the_hash() -> None:
    pem = "a"
    different: list[Any] = [TlsExtras(pem), TlsExtras(None, pem), TlsExtras(None, None, pem), TlsExtras("", pem)]
    assert len({one.digest for one in different}) == 4
