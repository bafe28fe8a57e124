"""`everhook endpoints`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cli.command import Session, command
from cli.errors import UsageError
from cli.following import conclude, show_delivery, wait_for_end
from cli.formatting import age, counted, when
from cli.options import (
    DEFAULT_LIMIT,
    CircuitJson,
    Events,
    Limit,
    NoCircuit,
    PolicyOptions,
    Tenants,
    Yes,
    changed,
    circuit_given,
    json_object,
    read_text,
)
from cli.output import Output, pairs
from cli.terminal_states import state
from cli.terminal_text import printable
from everhook.delivery.body_formats import BodyFormat
from everhook.visible import visible
from everhook_client import calls
from everhook_client.calls import Call
from everhook_client.models import (
    Endpoint,
    EndpointAuth,
    EndpointCreated,
    HandlerOptions,
    SecretRotated,
    SecretRotation,
)

app = typer.Typer(help="Where your customers receive: URLs, and queues that they pull from.", no_args_is_help=True)

Gid = Annotated[str, typer.Argument(help="The endpoint's gid (ep_…).", show_default=False)]
EXAMPLE = "ep_…"


class Mode(StrEnum):
    """How an endpoint that is created receives."""

    HTTP = "http"
    POLL = "poll"
    STREAM = "stream"
    INBOX = "inbox"
    INTERNAL = "internal"


@dataclass(frozen=True)
class Settings:
    """Options to create and update an endpoint."""

    description: Annotated[str | None, typer.Option(help="A description for people.")] = None
    rate_limit: Annotated[float | None, typer.Option(help="Maximum number of requests per second.")] = None
    circuit: CircuitJson = None
    alerts: Annotated[
        str | None, typer.Option(help='Alert settings as JSON, such as {"successRateBelow": 0.95, "minAttempts": 50}.')
    ] = None
    signatures: Annotated[
        list[str] | None,
        typer.Option(
            "--signature", help="standard, timestamped, npayload or svix; can be repeated. Default: the first three."
        ),
    ] = None
    format: Annotated[BodyFormat | None, typer.Option(help="The format of the body.")] = None
    headers: Annotated[
        list[str] | None, typer.Option("--header", help="An additional header 'Name: value'; can be repeated.")
    ] = None
    metadata: Annotated[str | None, typer.Option(help="Your metadata, as a JSON object.")] = None
    ed25519: Annotated[bool | None, typer.Option("--ed25519/--no-ed25519", help="Also sign with Ed25519.")] = None
    tls_ca: Annotated[Path | None, typer.Option(help="A PEM file of authorities to trust.")] = None
    tls_certificate: Annotated[Path | None, typer.Option(help="A PEM file: the client certificate.")] = None
    tls_key: Annotated[Path | None, typer.Option(help="A PEM file: the key of the client certificate.")] = None
    auth_file: Annotated[
        Path | None,
        typer.Option(help="A file (`-`: standard input) with `auth` as a JSON object: how requests authenticate."),
    ] = None

    def given(self) -> dict[str, Any]:
        """Fields of a request, without those that were not given."""
        body = {
            "description": self.description,
            "rateLimit": self.rate_limit,
            **circuit_given(self.circuit),
            "alerts": json_object("--alerts", self.alerts) if self.alerts is not None else None,
            "signatures": self.signatures or None,
            "format": self.format,
            "headers": dict(map(_header, self.headers)) if self.headers else None,
            "metadata": json_object("--metadata", self.metadata) if self.metadata is not None else None,
            "ed25519": self.ed25519,
            "tls": self._tls(),
            "auth": self._auth(),
        }
        return {name: value for name, value in body.items() if value is not None}

    def _auth(self) -> dict[str, Any] | None:
        """From a file, so that no secret is among the arguments of a process."""
        return json_object("--auth-file", read_text("--auth-file", self.auth_file)) if self.auth_file else None

    def _tls(self) -> dict[str, str] | None:
        files = {"ca": self.tls_ca, "clientCertificate": self.tls_certificate, "clientKey": self.tls_key}
        return {name: read_text("--tls-…", file) for name, file in files.items() if file is not None} or None


@command(app, "list", examples=["endpoints list", "endpoints list --tenant acme --json"])
def list_endpoints(session: Session, tenant: Tenants = None, limit: Limit = DEFAULT_LIMIT) -> None:
    """List endpoints with their state, newest first."""
    found = list(session.api.items(calls.list_endpoints(tenant=tenant), limit))
    session.out.show(found, lambda endpoints: _table(session.out, endpoints))


@command(app, "show", examples=[f"endpoints show {EXAMPLE}"])
def show_endpoint(session: Session, gid: Gid) -> None:
    """Show one endpoint with its circuit. Its secret is not shown again."""
    session.out.show(session.api.call(calls.get_endpoint(gid)), _card)


@command(
    app,
    "create",
    examples=[
        "endpoints create https://hooks.example.com/ --channel orders --event 'order.*'",
        "endpoints create http://127.0.0.1:9000/webhooks --channel orders --preset brisk",
        "endpoints create --mode poll --channel orders",
        "endpoints create --mode inbox --name Managers --assignee ann@acme.example --channel orders",
        """endpoints create --mode internal --handler '{"kind": "email", "to": ["ann@acme.example"]}' --channel a""",
    ],
)
def create_endpoint(
    session: Session,
    settings: Settings,
    policy: PolicyOptions,
    at: Annotated[
        str | None, typer.Argument(metavar="URL", help="The URL that messages are sent to.", show_default=False)
    ] = None,
    url: Annotated[str | None, typer.Option(help="The same as an option.")] = None,
    channel: Annotated[str | None, typer.Option(help="Subscribe it to this channel.")] = None,
    events: Events = None,
    tenant: Annotated[str | None, typer.Option(help="Its tenant; `default` if not given.")] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="Webhooks to a URL, a queue that consumers poll or stream from, people who decide, or Everhook itself."
        ),
    ] = Mode.HTTP,
    lease_seconds: Annotated[
        int | None, typer.Option(help="Of a queue: how long a consumer has a message; 60 by default.")
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            help="How many requests are made to a URL at a time; of a queue: how many messages all consumers together "
            "may have, 1000 by default."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of --mode inbox: what people see.")] = None,
    assignee: Annotated[
        list[str] | None, typer.Option(help="Of --mode inbox: someone who is asked; can be repeated.")
    ] = None,
    handler: Annotated[
        str | None, typer.Option(help="Of --mode internal: what Everhook does, as a JSON object with a `kind`.")
    ] = None,
    handler_file: Annotated[
        Path | None, typer.Option(help="The same from a file (`-`: standard input), for one that holds a secret URL.")
    ] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Send nothing to it until `resume`.")] = False,
) -> None:
    """Create an endpoint and, with --channel or --event, its first subscription. The secret is shown only once."""
    if mode is not Mode.HTTP and (at or url):
        raise UsageError(f"--mode {mode} has no URL: {_what_it_has(mode)}")
    if handler is not None and handler_file is not None:
        raise UsageError("give --handler or --handler-file, not both")
    if handler_file is not None:
        handler = read_text("--handler-file", handler_file)
    if mode is Mode.HTTP and (at is None) == (url is None):
        raise UsageError("give the endpoint's URL, once: everhook endpoints create https://… --channel orders")
    options = {
        "leaseSeconds": lease_seconds,
        "maxInFlight": max_in_flight if mode in (Mode.POLL, Mode.STREAM) else None,
        "name": name,
        "task": {"assignees": assignee} if assignee else None,
        "handler": json_object("--handler", handler) if handler is not None else None,
    }
    fields = {
        "url": at or url,
        "mode": mode if mode is not Mode.HTTP else None,
        "options": {name: value for name, value in options.items() if value is not None} or None,
        "maxInFlight": max_in_flight if mode not in (Mode.POLL, Mode.STREAM) else None,
        "paused": paused or None,
        "channel": channel,
        "events": events or None,
        "tenant": tenant,
    }
    own = {name: value for name, value in fields.items() if value is not None}
    given: Any = {**own, **settings.given(), **policy.given()}
    created = session.api.call(calls.create_endpoint(given))
    session.out.show(created, _created)


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
    url: Annotated[str | None, typer.Option(help="The new URL.")] = None,
    no_policy: Annotated[bool, typer.Option("--no-policy", help="Use the channel's policy.")] = False,
    no_rate_limit: Annotated[bool, typer.Option("--no-rate-limit", help="Remove the rate limit.")] = False,
    max_in_flight: Annotated[int | None, typer.Option(help="How many requests are made to its URL at a time.")] = None,
    no_max_in_flight: Annotated[bool, typer.Option("--no-max-in-flight", help="Remove that limit.")] = False,
    no_circuit: NoCircuit = False,
    no_alerts: Annotated[bool, typer.Option("--no-alerts", help="Remove its alert settings.")] = False,
    no_tls: Annotated[bool, typer.Option("--no-tls", help="Remove its certificates.")] = False,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Remove its authentication.")] = False,
) -> None:
    """Change an endpoint. Options that are not given stay unchanged."""
    cleared = {"policy": no_policy, "circuit": no_circuit, "rateLimit": no_rate_limit, "tls": no_tls, "auth": no_auth}
    cleared |= {"maxInFlight": no_max_in_flight, "alerts": no_alerts}
    body = {**settings.given(), **policy.given(), **{name: None for name, clear in cleared.items() if clear}}
    if url is not None:
        body["url"] = url
    if max_in_flight is not None:
        body["maxInFlight"] = max_in_flight
    session.out.show(session.api.call(calls.update_endpoint(gid, changed(body))), _card)


@command(app, "delete", examples=[f"endpoints delete {EXAMPLE}"])
def delete_endpoint(session: Session, gid: Gid, yes: Yes = False) -> None:
    """Delete an endpoint and its subscriptions. Its open deliveries become dead letters."""
    if not yes:
        endpoint = session.api.call(calls.get_endpoint(gid))
        session.out.confirm(f"Delete {gid} ({_where(endpoint)}) at {session.target.url}?", yes=yes)
    session.api.call(calls.delete_endpoint(gid))
    session.out.show({"deleted": gid}, lambda _: f"{gid} is deleted")


def _control(name: str, what: str, call: Callable[[str], Call[Endpoint]]) -> None:
    """Register a command to the endpoint's circuit."""

    @command(app, name, examples=[f"endpoints {name} {EXAMPLE}"], help=what)
    def control(session: Session, gid: Gid) -> None:
        session.out.show(session.api.call(call(gid)), _card)


_control("pause", "Park all its messages until `resume`, without a time limit.", calls.pause_endpoint)
_control("resume", "End a pause.", calls.resume_endpoint)
_control("enable", "Enable a disabled endpoint. The circuit starts closed.", calls.enable_endpoint)
_control(
    "disable", "Park its messages until `enable`; those that wait too long become dead letters.", calls.disable_endpoint
)
_control("trip", "Open the circuit manually.", calls.trip_circuit)
_control("reset", "Close the circuit manually, and release parked deliveries.", calls.reset_circuit)


@command(
    app,
    "rotate-secret",
    examples=[f"endpoints rotate-secret {EXAMPLE}", f"endpoints rotate-secret {EXAMPLE} --grace-seconds 0"],
)
def rotate_secret(
    session: Session,
    gid: Gid,
    grace_seconds: Annotated[
        int | None, typer.Option(min=0, help="How long the old secrets still sign: 0 to 604800; a day by default.")
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(help="A file with your own secret (`-`: standard input); by default one is generated."),
    ] = None,
) -> None:
    """Give an endpoint a new secret, which is shown only once."""
    body: SecretRotation = {}
    if grace_seconds is not None:
        body["gracePeriodSeconds"] = grace_seconds
    if secret_file is not None:
        body["secret"] = read_text("--secret-file", secret_file).strip()
    session.out.show(session.api.call(calls.rotate_secret(gid, body)), _rotated)


@command(app, "test", examples=[f"endpoints test {EXAMPLE}", f"endpoints test {EXAMPLE} --type order.created"])
def test_endpoint(
    session: Session,
    gid: Gid,
    type: Annotated[str | None, typer.Option(help="Send the example of this event type of the catalogue.")] = None,
    wait_seconds: Annotated[float, typer.Option(min=0, help="How long to wait for the first attempt.")] = 30,
) -> None:
    """Send a sample message to this endpoint only, and show its response. Exit status 1 unless it is delivered."""
    sent = session.api.call(calls.test_endpoint(gid, type=type))
    with session.out.busy(f"waiting for the response of {gid} …"):
        delivery = wait_for_end(session.api, sent["deliveryGid"], wait_seconds, first_attempt=True)
    session.out.show(delivery, show_delivery)
    conclude(session, [delivery])


def _table(out: Output, endpoints: list[Endpoint]) -> Table | str:
    if not endpoints:
        return "There are no endpoints yet: everhook endpoints create https://… --channel orders"
    rows = out.table("endpoint", "state", "circuit", "tenant", "url", "description", wide=("tenant", "description"))
    for endpoint in endpoints:
        rows.add(
            endpoint=endpoint["endpointGid"],
            state=state(endpoint["status"]),
            circuit=state(endpoint["circuit"]["state"]),
            tenant=endpoint["tenant"],
            url=_where(endpoint),
            description=endpoint["description"] if endpoint["url"] else "",
        )
    return rows.table


def _card(endpoint: Endpoint) -> Table:
    circuit = endpoint["circuit"]
    return pairs(
        [
            ("endpoint", endpoint["endpointGid"]),
            ("url", endpoint["url"] or None),
            ("mode", _mode(endpoint) if endpoint["mode"] != "http" else None),
            ("description", endpoint["description"]),
            ("tenant", endpoint["tenant"]),
            ("state", _with(state(endpoint["status"]), endpoint["statusReason"])),
            ("circuit", _with(state(circuit["state"]), _failing(endpoint))),
            ("policy", json.dumps(endpoint["policy"]) if endpoint["policy"] is not None else "the channel's"),
            ("circuit settings", json.dumps(circuit["settings"]) if circuit["settings"] is not None else None),
            ("alert settings", json.dumps(endpoint["alerts"]) if endpoint["alerts"] is not None else None),
            ("requests at a time", str(endpoint["maxInFlight"]) if endpoint["maxInFlight"] is not None else None),
            ("rate limit", f"{endpoint['rateLimit']:g} a second" if endpoint["rateLimit"] is not None else None),
            ("signatures", " ".join(endpoint["signatures"] or ())),
            ("public keys", " ".join(key["publicKey"] for key in endpoint["publicKeys"])),
            ("format", endpoint["format"]),
            ("headers", "  ".join(endpoint["headers"])),
            ("auth", _auth(endpoint["auth"])),
            ("metadata", json.dumps(endpoint["metadata"]) if endpoint["metadata"] else None),
            ("created", when(endpoint["createdAt"])),
        ]
    )


def _auth(auth: EndpointAuth | None) -> str | None:
    """How requests authenticate: `basic, username everhook`."""
    if auth is None:
        return None
    return ", ".join([auth["type"], *(f"{name} {value}" for name, value in auth.items() if name != "type")])


def _what_it_has(mode: Mode) -> str:
    """What a mode has instead of a URL."""
    if mode is Mode.INTERNAL:
        return "what it does is in --handler"
    return "people decide about its messages" if mode is Mode.INBOX else "consumers take its messages"


def _where(endpoint: Endpoint) -> str:
    """Its URL, or what it is called and how it receives without one."""
    handler = _handler(endpoint)
    kind = f": {handler['kind']}" if handler is not None else ""
    return endpoint["url"] or f"{visible(endpoint['description'])} ({endpoint['mode']}{kind})".lstrip()


def _handler(endpoint: Endpoint) -> HandlerOptions | None:
    options = endpoint["options"]
    return options.get("handler") if options is not None else None


def _mode(endpoint: Endpoint) -> str:
    if endpoint["mode"] == "internal":
        return f"internal: {json.dumps(_handler(endpoint), ensure_ascii=False)}"
    if endpoint["mode"] == "inbox":
        return f"inbox; tasks: everhook tasks list --inbox {endpoint['endpointGid']}"
    options = "".join(f", {name} {value}" for name, value in (endpoint["options"] or {}).items())
    return f"{endpoint['mode']}{options}; consumers: everhook consume --endpoint {endpoint['endpointGid']}"


def _failing(endpoint: Endpoint) -> str:
    circuit = endpoint["circuit"]
    if not circuit["failures"]:
        return ""
    until = f", no requests until {when(circuit['until'])}" if circuit["until"] else ""
    return f"{counted(circuit['failures'], 'failure')} in a row, failing since {age(circuit['failingSince'])}{until}"


def _with(shown: Text, more: str) -> Text:
    return Text.assemble(shown, f"  {printable(more)}") if more else shown


def _created(endpoint: EndpointCreated) -> Group:
    once: list[tuple[str, Text | str | None]] = [("subscription", endpoint["subscriptionGid"])]
    if endpoint["secret"]:
        once.append(("secret", _secret(endpoint["secret"])))
    return Group(_card(endpoint), pairs(once))


def _rotated(rotated: SecretRotated) -> Table:
    return pairs(
        [
            ("endpoint", rotated["endpointGid"]),
            ("secret", _secret(rotated["secret"])),
            ("old secrets sign until", when(rotated["previousUntil"])),
            ("public keys", " ".join(key["publicKey"] for key in rotated["publicKeys"])),
        ]
    )


def _secret(secret: str) -> Text:
    return Text.assemble((secret, "bold"), ("  shown only once", "dim"))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"--header is 'Name: value', not {text!r}")
    return name.strip(), value.strip()
