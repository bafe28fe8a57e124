"""The database's URL: from the usual form to the one that SQLAlchemy takes."""

import re
from urllib.parse import parse_qsl

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

_SESSIONS = ("any", "primary", "standby", "prefer-standby", "read-write", "read-only")
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
        _check_parameters(parse_qsl(postgresql["parameters"] or "", keep_blank_values=True))
    elif not _SQLITE.fullmatch(url):
        hint = " (an @ inside of one of them is written %40)" if rest.count("@") > 1 else ""
        raise ValueError(f"not postgresql://user:password@host/name{hint} or sqlite:///file")
    return url


def _check_parameters(pairs: list[tuple[str, str]]) -> None:
    """Raise ValueError for what SQLAlchemy or asyncpg could not use. Their own errors repeat the values."""
    given = dict(pairs)
    if not given.keys() <= {"ssl", *_PARAMETERS} or not given.get("prepared_statement_cache_size", "0").isdecimal():
        raise ValueError(f"its parameters may be {', '.join(_PARAMETERS)} (a number)")
    if len(given) < len(pairs):
        raise ValueError("each of its parameters may be given once; several hosts are comma-separated")
    hosts, ports = given.get("host", "").split(","), given.get("port", "").split(",")
    if (len(hosts) > 1 or "port" in given) and (len(hosts) != len(ports) or not all(map(_is_port, ports))):
        raise ValueError("its parameter port has one port from 1 to 65535 for each host")
    if given.get("ssl", "prefer") not in _SSL_MODES:
        raise ValueError(f"its parameter sslmode is one of {', '.join(_SSL_MODES)}")
    if given.get("target_session_attrs", "any") not in _SESSIONS:
        raise ValueError(f"its parameter target_session_attrs is one of {', '.join(_SESSIONS)}")


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 0 < int(text) < 65_536
