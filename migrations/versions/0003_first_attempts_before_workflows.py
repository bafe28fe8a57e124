"""First attempts before workflows: deliveries that wait for a history workflow, and parked deliveries without a
workflow"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX, TABLE = "ix_delivery_undispatched", "delivery"
BEFORE = sa.text("dispatched_at IS NULL")
AFTER = sa.text("dispatched_at IS NULL AND status <> 'parked'")


def upgrade() -> None:
    op.create_table(
        "pending_history",
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("delivery_gid"),
    )
    op.drop_index(INDEX, table_name=TABLE)
    op.create_index(INDEX, TABLE, ["gid"], unique=False, postgresql_where=AFTER, sqlite_where=AFTER)


def downgrade() -> None:
    op.drop_index(INDEX, table_name=TABLE)
    op.create_index(INDEX, TABLE, ["gid"], unique=False, postgresql_where=BEFORE, sqlite_where=BEFORE)
    op.drop_table("pending_history")
