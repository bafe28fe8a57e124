"""How requests to an endpoint authenticate: `auth` as a request gives it, as it is stored, and the header it adds."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from everhook.credentials.headers import AUTHORIZATION, MAX_TOTAL_BYTES, fold, name_fault, value_fault
from everhook.errors import InvalidField

Header = tuple[str, str]


class AuthType(StrEnum):
    """How requests to an endpoint authenticate. `oauth2`: with an access token for client credentials."""

    BEARER = "bearer"
    BASIC = "basic"
    HEADER = "header"
    OAUTH2 = "oauth2"


@dataclass(frozen=True)
class _Parts:
    """The fields of a type, as the API spells them. Exactly one of them is secret."""

    secret: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


_PARTS: Mapping[AuthType, _Parts] = {
    AuthType.BEARER: _Parts("token"),
    AuthType.BASIC: _Parts("password", ("username",)),
    AuthType.HEADER: _Parts("value", ("name",)),
    AuthType.OAUTH2: _Parts("clientSecret", ("tokenUrl", "clientId"), ("scope", "audience")),
}


def fields_of(kind: AuthType) -> tuple[str, ...]:
    """All fields of a type, the secret last."""
    parts = _PARTS[kind]
    return (*parts.required, *parts.optional, parts.secret)


# For `fullmatch`: `$` would let a line feed at the end pass.
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_ASCII = re.compile(r"[\x20-\x7e]{1,1024}")  # VSCHAR of RFC 6749, appendix A
_SCOPE = re.compile(r"(?=.{1,1024}\Z)[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*")
_NO_CONTROL = re.compile(r"[^\x00-\x1f\x7f-\x9f]{0,1024}")
_USERNAME = re.compile(r"[^\x00-\x1f\x7f-\x9f:]{1,255}")  # RFC 7617 section 2: no colon

_RULES: Mapping[str, tuple[re.Pattern[str], str]] = {
    "token": (_TOKEN, "takes 1 to 4,096 printable ASCII characters without blanks"),
    "username": (_USERNAME, "takes 1 to 255 characters, none of them a colon or a control character"),
    "password": (_NO_CONTROL, "takes at most 1,024 characters, none of them a control character"),
    "clientId": (_ASCII, "takes 1 to 1,024 printable ASCII characters"),
    "clientSecret": (_ASCII, "takes 1 to 1,024 printable ASCII characters"),
    "scope": (_SCOPE, "takes names without quotes or backslashes, one blank between two, of 1,024 characters in all"),
    "audience": (_ASCII, "takes 1 to 1,024 printable ASCII characters"),
}


@dataclass(frozen=True)
class EndpointAuth:
    """The authentication of an endpoint. `parts` are those that may be shown, as the API spells them."""

    type: AuthType
    parts: Mapping[str, str]
    secret: str = field(repr=False)

    @classmethod
    def stored(cls, shown: Mapping[str, str], secret: str) -> "EndpointAuth":
        """From what `shown` returned, and the decrypted secret. Raises ValueError for a type that is not known."""
        parts = dict(shown)
        return cls(AuthType(parts.pop("type")), parts, secret)

    def shown(self) -> dict[str, str]:
        """All but the secret, as the API shows it and the database stores it."""
        return {"type": self.type.value, **self.parts}

    @property
    def header_name(self) -> str:
        return header_name(self.shown())

    def header(self, access_token: str = "") -> Header:
        """The header of a request. Only `oauth2` takes a token."""
        match self.type:
            case AuthType.HEADER:
                return self.header_name, self.secret
            case AuthType.BASIC:
                return AUTHORIZATION, basic(self.parts["username"], self.secret)
            case AuthType.BEARER:
                return AUTHORIZATION, f"Bearer {self.secret}"
            case AuthType.OAUTH2:
                return AUTHORIZATION, f"Bearer {access_token}"


def basic(username: str, password: str) -> str:
    """The value of `Authorization` by RFC 7617, in UTF-8."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def header_name(shown: Mapping[str, str]) -> str:
    """The name of the header that `auth` adds. `shown` as in `EndpointAuth.shown`."""
    return shown["name"] if shown["type"] == AuthType.HEADER else AUTHORIZATION


def parse_auth(document: Mapping[str, str]) -> EndpointAuth:
    """`auth` of a request. The token URL is not looked up. Raises InvalidField, which repeats no value."""
    given = dict(document)
    kind = AuthType(given.pop("type"))
    parts = _PARTS[kind]
    for name in given:
        if name not in fields_of(kind):
            raise InvalidField(f"auth.{name}", f"has no meaning for the type {kind}")
    for name in (*parts.required, parts.secret):
        if name not in given:
            raise InvalidField(f"auth.{name}", f"is required for the type {kind}", "missing")
    for name, value in given.items():
        if name in _RULES and not _RULES[name][0].fullmatch(value):
            raise InvalidField(f"auth.{name}", _RULES[name][1])
    if kind is AuthType.HEADER:
        _check_header(given["name"], given["value"])
    secret = given.pop(parts.secret)
    return EndpointAuth(kind, given, secret)


def _check_header(name: str, value: str) -> None:
    if fault := name_fault(name):
        raise InvalidField("auth.name", fault)
    if fault := value_fault(name, value) if value else "cannot be empty":
        raise InvalidField("auth.value", fault)
    if len(name) + len(value) > MAX_TOTAL_BYTES:
        raise InvalidField("auth.value", f"takes more than {MAX_TOTAL_BYTES} bytes with its name")


def check_one_each(shown: Mapping[str, str] | None, custom: Mapping[str, str], *, changed: str) -> None:
    """Raise InvalidField if `auth` and a custom header set the same header. `changed`: the field that is blamed."""
    if shown is None:
        return
    name = fold(header_name(shown))
    for other in custom:
        if fold(other) == name:
            raise InvalidField(changed, f"the header {other} would be set twice, by `auth` and by `headers`")
