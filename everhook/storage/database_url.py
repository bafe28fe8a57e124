"""The database's URL: from the usual form to the one that SQLAlchemy takes."""

import re
from urllib.parse import parse_qsl

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_SQLITE = re.compile(r"sqlite\+aiosqlite:///[^?]+(\?.*)?")
_POSTGRESQL = re.compile(
    r"postgresql\+asyncpg://([^:/]*(:[^@]*)?@)?"  # a password may have any character except @, as SQLAlchemy takes it
    r"(\[[^/?]+\]|[^/:?]+)?(:(?P<port>[0-9]{1,5}))?(/[^?]*)?(\?(?P<parameters>.*))?"
)
_PARAMETERS = (
    *("sslmode", "host", "port", "passfile", "service", "servicefile", "target_session_attrs", "krbsrvname", "gsslib"),
    "prepared_statement_cache_size",
)
"""Those of asyncpg whose values are texts, and SQLAlchemy's own."""


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
    elif not _SQLITE.fullmatch(url):
        raise ValueError("not postgresql://user:password@host/name or sqlite:///file")
    return url


def _check_parameters(given: dict[str, str]) -> None:
    if not given.keys() <= {"ssl", *_PARAMETERS} or not given.get("prepared_statement_cache_size", "0").isdecimal():
        raise ValueError(f"its parameters may be {', '.join(_PARAMETERS)} (a number)")
