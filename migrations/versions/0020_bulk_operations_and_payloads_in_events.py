"""Bulk operations on dead letters among the batches, and payloads in events about dead letters"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_OF_REPLAYS = {
    "channel": sa.String(),
    "mode": sa.String(32),
    "since": sa.DateTime(timezone=True),
    "until": sa.DateTime(timezone=True),
}
"""What each replay of a channel has, and not each bulk operation."""


def upgrade() -> None:
    """Constraints are dropped and defaults are constants, so that no table is rewritten on PostgreSQL."""
    count = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    with op.batch_alter_table("batch") as batch_op:
        batch_op.add_column(sa.Column("kind", sa.String(32), nullable=False, server_default="channel_replay"))
        batch_op.add_column(sa.Column("selection", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("failed", count, nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("error", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True))
        for name, type_ in _OF_REPLAYS.items():
            batch_op.alter_column(name, existing_type=type_, nullable=True)
    op.add_column("subscription", sa.Column("include_payload", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Bulk operations are removed from the list; those that Temporal runs go on."""
    op.drop_column("subscription", "include_payload")
    op.execute(sa.text("DELETE FROM batch WHERE kind <> 'channel_replay'"))
    with op.batch_alter_table("batch") as batch_op:
        for name, type_ in _OF_REPLAYS.items():
            batch_op.alter_column(name, existing_type=type_, nullable=False)
        for name in ("cancel_requested_at", "error", "failed", "selection", "kind"):
            batch_op.drop_column(name)
