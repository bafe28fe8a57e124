"""Indexes for lists filtered by channel or by type"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = (
    ("ix_delivery_channel", "delivery", "channel"),
    ("ix_delivery_type", "delivery", "event_type"),
    ("ix_message_type", "message", "event_type"),
)


def upgrade() -> None:
    for name, table, column in INDEXES:
        op.create_index(name, table, [column, "gid"], unique=False)


def downgrade() -> None:
    for name, table, _ in reversed(INDEXES):
        op.drop_index(name, table_name=table)
