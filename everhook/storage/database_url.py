"""The database's URL: from the usual form to the one that SQLAlchemy takes."""

import re
from urllib.parse import parse_qsl

from asyncpg.connect_utils import SessionAttribute
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_SQLITE = re.compile(r"sqlite\+aiosqlite:///[^?]*[^?/]")
_POSTGRESQL = re.compile(
    r"postgresql\+asyncpg://([^:/@]*(:[^@]*)?@)?"  # a password may have any character except @, as SQLAlchemy takes it
    r"(\[[^/?@]+\]|[^/:?@]+)?(:(?P<port>[0-9]{1,5}))?(/[^?@]*)?(\?(?P<parameters>[^@]*))?"
)
_PARAMETERS = (
    *("sslmode", "host", "port", "passfile", "service", "servicefile", "target_session_attrs", "krbsrvname", "gsslib"),
    "prepared_statement_cache_size",
)
"""Those of asyncpg whose values are texts, and SQLAlchemy's own."""

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def with_async_driver(url: str) -> str:
    """Accept the usual URLs (`postgresql://…?sslmode=require`, `sqlite:///…`) and add the driver.

    Raises ValueError, whose text holds no part of the URL: it may contain a password.
    """
    scheme, separator, rest = url.partition("://")
    # libpq's name of the parameter; asyncpg calls it `ssl` and takes the same values
    rest = rest.replace("?sslmode=", "?ssl=").replace("&sslmode=", "&ssl=")
    url = _DRIVERS.get(scheme, scheme) + separator + rest
    postgresql = _POSTGRESQL.fullmatch(url)
    if postgresql is not None and 0 < int(postgresql["port"] or 1) < 65_536:
        _check_parameters(dict(parse_qsl(postgresql["parameters"] or "", keep_blank_values=True)))
        _check_values(url)
    elif not _SQLITE.fullmatch(url):
        hint = " (an @ inside of one of them is written %40)" if rest.count("@") > 1 else ""
        raise ValueError(f"not postgresql://user:password@host/name{hint} or sqlite:///file")
    return url


def _check_values(url: str) -> None:
    """Have SQLAlchemy read the parameters. Its errors repeat their values."""
    parsed = make_url(url)
    try:
        _, options = parsed.get_dialect()().create_connect_args(parsed)
    except (SQLAlchemyError, ValueError, TypeError, AssertionError):
        options = {"port": 0}
    ports = options.get("port", 1)
    if not all(0 < port < 65_536 for port in (ports if isinstance(ports, list) else [ports])):
        raise ValueError("its parameters host and port have values that cannot be used")
    if options.get("ssl", "disable") not in _SSL_MODES:
        raise ValueError(f"its parameter sslmode is one of {', '.join(_SSL_MODES)}")
    if options.get("target_session_attrs", "any") not in list(SessionAttribute):
        raise ValueError(f"its parameter target_session_attrs is one of {', '.join(SessionAttribute)}")


def _check_parameters(given: dict[str, str]) -> None:
    if not given.keys() <= {"ssl", *_PARAMETERS} or not given.get("prepared_statement_cache_size", "0").isdecimal():
        raise ValueError(f"its parameters may be {', '.join(_PARAMETERS)} (a number)")
