"""Who looks at the dashboard: a signed, short-lived session in a cookie, checked again on every request.

The cookie names the key that signed in, never the key itself. The key is looked up each time, so a session dies in
the moment in which its key is revoked. A portal's session names a tenant instead and lives for an hour at most.

Each session and each link has a number, the gid of an audit entry that is not there yet: the entry which records that
the session was ended, or the link opened. So both are known to every process at once, and neither happens twice.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from everhook.ids import Kind, new_gid
from everhook.settings import Settings

LIFETIME = timedelta(hours=12)
PORTAL_LIFETIME = timedelta(hours=1)
SESSION_COOKIE, PORTAL_COOKIE = "everhook_session", "everhook_portal"
DASHBOARD, PORTAL_SESSION, PORTAL_LINK, TASK_LINK = "dashboard", "portal", "portal-link", "task-link"
"""The kinds of tokens. One is never taken for another."""

_ALGORITHM = "HS256"


@dataclass(frozen=True)
class Session:
    """What a token says. `subject` is the gid of an API key; in a portal that of a tenant, with the name of a person
    after it where one was given; of a link to a task the tenant, the task and the person."""

    kind: str
    subject: str
    number: str
    expires_at: datetime


class Sessions:
    """Makes and reads tokens. Every API process of an installation derives the same key from what they share."""

    def __init__(self, settings: Settings) -> None:
        self._keys = [OctKey.import_key(secret) for secret in _derived(settings)]

    def issue(self, kind: str, subject: str, lifetime: timedelta) -> tuple[str, Session]:
        """A token, and what it says."""
        session = Session(kind, subject, new_gid(Kind.AUDIT), datetime.now(UTC) + lifetime)
        claims = {
            "aud": kind,
            "sub": subject,
            "jti": session.number,
            "exp": int(session.expires_at.timestamp()),
        }
        return jwt.encode({"alg": _ALGORITHM}, claims, self._keys[0]), session

    def read(self, kind: str, token: str) -> Session | None:
        """None for what is not ours, is of another kind, or has ended."""
        for key in self._keys:
            try:
                claims = jwt.decode(token, key, algorithms=[_ALGORITHM]).claims
                _registry(kind).validate(claims)
            except (JoseError, ValueError):
                continue
            return Session(kind, claims["sub"], claims["jti"], datetime.fromtimestamp(claims["exp"], UTC))
        return None

    def form_token(self, session: Session) -> str:
        """What each form of a session carries, and no other site can know."""
        return hmac.new(self._keys[0].raw_value, f"form\0{session.number}".encode(), hashlib.sha256).hexdigest()

    def is_form_token(self, session: Session, presented: str) -> bool:
        return hmac.compare_digest(self.form_token(session).encode(), presented.encode())


def _registry(kind: str) -> jwt.JWTClaimsRegistry:
    return jwt.JWTClaimsRegistry(aud={"essential": True, "value": kind}, exp={"essential": True})


def _derived(settings: Settings) -> list[bytes]:
    """One key for each master key, the newest first. A process without any has sessions of its own."""
    masters = [key.get_secret_value() for key in settings.master_keys] or [secrets.token_urlsafe(32)]
    return [hmac.new(master.encode(), b"everhook dashboard sessions", hashlib.sha256).digest() for master in masters]
