"""Indexes for lists filtered by channel or by type"""

from everhook.storage.online_schema import create_index, drop_index

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
        create_index(name, table, [column, "gid"])


def downgrade() -> None:
    for name, table, _ in reversed(INDEXES):
        drop_index(name, table)
