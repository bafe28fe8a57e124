"""64-bit counters, responses to calls with an idempotency key, and the cost of subscriptions"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from alembic import op

from everhook.storage.online_schema import create_index, drop_index, widen_integers

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COUNTERS: Mapping[str, Sequence[str]] = {
    "channel": ["routes_version"],
    "circuit": ["failures", "openings", "version"],
    "endpoint": ["version"],
    "endpoint_minute": [
        "delivered", "retried", "rejected", "duration_ms", "under_100", "under_500", "under_2000", "slower"
    ],
    "endpoint_minute_error": ["count"],
    "receipt": ["seq"],
    "receipt_hash": ["index"],
    "receipt_seal": ["size"],
}  # fmt: skip


def upgrade() -> None:
    for table, columns in COUNTERS.items():
        widen_integers(table, columns)
    create_index("ix_subscription_tenant", "subscription", ["tenant_gid"])
    op.create_table(
        "idempotent_response",
        sa.Column("key_sha256", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("response", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key_sha256"),
    )
    op.create_index("ix_idempotent_response_created", "idempotent_response", ["created_at"])
    op.create_index("ix_idempotent_response_tenant", "idempotent_response", ["tenant_gid"])
    op.add_column("subscription", sa.Column("cost", sa.Integer(), nullable=False, server_default="1"))
    # Roughly, until it is changed: conditions have some 16 characters, and take two steps.
    op.execute(sa.text("UPDATE subscription SET cost = 1 + length(CAST(filter AS TEXT)) / 8 WHERE filter IS NOT NULL"))


def downgrade() -> None:
    drop_index("ix_subscription_tenant", "subscription")
    with op.batch_alter_table("subscription") as batch_op:
        batch_op.drop_column("cost")
    op.drop_index("ix_idempotent_response_tenant", table_name="idempotent_response")
    op.drop_index("ix_idempotent_response_created", table_name="idempotent_response")
    op.drop_table("idempotent_response")
    # Wide counters stay: a narrow one could be too small by now.
