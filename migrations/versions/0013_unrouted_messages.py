"""An index of messages that no endpoint took"""

from everhook.storage.online_schema import create_index, drop_index

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_message_unrouted", "message", ["gid"], where="is_unrouted")


def downgrade() -> None:
    drop_index("ix_message_unrouted", "message")
