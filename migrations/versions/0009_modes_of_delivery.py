"""Modes of endpoints, the queue of pulled deliveries, and who published a message"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_LEASED = sa.text("consumer IS NOT NULL")
_UNGUARDED = sa.text("guarded_at IS NULL")


def upgrade() -> None:
    op.add_column("endpoint", sa.Column("mode", sa.String(32), nullable=False, server_default="http"))
    op.add_column("endpoint", sa.Column("options", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("message", sa.Column("published_by", sa.String(), nullable=True))
    op.add_column("pending_history", sa.Column("signal", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "pull_queue",
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("queued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("window_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("guarded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("consumer", sa.String(), nullable=True),
        sa.Column("consumer_address", sa.String(), nullable=True),
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("item_sha256", sa.String(), nullable=True),
        sa.Column("is_last", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_gid"),
    )
    op.create_index("ix_pull_queue_available", "pull_queue", ["endpoint_gid", "available_at"])
    op.create_index(
        "ix_pull_queue_leased",
        "pull_queue",
        ["endpoint_gid", "lease_until"],
        postgresql_where=_LEASED,
        sqlite_where=_LEASED,
    )
    op.create_index(
        "ix_pull_queue_unguarded", "pull_queue", ["queued_at"], postgresql_where=_UNGUARDED, sqlite_where=_UNGUARDED
    )


def downgrade() -> None:
    op.drop_table("pull_queue")
    op.drop_column("pending_history", "signal")
    op.drop_column("message", "published_by")
    op.drop_column("endpoint", "options")
    op.drop_column("endpoint", "mode")
