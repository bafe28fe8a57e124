"""Replays of channels"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_RUNNING = sa.text("state = 'running'")


def upgrade() -> None:
    count = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "batch",
        sa.Column("gid", sa.String(), nullable=False),
        sa.Column("tenant_gid", sa.String(), nullable=True),
        sa.Column("tenant_bound", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("key_gid", sa.String(), nullable=True),
        sa.Column("published_by", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("mode", sa.String(32), nullable=False),
        sa.Column("endpoint_gid", sa.String(), nullable=True),
        sa.Column("event_types", sa.JSON(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("position", sa.String(), nullable=False),
        sa.Column("matched", count, nullable=False),
        sa.Column("matched_at_least", sa.Boolean(), nullable=False),
        sa.Column("started", count, nullable=False),
        sa.Column("skipped", count, nullable=False),
        sa.Column("erased", count, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("gid"),
    )
    op.create_index("ix_batch_tenant", "batch", ["tenant_gid", "gid"])
    op.create_index("ix_batch_running", "batch", ["updated_at"], postgresql_where=_RUNNING, sqlite_where=_RUNNING)


def downgrade() -> None:
    op.drop_table("batch")
