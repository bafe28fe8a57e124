"""Defaults and choices in forms of inboxes are texts, numbers or booleans"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_endpoint = sa.table(
    "endpoint", sa.column("gid", sa.String()), sa.column("mode", sa.String()), sa.column("options", sa.JSON())
)


def upgrade() -> None:
    """An earlier version stored lists and objects, too. Those that were nested deeply fit in no response, so that each
    list with such an endpoint failed."""
    connection = op.get_bind()
    inboxes = sa.select(_endpoint.c.gid, _endpoint.c.options).where(_endpoint.c.mode == "inbox")
    for gid, options in connection.execute(inboxes).all():
        if _repaired(options):
            connection.execute(sa.update(_endpoint).where(_endpoint.c.gid == gid).values(options=options))


def downgrade() -> None:
    """What was removed was of no use."""


def _repaired(options: dict[str, Any]) -> bool:
    """Whether something was removed."""
    fields = (((options.get("task") or {}).get("form") or {}).get("properties") or {}).values()
    found = False
    for field in fields:
        if not _is_scalar(field.get("default", "")):
            del field["default"]
            found = True
        choices = field.get("enum", [])
        if not all(map(_is_scalar, choices)):
            field["enum"] = [choice for choice in choices if _is_scalar(choice)]
            if not field["enum"]:
                del field["enum"]
            found = True
    return found


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)
