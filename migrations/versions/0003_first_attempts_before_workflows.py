"""First attempts before workflows: deliveries that wait for a history workflow, and parked deliveries without a
workflow"""

import sqlalchemy as sa
from alembic import op

from everhook.storage.online_schema import replace_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX, TABLE = "ix_delivery_undispatched", "delivery"
BEFORE = "dispatched_at IS NULL"
AFTER = "dispatched_at IS NULL AND status <> 'parked'"


def upgrade() -> None:
    replace_index(INDEX, TABLE, ["gid"], where=AFTER)
    op.create_table(
        "pending_history",
        sa.Column("delivery_gid", sa.String(), nullable=False),
        sa.Column("settled_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("delivery_gid"),
    )


def downgrade() -> None:
    replace_index(INDEX, TABLE, ["gid"], where=BEFORE)
    op.drop_table("pending_history")
