"""`everhook endpoints`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.api_client.client import path
from cli.api_client.shapes import Endpoint, EndpointCreated, SecretRotated, TestSent
from cli.command import Session, command
from cli.errors import UsageError
from cli.following import at_rest, conclude, show_delivery
from cli.formatting import age, when
from cli.options import DEFAULT_LIMIT, Events, Limit, PolicyOptions, Tenants, Yes, changed, json_object, read_text
from cli.output import Output, pairs
from cli.terminal_states import state
from cli.terminal_text import printable
from everhook.delivery.body_formats import BodyFormat

app = typer.Typer(help="Where your customers receive.", no_args_is_help=True)

Gid = Annotated[str, typer.Argument(help="The endpoint's gid (ep_…).", show_default=False)]
EXAMPLE = "ep_…"


@dataclass(frozen=True)
class Settings:
    """What can be given when an endpoint is made, and changed later."""

    description: Annotated[str | None, typer.Option(help="For people.")] = None
    rate_limit: Annotated[float | None, typer.Option(help="Sends a second at most.")] = None
    signatures: Annotated[
        list[str] | None,
        typer.Option("--signature", help="standard, timestamped or npayload; may be given again. All, unless given."),
    ] = None
    format: Annotated[BodyFormat | None, typer.Option(help="What a body looks like.")] = None
    headers: Annotated[
        list[str] | None, typer.Option("--header", help="'Name: value', sent along; may be given again.")
    ] = None
    metadata: Annotated[str | None, typer.Option(help="Yours, as a JSON object.")] = None
    ed25519: Annotated[bool | None, typer.Option("--ed25519/--no-ed25519", help="Sign with Ed25519, too.")] = None
    tls_ca: Annotated[Path | None, typer.Option(help="A PEM file of authorities to trust.")] = None
    tls_certificate: Annotated[Path | None, typer.Option(help="A PEM file: the certificate to show.")] = None
    tls_key: Annotated[Path | None, typer.Option(help="A PEM file: its key.")] = None

    def given(self) -> dict[str, Any]:
        """Fields of a request; those that were not given are absent."""
        body = {
            "description": self.description,
            "rateLimit": self.rate_limit,
            "signatures": self.signatures or None,
            "format": self.format,
            "headers": dict(map(_header, self.headers)) if self.headers else None,
            "metadata": json_object("--metadata", self.metadata) if self.metadata is not None else None,
            "ed25519": self.ed25519,
            "tls": self._tls(),
        }
        return {name: value for name, value in body.items() if value is not None}

    def _tls(self) -> dict[str, str] | None:
        files = {"ca": self.tls_ca, "clientCertificate": self.tls_certificate, "clientKey": self.tls_key}
        return {name: read_text("--tls-…", file) for name, file in files.items() if file is not None} or None


@command(app, "list", examples=["endpoints list", "endpoints list --tenant acme --json"])
def list_endpoints(session: Session, tenant: Tenants = None, limit: Limit = DEFAULT_LIMIT) -> None:
    """List endpoints with their state, newest first."""
    found = cast(list[Endpoint], list(session.api.walk(path("endpoints"), limit, tenant=tenant)))
    session.out.show(found, lambda endpoints: _table(session.out, endpoints))


@command(app, "show", examples=[f"endpoints show {EXAMPLE}"])
def show_endpoint(session: Session, gid: Gid) -> None:
    """Show one endpoint with its circuit. Its secret is not shown again."""
    session.out.show(session.api.endpoint(gid), _card)


@command(
    app,
    "create",
    examples=[
        "endpoints create https://hooks.example.com/ --channel orders --event 'order.*'",
        "endpoints create http://127.0.0.1:9000/webhooks --channel orders --preset brisk",
    ],
)
def create_endpoint(
    session: Session,
    settings: Settings,
    policy: PolicyOptions,
    at: Annotated[
        str | None, typer.Argument(metavar="URL", help="Where messages are sent.", show_default=False)
    ] = None,
    url: Annotated[str | None, typer.Option(help="The same.")] = None,
    channel: Annotated[str | None, typer.Option(help="Subscribe it to this channel.")] = None,
    events: Events = None,
    tenant: Annotated[str | None, typer.Option(help="Whose it is; `default`, unless given.")] = None,
) -> None:
    """Make an endpoint and, with --channel or --event, its first subscription. The secret is shown this once."""
    if (at is None) == (url is None):
        raise UsageError("give the endpoint's URL, once: everhook endpoints create https://… --channel orders")
    subscription = {"channel": channel, "events": events or None, "tenant": tenant}
    given = {name: value for name, value in subscription.items() if value is not None}
    made = session.api.post(path("endpoints"), {"url": at or url, **given, **settings.given(), **policy.given()})
    session.out.show(cast(EndpointCreated, made), _created)


@command(
    app,
    "update",
    examples=[f"endpoints update {EXAMPLE} --url https://new.example.com/", f"endpoints update {EXAMPLE} --no-policy"],
)
def update_endpoint(
    session: Session,
    gid: Gid,
    settings: Settings,
    policy: PolicyOptions,
    url: Annotated[str | None, typer.Option(help="Where messages are sent from now on.")] = None,
    no_policy: Annotated[bool, typer.Option("--no-policy", help="Back to the channel's.")] = False,
    no_rate_limit: Annotated[bool, typer.Option("--no-rate-limit", help="As fast as it goes.")] = False,
    no_tls: Annotated[bool, typer.Option("--no-tls", help="Forget its certificates.")] = False,
) -> None:
    """Change an endpoint; what is not given stays."""
    cleared = {"policy": no_policy, "rateLimit": no_rate_limit, "tls": no_tls}
    body = {**settings.given(), **policy.given(), **{name: None for name, clear in cleared.items() if clear}}
    if url is not None:
        body["url"] = url
    session.out.show(session.api.patch(path("endpoints", gid), changed(body)), _card)


@command(app, "delete", examples=[f"endpoints delete {EXAMPLE}"])
def delete_endpoint(session: Session, gid: Gid, yes: Yes = False) -> None:
    """Delete an endpoint and its subscriptions. Its open deliveries become dead letters."""
    if not yes:
        endpoint = session.api.endpoint(gid)
        session.out.confirm(f"Delete {gid} ({endpoint['url']}) at {session.target.url}?", yes=yes)
    session.api.delete(path("endpoints", gid))
    session.out.show({"deleted": gid}, lambda _: f"{gid} is deleted")


def _control(name: str, what: str, *parts: str) -> None:
    """A command to the endpoint's circuit."""

    @command(app, name, examples=[f"endpoints {name} {EXAMPLE}"], help=what)
    def control(session: Session, gid: Gid) -> None:
        session.out.show(session.api.post(path("endpoints", gid, *parts)), _card)


_control("pause", "Park all its messages until `resume`, however long.", "pause")
_control("resume", "End a pause.", "resume")
_control("enable", "Lift a disabling, whoever did it. The circuit starts closed.", "enable")
_control("disable", "Park its messages until `enable`; what waits for too long becomes a dead letter.", "disable")
_control("trip", "Open the circuit by hand.", "circuit", "trip")
_control("reset", "Close the circuit by hand, and release what is parked.", "circuit", "reset")


@command(
    app,
    "rotate-secret",
    examples=[f"endpoints rotate-secret {EXAMPLE}", f"endpoints rotate-secret {EXAMPLE} --grace-seconds 0"],
)
def rotate_secret(
    session: Session,
    gid: Gid,
    grace_seconds: Annotated[
        int | None, typer.Option(min=0, help="How long the old secrets go on signing: 0 to 604800; a day by default.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="A file with a secret of your own (`-`: standard input); else one is made.")
    ] = None,
) -> None:
    """Give an endpoint a new secret, shown this once."""
    body: dict[str, Any] = {}
    if grace_seconds is not None:
        body["gracePeriodSeconds"] = grace_seconds
    if secret_file is not None:
        body["secret"] = read_text("--secret-file", secret_file).strip()
    session.out.show(session.api.post(path("endpoints", gid, "secret", "rotate"), body), _rotated)


@command(app, "test", examples=[f"endpoints test {EXAMPLE}"])
def test_endpoint(
    session: Session,
    gid: Gid,
    wait_seconds: Annotated[float, typer.Option(min=0, help="How long to wait for the first attempt.")] = 30,
) -> None:
    """Send a sample message to this endpoint alone, and show what it answers. Exit status 1 unless it is delivered."""
    sent = cast(TestSent, session.api.post(path("endpoints", gid, "test")))
    with session.out.busy(f"waiting for {gid} to answer …"):
        delivery = at_rest(session.api, sent["deliveryGid"], wait_seconds, first_attempt=True)
    session.out.show(delivery, show_delivery)
    conclude([delivery])


def _table(out: Output, endpoints: list[Endpoint]) -> Table | str:
    if not endpoints:
        return "There is no endpoint yet: everhook endpoints create https://… --channel orders"
    rows = out.table("endpoint", "state", "circuit", "tenant", "url", "description", wide=("tenant", "description"))
    for endpoint in endpoints:
        rows.add(
            endpoint=endpoint["endpointGid"],
            state=state(endpoint["status"]),
            circuit=state(endpoint["circuit"]["state"]),
            tenant=endpoint["tenant"],
            url=endpoint["url"],
            description=endpoint["description"],
        )
    return rows.table


def _card(endpoint: Endpoint) -> Table:
    circuit = endpoint["circuit"]
    return pairs(
        [
            ("endpoint", endpoint["endpointGid"]),
            ("url", endpoint["url"]),
            ("description", endpoint["description"]),
            ("tenant", endpoint["tenant"]),
            ("state", _with(state(endpoint["status"]), endpoint["statusReason"])),
            ("circuit", _with(state(circuit["state"]), _failing(endpoint))),
            ("policy", json.dumps(endpoint["policy"]) if endpoint["policy"] is not None else "the channel's"),
            ("rate limit", f"{endpoint['rateLimit']:g} a second" if endpoint["rateLimit"] is not None else None),
            ("signatures", " ".join(endpoint["signatures"])),
            ("public keys", " ".join(key["publicKey"] for key in endpoint["publicKeys"])),
            ("format", endpoint["format"]),
            ("headers", "  ".join(f"{name}: {value}" for name, value in endpoint["headers"].items())),
            ("metadata", json.dumps(endpoint["metadata"]) if endpoint["metadata"] else None),
            ("created", when(endpoint["createdAt"])),
        ]
    )


def _failing(endpoint: Endpoint) -> str:
    circuit = endpoint["circuit"]
    if not circuit["failures"]:
        return ""
    until = f", rests until {when(circuit['until'])}" if circuit["until"] else ""
    return f"{circuit['failures']} failures in a row, failing since {age(circuit['failingSince'])}{until}"


def _with(shown: Text, more: str) -> Text:
    return Text.assemble(shown, f"  {printable(more)}") if more else shown


def _created(endpoint: EndpointCreated) -> Group:
    once = [("subscription", endpoint["subscriptionGid"]), ("secret", _secret(endpoint["secret"]))]
    return Group(_card(endpoint), pairs(once))


def _rotated(rotated: SecretRotated) -> Table:
    return pairs(
        [
            ("endpoint", rotated["endpointGid"]),
            ("secret", _secret(rotated["secret"])),
            ("old ones sign until", when(rotated["previousUntil"])),
            ("public keys", " ".join(key["publicKey"] for key in rotated["publicKeys"])),
        ]
    )


def _secret(secret: str) -> Text:
    return Text.assemble((secret, "bold"), ("  shown this once", "dim"))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"--header is 'Name: value', not {text!r}")
    return name.strip(), value.strip()
